"""The examples in the docstrings of the library run, and every public name has one."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import influence
from influence.studies import label_fixing, poisoning, sets

MODULES = sorted(
    module.name for module in pkgutil.walk_packages(influence.__path__, f"{influence.__name__}.")
)


def examples(thing):
    """The examples in the docstring of a class or function itself."""
    return doctest.DocTestParser().get_examples(thing.__doc__ or "")


@pytest.mark.parametrize("name", [influence.__name__, *MODULES])
def test_examples_of_a_module(name):
    module = importlib.import_module(name)
    runner, report = doctest.DocTestRunner(), []
    # An example has to import what it uses, so it sees nothing of its module.
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, globs={}):
        runner.run(test, out=report.append)
    assert runner.failures == 0, "".join(report)


@pytest.mark.parametrize("name", sorted({*influence.__all__} - {"targets"}))
def test_a_public_name_has_an_example(name):
    assert examples(getattr(influence, name))


@pytest.mark.parametrize("name", sorted({*influence.targets.__all__} - {"Target"}))
def test_a_target_has_an_example(name):
    assert examples(getattr(influence.targets, name))


@pytest.mark.parametrize(
    "module", [label_fixing, poisoning, sets], ids=lambda module: module.__name__
)
def test_a_public_function_of_a_study_has_an_example(module):
    for name, function in inspect.getmembers(module, inspect.isfunction):
        if function.__module__ == module.__name__ and not name.startswith("_"):
            assert examples(function), name


def test_a_wrong_example_is_found():
    """The runner is not one that lets everything pass."""
    [test] = doctest.DocTestFinder().find(wrong, "wrong", globs={})
    assert doctest.DocTestRunner().run(test, out=lambda _: None).failed == 1


def wrong():
    """
    >>> 1 + 1
    3
    """
