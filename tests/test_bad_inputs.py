"""Every public function refuses what it cannot handle, while tracing, and says what is allowed."""

import importlib
import pkgutil

import pytest

import tests.registries

MODULES = [
  importlib.import_module(f"tests.registries.{m.name}")
  for m in pkgutil.iter_modules(tests.registries.__path__)
]
BAD_INPUTS = [case for module in MODULES for case in getattr(module, "BAD_INPUTS", [])]


@pytest.mark.parametrize("case", BAD_INPUTS, ids=lambda c: f"{c.name}-{c.what}".replace(" ", "_"))
def test_refused_with_a_message(case):
  with pytest.raises(case.error, match=case.match):
    case.call()


def test_ids_are_unique():
  ids = [(case.name, case.what) for case in BAD_INPUTS]
  assert len(ids) == len(set(ids))
