import doctest
import inspect
import re
from importlib.util import find_spec

import pytest

import lss_rs
from lss_rs import _intervals, config, index, metrics, tuning

pytestmark = pytest.mark.inference

MODULES = [config, index, metrics, tuning, _intervals]
CLASSES = "Index", "LSSConfig", "IULOptions", "LSSLinear", "Patch", "Scorer", "Shards"
MADE_OTHERWISE = "Index", "Patch"
if find_spec("torch"):
    from lss_rs.torch import linear, scorer

    MODULES += [linear, scorer]
if find_spec("torch") and find_spec("transformers") and find_spec("tqdm"):
    from lss_rs.hf import decoding, patching, states

    MODULES += [decoding, patching, states]


@pytest.mark.parametrize("module", [lss_rs, *MODULES], ids=lambda module: module.__name__)
def test_examples_run(module):
    failed, tried = doctest.testmod(module)
    assert tried > 0 or module.__name__.startswith("lss_rs.hf.")  # which needs a model: the page on them runs
    assert failed == 0


def test_examples_of_what_is_compiled_run():
    runner = doctest.DocTestRunner()
    for test in doctest.DocTestFinder().find(lss_rs.Index.search, "search"):
        runner.run(test)
    assert runner.summarize() == (0, 4)


def test_what_is_compiled_has_the_options_of_what_it_calls():
    compiled, called = map(inspect.signature, (lss_rs.Index.search, lss_rs.Index._search))
    plain = [p.replace(annotation=p.empty) for p in called.parameters.values()]
    assert list(compiled.parameters.values())[1:] == plain[1:]


def public():
    for module in MODULES:
        for name, value in vars(module).items():
            told = not name.startswith("_") and name in getattr(module, "__all__", [name])
            if not told or getattr(value, "__module__", None) != module.__name__:
                continue
            if inspect.isfunction(value):
                yield f"{module.__name__}.{name}", value, inspect.signature(value)
            elif name in CLASSES:
                if name not in MADE_OTHERWISE:
                    yield f"{module.__name__}.{name}", value, inspect.signature(value)
                for method, member in vars(value).items():
                    function = getattr(member, "__func__", member)
                    if inspect.isfunction(function) and not method.startswith("_"):
                        yield f"{name}.{method}", function, inspect.signature(getattr(value, method))
    yield "Index.search", lss_rs.Index.search, inspect.signature(lss_rs.Index.search)


@pytest.mark.parametrize(("function", "signature"), [pytest.param(f, s, id=name) for name, f, s in public()])
def test_parameters_are_those_documented(function, signature):
    parameters = signature.parameters.values()
    names = [p.name for p in parameters if p.name != "self" and p.kind is not p.VAR_KEYWORD]
    text = inspect.cleandoc(function.__doc__)
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\w[^\n]*\n-+\n|\Z)", text, re.DOTALL | re.MULTILINE)
    documented = re.findall(r"^(\w[\w, ]*) : ", section[1] if section else "", re.MULTILINE)
    listed = [name for group in documented for name in group.split(", ")]
    assert listed == names
