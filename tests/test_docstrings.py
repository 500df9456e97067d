import doctest
import inspect
import re

import pytest

import lss_rs
from lss_rs import _intervals, config, index, metrics

pytestmark = pytest.mark.inference

MODULES = config, index, metrics, _intervals


@pytest.mark.parametrize("module", [lss_rs, *MODULES], ids=lambda module: module.__name__)
def test_examples_run(module):
    failed, tried = doctest.testmod(module)
    assert tried > 0
    assert failed == 0


def public():
    for module in MODULES:
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
                continue
            if inspect.isfunction(value):
                yield f"{module.__name__}.{name}", value, inspect.signature(value)
            elif name in ("Index", "LSSConfig", "IULOptions"):
                if name != "Index":
                    yield f"{module.__name__}.{name}", value, inspect.signature(value)
                for method, member in vars(value).items():
                    function = getattr(member, "__func__", member)
                    if inspect.isfunction(function) and not method.startswith("_"):
                        yield f"{name}.{method}", function, inspect.signature(getattr(value, method))


@pytest.mark.parametrize(("function", "signature"), [pytest.param(f, s, id=name) for name, f, s in public()])
def test_parameters_are_those_documented(function, signature):
    names = [name for name in signature.parameters if name != "self"]
    text = inspect.cleandoc(function.__doc__)
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\w[^\n]*\n-+\n|\Z)", text, re.DOTALL | re.MULTILINE)
    documented = re.findall(r"^(\w[\w, ]*) : ", section[1] if section else "", re.MULTILINE)
    listed = [name for group in documented for name in group.split(", ")]
    assert listed == names
