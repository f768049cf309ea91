"""Penalties on groups and rows, and calls that must fail."""

import jax.numpy as jnp
import numpy as np

from jaxopt_robust import prox
from jaxopt_robust.typing import Penalty
from tests.helpers import BadInput
from tests.registries.prox import ShapedCase

COVERED = {
  "group_weights", "groups_to_ids", "l21", "make_group_penalty", "make_row_penalty",
  "make_sparse_group_penalty", "penalty_l21", "penalty_sparse_group_lasso", "prox_l21",
  "prox_sparse_group_lasso", "sparse_group_lasso",
}  # fmt: skip

# Three groups of sizes 3, 1 and 2, out of order.
IDS = np.array([0, 2, 0, 1, 2, 0])


def _case(name: str, penalty: Penalty, hyper: object, shape: tuple, **extra: object) -> ShapedCase:
  zero_row = np.ones(shape)
  zero_row.reshape(-1)[IDS == 2 if shape == (6,) else slice(0, 2)] = 0.0
  return ShapedCase(name, penalty.prox, penalty.value, hyper, shape, kinks=(zero_row,), **extra)


def _groups(name: str, hyper: object, **extra: object) -> ShapedCase:
  penalty = prox.make_group_penalty(getattr(prox, name), IDS, num_groups=3)
  return _case(f"group_{name}", penalty, hyper, (6,), **extra)


SHAPED = [
  _groups("lasso", 0.8),
  _groups("ridge", 0.8),
  _groups("mcp", (0.8, 3.1), convex=False),
  _groups("mcp", (0.8, 0.2), convex=False, tag="jumps"),
  _groups("l0", 0.8, convex=False),
  _groups("half", 0.8, convex=False),
  _case("l21", prox.l21, 0.8, (3, 2)),
  _case("row_log_sum", prox.make_row_penalty(prox.log_sum), (0.8, 2.0), (3, 2), convex=False),
  _case("sparse_group_lasso", prox.sparse_group_lasso, (0.3, 0.8), (6,)),
  _case(
    "sparse_groups", prox.make_sparse_group_penalty(prox.lasso, IDS, num_groups=3), (0.3, 0.8), (6,)
  ),
  _case(
    "sparse_group_mcp", prox.make_sparse_group_penalty(prox.mcp, IDS, num_groups=3),
    (0.3, (0.8, 3.1)), (6,), convex=False,
  ),
]  # fmt: skip

X = jnp.ones(6)
ROWS = jnp.ones((3, 2))


def _factory(name: str) -> list[BadInput]:
  make, full = getattr(prox, name), f"prox.{name}"
  made = make(prox.lasso, IDS, num_groups=3)
  hyper = (lambda h: h) if name == "make_group_penalty" else (lambda h: (0.1, h))
  return [
    BadInput(
      full, "no penalty", lambda: make(prox.prox_lasso, IDS, num_groups=3), TypeError, "a Penalty"
    ),
    BadInput(
      full, "float ids", lambda: make(prox.lasso, jnp.ones(6), num_groups=3), TypeError, "integer"
    ),
    BadInput(
      full, "id range", lambda: make(prox.lasso, IDS, num_groups=2), ValueError,
      r"\[-1, 2\).*; got 2",
    ),
    BadInput(
      full, "empty group", lambda: make(prox.lasso, IDS, num_groups=5), ValueError,
      "every group of 0..4; got no entry of group 3",
    ),
    BadInput(
      full, "traced count", lambda: make(prox.lasso, IDS, num_groups=jnp.int32(3)), TypeError,
      "static Python integer",
    ),
    BadInput(full, "x shape", lambda: made.prox(ROWS, hyper(1.0)), ValueError, "group_ids, "),
    BadInput(full, "text", lambda: made.value("text", hyper(1.0)), TypeError, "array of numbers"),
    BadInput(
      full, "strengths", lambda: made.prox(X, hyper(jnp.ones(6))), ValueError,
      r"one number a group, shape \(3,\); got shape \(6,\)",
    ),
    BadInput(
      full, "negative", lambda: made.prox(X, hyper(-1.0)), ValueError,
      "^hyperparams: .*>= 0; got -1",
    ),
    BadInput(
      full, "no ids", lambda: make(prox.lasso, None, num_groups=1), TypeError, "group_ids must hold"
    ),
    BadInput(
      full, "wide id", lambda: make(prox.lasso, np.array([2**32, 1, 2]), num_groups=3), ValueError,
      "group_ids must lie in .* got 4294967296",
    ),
    BadInput(full, "scaling", lambda: made.prox(X, hyper(1.0), -1.0), ValueError, "scaling must"),
  ]  # fmt: skip


BAD_INPUTS = [*_factory("make_group_penalty"), *_factory("make_sparse_group_penalty")]
BAD_INPUTS += [
  BadInput(
    "prox.make_sparse_group_penalty", "no pair",
    lambda: prox.make_sparse_group_penalty(prox.lasso, IDS, num_groups=3).prox(X, 1.0),
    ValueError, r"pair \(l1reg, group\)",
  ),
  BadInput(
    "prox.make_row_penalty", "no penalty", lambda: prox.make_row_penalty(1.0), TypeError, "Penalty"
  ),
  BadInput("prox.prox_l21", "number", lambda: prox.prox_l21(1.0), ValueError, "rank at least 1"),
  BadInput("prox.prox_l21", "text", lambda: prox.prox_l21("text"), TypeError, "array of numbers"),
  BadInput(
    "prox.prox_l21", "strengths", lambda: prox.prox_l21(ROWS, jnp.ones(2)), ValueError,
    "one number a row",
  ),
  BadInput("prox.prox_l21", "negative", lambda: prox.prox_l21(ROWS, -1.0), ValueError, "got -1"),
  BadInput(
    "prox.prox_l21", "scaling", lambda: prox.prox_l21(ROWS, 1.0, -1.0), ValueError, "scaling"
  ),
  BadInput(
    "prox.penalty_l21", "negative", lambda: prox.penalty_l21(ROWS, -1.0), ValueError, "got -1"
  ),
  BadInput(
    "prox.prox_sparse_group_lasso", "no pair", lambda: prox.prox_sparse_group_lasso(X, 1.0),
    ValueError, "pair",
  ),
  BadInput(
    "prox.prox_sparse_group_lasso", "scaling",
    lambda: prox.prox_sparse_group_lasso(X, (1.0, 1.0), -1.0), ValueError, "scaling",
  ),
  BadInput(
    "prox.prox_sparse_group_lasso", "l2reg", lambda: prox.prox_sparse_group_lasso(X, (1.0, X)),
    ValueError, "l2reg must be a scalar",
  ),
  BadInput(
    "prox.penalty_sparse_group_lasso", "negative",
    lambda: prox.penalty_sparse_group_lasso(X, (-1.0, 1.0)), ValueError, "got -1",
  ),
  BadInput(
    "prox.group_weights", "empty", lambda: prox.group_weights(IDS, num_groups=4), ValueError,
    "no entry of group 3",
  ),
  BadInput(
    "prox.groups_to_ids", "overlap", lambda: prox.groups_to_ids([[0, 1], [1, 2]], size=3),
    ValueError, "overlap; got entry 1 twice.*splitting solver",
  ),
  BadInput(
    "prox.groups_to_ids", "twice", lambda: prox.groups_to_ids([[0, 0], [1]], size=2), ValueError,
    "entry 0 twice",
  ),
  BadInput(
    "prox.groups_to_ids", "empty", lambda: prox.groups_to_ids([[0, 1], []], size=2), ValueError,
    "no index in group 1",
  ),
  BadInput(
    "prox.groups_to_ids", "range", lambda: prox.groups_to_ids([[0], [3]], size=2), ValueError,
    r"indices in \[0, 2\)",
  ),
  BadInput(
    "prox.groups_to_ids", "number", lambda: prox.groups_to_ids(3, size=2), TypeError,
    "groups must be a list",
  ),
  BadInput(
    "prox.groups_to_ids", "floats", lambda: prox.groups_to_ids([[0.5], [1]], size=2), TypeError,
    "integer indices",
  ),
]  # fmt: skip
