import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.inference

OPTIONAL = ["torch", "scipy", "tqdm", "typer", "rich", "safetensors", "ml_dtypes", "transformers", "ray"]


def run(code):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def added():
    """Modules that importing lss_rs adds to numpy's."""
    code = "import json, sys, numpy; a = set(sys.modules); import lss_rs"
    return set(json.loads(run(f"{code}; print(json.dumps(sorted(set(sys.modules) - a)))")))


def test_nothing_but_numpy_is_imported(added):
    top = {name.partition(".")[0] for name in added}
    assert "lss_rs" in top
    assert not top - {"lss_rs"} - set(sys.stdlib_module_names)


def test_what_few_need_is_imported_when_it_is_needed(added):
    ours = {name.removeprefix("lss_rs.") for name in added if name.startswith("lss_rs.")}
    assert {"index", "learn", "tuning"} <= ours
    assert not ours & {"_demo_report", "_evaluate", "_files", "cli", "demo", "hf", "learn.iul", "torch"}
    slow = ["asyncio", "concurrent", "ctypes", "email", "http", "importlib.metadata", "multiprocessing"]
    slow += ["socket", "sqlite3", "ssl", "subprocess", "unittest", "urllib", "xml", "zipfile"]
    assert not {name for name in added for top in slow if f"{name}.".startswith(f"{top}.")}
    # Half as many again as there are: modules of the standard library import others, in each version its own.
    assert len(added) <= 48


def test_an_index_works_where_nothing_but_numpy_is_installed():
    run(f"""
import sys
for name in {OPTIONAL}:
    sys.modules[name] = None  # as if it were not installed
import pickle
import numpy as np
import lss_rs

rng = np.random.default_rng(0)
W = rng.standard_normal((300, 8), dtype=np.float32)
Q = rng.standard_normal((500, 8), dtype=np.float32)
index = lss_rs.Index.from_weights(W).fit(Q, [[int(i)] for i in np.arange(500) % 300])
index = pickle.loads(pickle.dumps(index))
labels = index.search(Q, 5).labels
assert lss_rs.metrics.precision_at_k(labels, index.search(Q, 5, exact=True).labels, 5) > 0.9
lss_rs.show_versions()
try:
    index.search(Q.astype(int))
except TypeError:
    pass
""")


def test_iul_without_torch_names_the_extra():
    run("""
import sys
sys.modules["torch"] = None  # as if it were not installed
import numpy as np
from lss_rs import Index, LSSConfig

index = Index.from_weights(np.eye(3), config=LSSConfig(method="iul"))
try:
    index.fit(np.eye(3), [0, 1, 2], progress=False)
except ImportError as error:
    assert "pip install 'lss-rs[torch]'" in str(error), error
else:
    raise AssertionError
assert not index.fitted
""")


def test_torch_layers_without_torch_name_the_extra():
    run("""
import sys
sys.modules["torch"] = None  # as if it were not installed
try:
    import lss_rs.torch
except ImportError as error:
    assert "pip install 'lss_rs[torch]'" in str(error), error
else:
    raise AssertionError
""")


def test_nothing_is_said_unasked():
    assert run("import logging, lss_rs; logging.getLogger('lss_rs').error('not shown')") == ""


def test_the_surface():
    names = json.loads(run("import json, lss_rs; print(json.dumps([*vars(lss_rs)]))"))
    exported = json.loads(run("import json, lss_rs; print(json.dumps(lss_rs.__all__))"))
    modules = {"config", "index", "learn", "tuning"}
    assert {name for name in names if not name.startswith("_")} - modules == {
        "FirstRead",
        "FormatError",
        "IULOptions",
        "Index",
        "LSSConfig",
        "ListPoint",
        "NotFittedError",
        "Observed",
        "OperatingPoint",
        "SearchResult",
        "ShortResultError",
        "TuneReport",
        "cpu_features",
        "get_num_threads",
        "metrics",
        "set_num_threads",
        "show_versions",
        "tune",
    }
    assert set(exported) == {name for name in names if not name.startswith("_")} - modules | {"__version__"}
