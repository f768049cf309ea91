"""The examples in docstrings of modules, classes and private functions; of public ones: beside."""

import doctest
import importlib
import pkgutil

import pytest

import jaxopt_robust as jr
from tests.recorded import FUNCTIONS, NAMES

PUBLIC = {f"{fn.__module__}.{fn.__name__}" for fn in FUNCTIONS.values()}


def other_examples():
  for found in [jr, *pkgutil.walk_packages(jr.__path__, "jaxopt_robust.")]:
    module = importlib.import_module(found.name) if hasattr(found, "name") else found
    for example in doctest.DocTestFinder(exclude_empty=True).find(module):
      if example.examples and example.name not in PUBLIC:
        yield pytest.param(example, id=example.name)


@pytest.mark.parametrize("example", list(other_examples()))
def test_example_runs(example):
  report = []
  example.globs.update(NAMES)  # as in ``recorded``
  failed, _ = doctest.DocTestRunner(verbose=False).run(example, out=report.append)
  assert not failed, "".join(report)
