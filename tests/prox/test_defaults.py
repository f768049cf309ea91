"""Strengths that are left out are 1."""

import inspect

import pytest

from jaxopt_robust import prox

FUNCTIONS = [name for name in prox.__all__ if name.startswith(("prox_", "penalty_"))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_defaults_are_1(name):
  """None is resolved to 1 in one place; numbers that stand in a signature must be 1 themselves."""
  parameters = inspect.signature(getattr(prox, name)).parameters
  if "scaling" in parameters:
    assert parameters["scaling"].default == 1.0
  second = [*parameters.values()][min(1, len(parameters) - 1)]
  if second.default is not second.empty:
    assert second.default in (None, 1.0, (1.0, 1.0))
