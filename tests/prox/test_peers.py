"""Equality with the operators of skglm and pyproximal, where they state the same problem."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import prox

pytestmark = [pytest.mark.peer, pytest.mark.x64]
POINTS = np.concatenate([np.linspace(-6, 6, 241) + 1e-3, [0.0]])
STEP = 0.7


def entrywise(function):
  return np.array([function(v) for v in POINTS])


# (ours, hyper-parameters, skglm's function of a number). Its functions for the powers and for the
# log-sum take the product of step and strength.
SKGLM = {
  "lasso": (0.8, lambda f, v: f.ST(v, STEP * 0.8)),
  "non_negative_lasso": (0.8, lambda f, v: f.ST(v, STEP * 0.8, True)),
  "box": ((-0.5, 1.3), lambda f, v: f.box_proj(v, -0.5, 1.3)),
  "mcp": ((0.8, 3.0), lambda f, v: f.prox_MCP(v, STEP, 0.8, 3.0)),
  "scad": ((0.8, 3.7), lambda f, v: f.prox_SCAD(v, STEP, 0.8, 3.7)),
  "half": (0.8, lambda f, v: f.prox_05(v, STEP * 0.8)),
  "two_thirds": (0.8, lambda f, v: f.prox_2_3(v, STEP * 0.8)),
  "log_sum": ((0.8, 1.1), lambda f, v: f.prox_log_sum(v, STEP * 0.8, 1.1)),
}


@pytest.mark.parametrize("name", SKGLM)
def test_equals_skglm(name):
  functions = pytest.importorskip("skglm.utils.prox_funcs")
  hyper, peer = SKGLM[name]
  ours = getattr(prox, f"prox_{name}")(jnp.asarray(POINTS), hyper, STEP)
  np.testing.assert_allclose(ours, entrywise(lambda v: peer(functions, v)), atol=1e-12)


def test_log_sum_that_jumps_equals_skglm():
  """Its threshold comes from a bisection: points near the jump are left out."""
  functions = pytest.importorskip("skglm.utils.prox_funcs")
  ours = prox.prox_log_sum(jnp.asarray(POINTS), (2.0, 0.3), 1.0)
  theirs = entrywise(lambda v: functions.prox_log_sum(v, 2.0, 0.3))
  same = np.isclose(ours, theirs, atol=1e-12)
  jump = np.abs(POINTS[np.flatnonzero(np.asarray(ours) != 0)]).min()
  assert same[np.abs(np.abs(POINTS) - jump) > 1e-2].all()


@pytest.mark.parametrize("name", ["mcp", "scad"])
def test_values_equal_skglm(name):
  functions = pytest.importorskip("skglm.utils.prox_funcs")
  hyper = SKGLM[name][0]
  ours = getattr(prox, f"penalty_{name}")(jnp.asarray(POINTS), hyper)
  np.testing.assert_allclose(ours, getattr(functions, f"value_{name.upper()}")(POINTS, *hyper))


def test_equals_pyproximal(rng):
  peer = pytest.importorskip("pyproximal")
  x = rng.standard_normal(60)
  matrix = rng.standard_normal((6, 5))
  pairs = {
    "lasso": (prox.prox_lasso(jnp.asarray(x), 0.8, STEP), peer.L1(sigma=0.8).prox(x, STEP)),
    "ridge": (prox.prox_ridge(jnp.asarray(x), 0.8, STEP), peer.L2(sigma=0.8).prox(x, STEP)),
    "box": (prox.prox_box(jnp.asarray(x), (-0.5, 1.3)), peer.Box(-0.5, 1.3).prox(x, STEP)),
    "scad": (prox.prox_scad(jnp.asarray(x), (0.8, 3.7), STEP), peer.SCAD(0.8, 3.7).prox(x, STEP)),
    "euclidean": (
      prox.prox_group_lasso(jnp.asarray(x), 0.8, STEP), peer.Euclidean(sigma=0.8).prox(x, STEP),
    ),
    "nuclear": (
      prox.prox_nuclear(jnp.asarray(matrix), 0.8, STEP).ravel(),
      peer.Nuclear((6, 5), sigma=0.8).prox(matrix.ravel(), STEP),
    ),
    # its groups are the columns
    "l21": (
      prox.prox_l21(jnp.asarray(matrix.T), 0.8, STEP).T.ravel(),
      peer.L21(ndim=6, sigma=0.8).prox(matrix.ravel(), STEP),
    ),
  }  # fmt: skip
  for name, (ours, theirs) in pairs.items():
    np.testing.assert_allclose(ours, theirs, atol=1e-10, err_msg=name)
