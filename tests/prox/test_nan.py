"""NaN in a hyper-parameter, the step or the data of the operators on arrays: NaN, not a branch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.registries import prox_groups, prox_max_norms, prox_spectral, prox_structured

CASES = [
  case
  for registry in (prox_groups, prox_max_norms, prox_spectral, prox_structured)
  for case in registry.SHAPED
  if not getattr(case, "tag", "") and case.name != "owl"  # weights: a NaN is refused as unordered
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_nan_spreads(case):
  x = 1.0 + np.arange(np.prod(case.shape), dtype=np.float32).reshape(case.shape)
  x = getattr(case, "onto", lambda v: v)(x)
  hyper, treedef = jax.tree.flatten(case.hyper)
  good = jnp.asarray([0.5, *hyper], jnp.float32)  # the step and the hyper-parameters
  bad = jnp.where(jnp.eye(good.size, dtype=bool), jnp.nan, good)

  with_nan = jnp.asarray(x).at[(0,) * x.ndim].set(jnp.nan)

  @jax.jit
  def run(rows, with_nan):
    @jax.vmap
    def both(row):
      hyper = jax.tree.unflatten(treedef, list(row[1:]))
      return case.prox(x, hyper, row[0]), case.value(x, hyper)

    return *both(rows), case.value(with_nan, case.hyper)

  points, values, of_nan = run(jnp.concatenate([good[None], bad]), with_nan)
  out, points, values = points[0], points[1:], values[1:]
  # Of one entry at least, and of all that the number has a say in: no entry may look like a result.
  assert np.isfinite(out).all()
  assert np.isnan(points).all(axis=tuple(range(1, points.ndim))).all()
  assert np.isnan(values[1:]).all()
  assert np.isnan(of_nan)
