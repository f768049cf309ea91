"""What factories make lowers for accelerators: solvers by a run, transformations by an update."""

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxopt_robust import solvers, transforms
from tests.registries.solvers import PROBLEMS, SOLVERS
from tests.registries.transforms import PAIRS, TRANSFORMS
from tests.registries.transforms_sharpness import SHARPNESS

PARAMS = {"w": jnp.ones((2, 4)), "a": jnp.zeros(()), "b": jnp.zeros(())}
MATRICES = {"w": jnp.ones((2, 4)), "v": jnp.full((1, 4), 0.25)}


def assert_lowers(fun, *args):
  exported = jax.export.export(jax.jit(fun), platforms=["cuda", "tpu"])(*args)
  assert set(exported.platforms) == {"cuda", "tpu"}


@pytest.mark.parametrize("case", SOLVERS, ids=lambda case: case.name)
def test_a_run_of_a_solver_lowers(case):
  problem = next(p for p in PROBLEMS if p.name == case.supports[0])
  start = jnp.zeros(problem.optimum.size)

  def run(start, factor):
    hyper, data = case.pack(problem, jax.tree.map(lambda h: h * factor, problem.hyper))
    return solvers.run_until(case.make(problem), start, hyper, *data, tol=1e-3, max_steps=9)

  assert_lowers(run, start, jnp.ones(()))


OTHERS = {
  "pesg": (lambda: transforms.pesg(), PARAMS, {}),
  "pdsca": (lambda: transforms.pdsca(), PARAMS, {"phase": 1}),
  "sparse_flow": (lambda: transforms.sparse_flow(optax.sgd(0.1), PAIRS)[0], MATRICES, {}),
  "progressive_nm": (
    lambda: transforms.progressive_nm(
      optax.adam(0.1),
      n=1,
      m=2,
      axis=-1,
      decay=transforms.exponential_mask_decay(0.1, start=1, end=9),
      stages=transforms.sdgf_stages("geometric", 1, 2, total=9, dense=1, num_stages=2),
    )[0],
    MATRICES,
    {},
  ),
  "armijo_descent": (
    lambda: transforms.armijo_descent(),
    PARAMS,
    {"value": 1.0, "value_fn": lambda p: optax.tree.norm(p, squared=True)},
  ),
  "scale_by_gns": (
    lambda: transforms.scale_by_gns(
      solvers.exact_curvature(lambda p: optax.tree.norm(p, squared=True))
    ),
    PARAMS,
    {"value": 1.0, "value_fn": lambda p: optax.tree.norm(p, squared=True)},
  ),
  "min_max": (
    lambda: transforms.min_max(optax.sgd(0.1), optax.sgd(0.1), {"w": "min", "v": "max"}),
    MATRICES,
    {},
  ),
}
ALL = [
  (case.name, lambda case=case: case.make(**case.hyper, **case.fixed), MATRICES, case.extra)
  for case in [*TRANSFORMS, *SHARPNESS]
] + [
  (name, make, params, lambda grads, extra=extra: extra)
  for name, (make, params, extra) in OTHERS.items()
]


@pytest.mark.parametrize(
  ("make", "params", "extra"), [pytest.param(*rest, id=name) for name, *rest in ALL]
)
def test_an_update_of_a_transformation_lowers(make, params, extra):
  tx = make()

  def step(params, grads):
    updates, state = tx.update(grads, tx.init(params), params, **extra(grads))
    return optax.apply_updates(params, updates), state

  assert_lowers(step, params, params)
