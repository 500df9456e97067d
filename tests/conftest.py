"""Hypothesis profiles: 100 examples in the gate, 25 where it runs tests once more, 10,000 at night."""

import os
from importlib.util import find_spec
from itertools import islice

# Workers whose threads wait actively for each other take twice the time. Read by libraries on loading.
if "PYTEST_XDIST_WORKER" in os.environ:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")

import numpy as np
import pytest

try:
    from hypothesis import HealthCheck, settings
except ImportError:  # a bare environment runs the tests marked "inference", which do without
    pass
else:
    common = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
    settings.register_profile("default", max_examples=100, **common)
    settings.register_profile("again", max_examples=10, **common)
    settings.register_profile("nightly", max_examples=10_000, **common)
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


# A wheel is tested where numpy is alone; the harness of the benchmarks needs more.
_of_the_harness = ["test_benchmarks*.py", "test_bundles*.py", "test_engines.py", "test_records.py"]
collect_ignore_glob = [] if find_spec("tqdm") else _of_the_harness


@pytest.fixture(scope="session", autouse=True)
def tuning_counts():
    """Tuning goes by what searches do, not by clocks: what it chooses is then the same on a busy machine.

    The value is the clock.
    """
    from lss_rs import tuning

    clock = tuning._time

    def time(trials, judge, _objective, _num_threads):
        def us(point):
            stats = judge.at(point).search(judge.Q[:200], judge.k, stats=True).stats
            a_label = np.where(stats["step"] == 0, 0.1, 1.0)
            cost = stats["entries"] / 2 + a_label * stats["candidates"] + 20 * stats["rescored"]
            return 1e-2 * float(np.where(stats["step"] == 2, cost / 4, cost).mean())

        return [trial._replace(us=us(trial.point)) for trial in trials]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "_time", time)
        yield clock


def tiny_llama(vocabulary, width, **options):
    """A randomly initialised transformers model of two layers, the same at every call."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        **options,
    )
    return transformers.LlamaForCausalLM(config)


def documents(split, n):
    """Some documents of the demo's corpus, as far as tests read them."""
    from lss_rs import demo

    return [text[:400] for _, text in islice(demo.demo_documents(split), n)]


@pytest.fixture(scope="session")
def smollm2():
    """The real model and its tokenizer; who changes them puts them back."""
    from lss_rs import demo

    try:
        demo.smollm2_file()
    except ModuleNotFoundError as error:
        pytest.skip(str(error))
    return demo.load_smollm2()
