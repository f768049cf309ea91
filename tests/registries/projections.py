"""All projections under the contract tests of ``tests/projections``, and calls that must fail."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.linalg

from jaxopt_robust import projections as pj
from tests.helpers import BadInput


class SetCase(NamedTuple):
  """A set with its projection.

  Attributes:
    name: the projection is ``projection_<name>``, or ``name`` itself.
    project: ``project(x, hyper)``.
    shape: shape of x.
    hyper: a pytree of arrays; the projection is differentiable in it.
    feasible: ``feasible(rng, p)`` draws a point of the set; ``p`` is one.
    violation: ``violation(p)``, 0 on the set.
    convex: whether the set is convex.
    shifts: whether huge equal entries are moved without loss.
    tag: a word that tells cases of one name apart.
  """

  name: str
  project: Callable
  shape: tuple
  hyper: Any
  feasible: Callable
  violation: Callable
  convex: bool = True
  tag: str = ""


RNG = np.random.default_rng(7)
N = 6
A = RNG.standard_normal((2, N))
G = RNG.standard_normal((5, N))
NORMAL = RNG.standard_normal(N)
WEIGHTS = RNG.uniform(0.3, 2.0, N)
ROWS, COLUMNS = RNG.uniform(0.5, 1.5, 4), RNG.uniform(0.5, 1.5, 3)
COLUMNS *= ROWS.sum() / COLUMNS.sum()
INSIDE = 0.3 * RNG.standard_normal(N)  # a point of the affine sets and polyhedra
B, H = A @ INSIDE, G @ INSIDE + 0.2


def _line(rng: np.random.Generator, p: np.ndarray) -> np.ndarray:
  """A random vector, at several scales."""
  return 10.0 ** rng.uniform(-2, 1) * rng.standard_normal(p.shape)


def _simplex(rng, p):
  return rng.dirichlet(np.full(p.size, 0.5))


def _sparse(k, make):
  def draw(rng, p):
    out = np.zeros(p.size)
    out[rng.choice(p.size, k, replace=False)] = make(rng, k)
    return out

  return draw


def _inward(rng, p):
  """Points of a polyhedron between a known point and where the way out leaves it."""
  d = rng.standard_normal(N)
  d -= np.linalg.pinv(A) @ (A @ d)
  along = G @ d
  reach = min((0.2 / v for v in along if v > 0), default=5.0)
  return INSIDE + rng.uniform(0, 1) * reach * d


def _box(rng, p):
  """Mixtures of two vertices-like points of {-1 <= p <= 2, w.p = 1.5}, by a draw and a repair."""
  z = rng.uniform(-1, 2, N)
  lo, hi = -10.0, 10.0
  for _ in range(80):
    mid = (lo + hi) / 2
    lo, hi = (mid, hi) if WEIGHTS @ np.clip(z + mid, -1, 2) < 1.5 else (lo, mid)
  return np.clip(z + lo, -1, 2)


def _plan(a, b):
  """Mixtures of vertices, each filled by the north-west rule in a random order."""

  def vertex(rng):
    out, left, down = np.zeros((len(a), len(b))), a.copy(), b.copy()
    for i in rng.permutation(len(a)):
      for j in rng.permutation(len(b)):
        out[i, j] = min(left[i], down[j])
        left[i] -= out[i, j]
        down[j] -= out[i, j]
    return out

  def draw(rng, p):
    share = rng.dirichlet(np.ones(3))
    return sum(s * vertex(rng) for s in share)

  return draw


def _spectral(values):
  def draw(rng, p):
    u, s, v = np.linalg.svd(rng.standard_normal(p.shape), full_matrices=False)
    return (u * values(rng, s)) @ v

  return draw


def _psd(rng, p):
  z = rng.standard_normal(p.shape)
  return z @ z.T * 10.0 ** rng.uniform(-2, 1)


def _correlation(rng, p):
  z = _psd(rng, p)
  return z / np.sqrt(np.outer(np.diag(z), np.diag(z)))


def _cone(rng, p):
  u = _line(rng, p)
  u[-1] = np.linalg.norm(u[:-1]) * rng.uniform(1, 2)
  return u


def _onto_plane(rng, p):
  z = _line(rng, p)
  return z - NORMAL * (NORMAL @ z - 0.7) / (NORMAL @ NORMAL)


def _slab(rng, p):
  z = _onto_plane(rng, p)
  return z - NORMAL * rng.uniform(0, 0.4) / (NORMAL @ NORMAL)


def _affine(rng, p):
  d = _line(rng, p)
  return INSIDE + d - np.linalg.pinv(A) @ (A @ d)


def _l1(rng, p):
  z = rng.standard_normal(N)
  return z / (WEIGHTS @ np.abs(z)) * 1.3 * rng.uniform(0, 1)


def _over(*parts):
  return max(float(np.max(np.abs(part), initial=0)) for part in parts)


def _plus(value):
  return np.maximum(value, 0)


def _half_space(x, hyper):
  return optax.projections.projection_halfspace(x, *hyper)


both = pj.projection_intersection([optax.projections.projection_non_negative, _half_space])


def _quadrant(rng, p):
  z = np.abs(_line(rng, p))
  return z * min(1, 0.7 / max(1e-9, np.abs(NORMAL) @ z))


CASES = [
  SetCase("sparse_simplex", lambda x, v: pj.projection_sparse_simplex(x, 3, v), (N,), 1.0,
    _sparse(3, lambda rng, k: rng.dirichlet(np.ones(k))),
    lambda p: _over(p.sum() - 1, _plus(-p), _plus((p != 0).sum() - 3)), convex=False),
  SetCase("top_k", lambda x, _: pj.projection_top_k(x, 2), (N,), None,
    _sparse(2, lambda rng, k: rng.standard_normal(k)), lambda p: _plus((p != 0).sum() - 2),
    convex=False),
  SetCase("weighted_l1_ball", pj.projection_weighted_l1_ball, (N,), (WEIGHTS, 1.3), _l1,
    lambda p: _plus(WEIGHTS @ np.abs(p) - 1.3)),
  SetCase("hyperslab", pj.projection_hyperslab, (N,), (NORMAL, 0.3, 0.7), _slab,
    lambda p: _over(_plus(NORMAL @ p - 0.7), _plus(0.3 - NORMAL @ p))),
  SetCase("affine_set", pj.projection_affine_set, (N,), (A, B), _affine, lambda p: A @ p - B),
  SetCase("polyhedron", pj.projection_polyhedron, (N,), (A, B, G, H), _inward,
    lambda p: _over(A @ p - B, _plus(G @ p - H))),
  SetCase("box_section", pj.projection_box_section, (N,),
    (np.full(N, -1.0), np.full(N, 2.0), WEIGHTS, 1.5), _box,
    lambda p: _over(WEIGHTS @ p - 1.5, _plus(p - 2), _plus(-1 - p))),
  SetCase("second_order_cone", pj.projection_second_order_cone, (N,), 1.0, _cone,
    lambda p: _plus(np.linalg.norm(p[:-1]) - p[-1])),
  SetCase("transport", pj.projection_transport, (4, 3), (ROWS, COLUMNS), _plan(ROWS, COLUMNS),
    lambda p: _over(p.sum(1) - ROWS, p.sum(0) - COLUMNS, _plus(-p))),
  SetCase("birkhoff", lambda x, _: pj.projection_birkhoff(x), (4, 4), None,
    _plan(np.ones(4), np.ones(4)), lambda p: _over(p.sum(1) - 1, p.sum(0) - 1, _plus(-p))),
  SetCase("rank", lambda x, _: pj.projection_rank(x, 2), (4, 3), None,
    _spectral(lambda rng, s: s * (np.arange(3) < 2)),
    lambda p: np.linalg.svd(p, compute_uv=False)[2:], convex=False),
  SetCase("spectral_norm_ball", pj.projection_spectral_norm_ball, (4, 3), 1.2,
    _spectral(lambda rng, s: rng.uniform(0, 1.2, 3)),
    lambda p: _plus(np.linalg.svd(p, compute_uv=False)[0] - 1.2)),
  SetCase("nuclear_norm_ball", pj.projection_nuclear_norm_ball, (3, 4), 1.2,
    _spectral(lambda rng, s: 1.2 * rng.dirichlet(np.ones(3))),
    lambda p: _plus(np.linalg.svd(p, compute_uv=False).sum() - 1.2)),
  SetCase("psd", pj.projection_psd, (4, 4), None, _psd,
    lambda p: _over(p - p.T, _plus(-np.linalg.eigvalsh(p)[0]))),
  SetCase("stiefel", pj.projection_stiefel, (4, 3), None, _spectral(lambda rng, s: np.ones(3)),
    lambda p: p.T @ p - np.eye(3), convex=False),
  SetCase("correlation", lambda x, _: pj.projection_correlation(x), (4, 4), None, _correlation,
    lambda p: _over(p - p.T, np.diag(p) - 1, _plus(-np.linalg.eigvalsh(p)[0]))),
  SetCase("symmetric", lambda x, _: pj.projection_symmetric(x), (4, 4), None,
    lambda rng, p: (lambda z: z + z.T)(rng.standard_normal((4, 4))), lambda p: p - p.T),
  SetCase("toeplitz", lambda x, _: pj.projection_toeplitz(x), (4, 3), None,
    lambda rng, p: scipy.linalg.toeplitz(rng.standard_normal(4), rng.standard_normal(3)),
    lambda p: p[1:, 1:] - p[:-1, :-1]),
  SetCase("hankel", lambda x, _: pj.projection_hankel(x), (3, 4), None,
    lambda rng, p: scipy.linalg.hankel(rng.standard_normal(3), rng.standard_normal(4)),
    lambda p: p[1:, :-1] - p[:-1, 1:]),
  SetCase("projection_intersection", lambda x, h: both(x, (None, h)), (N,), (NORMAL, 0.7),
    _quadrant,
    lambda p: _over(_plus(-p), _plus(NORMAL @ p - 0.7))),
]  # fmt: skip


def full_name(case: SetCase) -> str:
  """The public name of a case."""
  return case.name if case.name.startswith("projection_") else f"projection_{case.name}"


COVERED = {full_name(case) for case in CASES}
COVERED |= {
  "AffineFactor", "PolyhedronInfo", "affine_factor", "kl_projection_birkhoff",
  "kl_projection_transport", "projection_polyhedron_with_info",
}  # fmt: skip

X, S = jnp.ones(3), jnp.ones((2, 2))
GOOD = {
  "projection_top_k": (X, 1), "projection_sparse_simplex": (X, 1),
  "projection_weighted_l1_ball": (X, (1.0, 1.0)), "projection_hyperslab": (X, (X, 0.0, 1.0)),
  "projection_second_order_cone": (X,),
  "projection_affine_set": (X, (jnp.ones((1, 3)), jnp.ones(1))),
  "projection_polyhedron": (X, (None, None, jnp.ones((1, 3)), jnp.ones(1))),
  "projection_polyhedron_with_info": (X, (None, None, jnp.ones((1, 3)), jnp.ones(1))),
  "projection_box_section": (X, (0.0, 1.0, 1.0, 1.0)),
  "projection_transport": (S, (S[0], S[0])), "kl_projection_transport": (S, (S[0], S[0])),
  "projection_birkhoff": (S,), "kl_projection_birkhoff": (S,), "projection_rank": (S, 1),
  "projection_spectral_norm_ball": (S,), "projection_nuclear_norm_ball": (S,),
  "projection_psd": (S,), "projection_stiefel": (S,), "projection_correlation": (S,),
  "projection_symmetric": (S,), "projection_toeplitz": (S,), "projection_hankel": (S,),
}  # fmt: skip
WRONG = {
  "projection_top_k": (4, ValueError, "at most"),
  "projection_sparse_simplex": (4, ValueError, "at"),
  "projection_weighted_l1_ball": ((1.0, -1.0), ValueError, "radius must be >= 0"),
  "projection_hyperslab": ((X, 1.0, 0.0), ValueError, "empty"),
  "projection_second_order_cone": (-1.0, ValueError, "slope must be > 0"),
  "projection_affine_set": ((jnp.ones((1, 2)), jnp.ones(1)), ValueError, "3 columns"),
  "projection_polyhedron": ((None, None, jnp.ones((1, 3)), None), ValueError, "both"),
  "projection_polyhedron_with_info": ((jnp.ones(3), 1.0, None, None), ValueError, "A must have"),
  "projection_box_section": ((0.0, 1.0, 1.0, 4.0), ValueError, "empty"),
  "projection_transport": ((S[0], 2 * S[0]), ValueError, "same total"),
  "kl_projection_transport": ((S[0], -S[0]), ValueError, ">= 0"),
  "projection_rank": (3, ValueError, "at most 2"),
  "projection_spectral_norm_ball": (-1.0, ValueError, ">= 0"),
  "projection_nuclear_norm_ball": (-1.0, ValueError, ">= 0"),
}  # fmt: skip


def _bad(name: str) -> list[BadInput]:
  fn = getattr(pj, name)
  x, *rest = GOOD[name]
  full = f"projections.{name}"
  complex_x = lambda: fn(1j * x, *rest)
  cases = [
    BadInput(full, "complex", complex_x, TypeError, "of real numbers"),
    BadInput(full, "rank", lambda: fn(jnp.ones((2, 2, 2)), *rest), ValueError, "rank|shape|matrix"),
  ]
  if name in WRONG:
    hyper, error, match = WRONG[name]
    cases.append(BadInput(full, "hyper-parameters", lambda: fn(x, hyper), error, match))
  return cases


BAD_INPUTS = [case for name in GOOD for case in _bad(name)]
BAD_INPUTS += [
  BadInput("projections.projection_hyperslab", "shape",
    lambda: pj.projection_hyperslab(X, (X[:2], 0.0, 1.0)), ValueError, "shape of x"),
  BadInput("projections.projection_hyperslab", "no normal",
    lambda: pj.projection_hyperslab(X, (0 * X, -2.0, -1.0)), ValueError, "empty"),
]  # fmt: skip
BAD_INPUTS += [
  BadInput("projections.affine_factor", "rank", lambda: pj.affine_factor(X), ValueError, "rank 2"),
  BadInput(
    "projections.projection_intersection", "one", lambda: pj.projection_intersection([jnp.abs]),
    ValueError, "at least two",
  ),
  BadInput(
    "projections.projection_intersection", "numbers",
    lambda: pj.projection_intersection([1.0, 2.0]), TypeError, "callable",
  ),
  BadInput(
    "projections.projection_birkhoff", "not square",
    lambda: pj.projection_birkhoff(jnp.ones((2, 3))),
    ValueError, "square",
  ),
]  # fmt: skip


def arrays(hyper: Any, dtype: Any = None) -> Any:
  """Hyper-parameters as JAX arrays of the current precision."""
  return jax.tree.map(lambda h: jnp.asarray(h, dtype or jnp.zeros(()).dtype), hyper)
