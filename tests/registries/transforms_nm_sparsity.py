"""Calls of progressive n:m sparsity that must fail."""

import jax.numpy as jnp
import optax

from jaxopt_robust import transforms
from tests.helpers import BadInput

COVERED = {
  "exponential_mask_decay",
  "harden",
  "linear_mask_decay",
  "progressive_nm",
  "sdgf_stages",
}

MATRIX = jnp.ones((4, 2))


def _linear(rate=0.1, **options):
  return lambda: transforms.linear_mask_decay(rate, **options)


def _exponential(rate=0.1, **options):
  return lambda: transforms.exponential_mask_decay(rate, **options)


def _stages(kind="stepwise", n=1, m=4, total=9, **options):
  return lambda: transforms.sdgf_stages(kind, n, m, total=total, **options)


def _flow(inner=None, n=1, m=2, **options):
  return lambda: transforms.progressive_nm(inner or optax.sgd(0.1), n=n, m=m, **options)


def _used(**options):
  tx, effective = _flow(**options)()
  return effective({"kernel": MATRIX}, tx.init({"kernel": MATRIX}))


def _harden(params=MATRIX, n=1, m=2, **options):
  return lambda: transforms.harden(params, n=n, m=m, **options)


BAD_INPUTS = [
  BadInput(f"transforms.{name}", what, call, error, match)
  for name, what, call, error, match in (
    ("linear_mask_decay", "rate", _linear(-0.1), ValueError, "rate must be in"),
    ("linear_mask_decay", "infinite", _linear(jnp.inf), ValueError, "rate must be in"),
    ("linear_mask_decay", "rates", _linear(jnp.ones(2)), ValueError, "rate must be a scalar"),
    ("linear_mask_decay", "start", _linear(start=-1), ValueError, "start must be >= 0"),
    ("exponential_mask_decay", "rate", _exponential(-0.1), ValueError, "rate must be in"),
    ("exponential_mask_decay", "end", _exponential(end=-1), ValueError, "end must be >= 0"),
    (
      "exponential_mask_decay", "order", _exponential(start=3, end=2), ValueError,
      "end must be at least start = 3; got 2",
    ),
    ("sdgf_stages", "kind", _stages("step"), ValueError, "kind must be one of"),
    ("sdgf_stages", "n", _stages(n=0), ValueError, "n must be at least 1"),
    ("sdgf_stages", "n of m", _stages(n=5), ValueError, "n must be at most m; got 5 of 4"),
    ("sdgf_stages", "m", _stages(m=2.0), TypeError, "m must be a static Python integer"),
    ("sdgf_stages", "share", _stages(n=3), ValueError, "m must be n times a power of 2"),
    ("sdgf_stages", "total", _stages(total=0), ValueError, "total must be at least 1"),
    ("sdgf_stages", "dense", _stages(dense=-1), ValueError, "dense must be at least 0"),
    (
      "sdgf_stages", "span", _stages(dense=5, fine_tune=4), ValueError,
      r"total must be more than dense \+ fine_tune = 9; got 9",
    ),
    ("sdgf_stages", "num", _stages(num_stages=0), ValueError, "num_stages must be at least 1"),
    ("progressive_nm", "inner", _flow(inner=0.1), TypeError, "inner must be an optax"),
    ("progressive_nm", "n", _flow(n=3), ValueError, "n must be at most m; got 3 of 2"),
    ("progressive_nm", "axis", _flow(axis=None), TypeError, "axis must be a static Python"),
    ("progressive_nm", "flow", _flow(flow="hard"), ValueError, "flow must be one of"),
    ("progressive_nm", "decay", _flow(decay=1.5), ValueError, "decay must be in"),
    ("progressive_nm", "decays", _flow(decay=jnp.ones(2)), ValueError, "decay must be a scalar"),
    (
      "progressive_nm", "srste", _flow(flow="srste", decay=0.5), ValueError,
      "decay must be 0 with flow='srste'",
    ),
    (
      "progressive_nm", "srste schedule",
      _flow(flow="srste", decay=transforms.linear_mask_decay(0.1)), ValueError, "decay must be 0",
    ),
    ("progressive_nm", "strength", _flow(strength=-1.0), ValueError, "strength must be"),
    ("progressive_nm", "predicate", _flow(predicate=True), TypeError, "predicate must be"),
    ("progressive_nm", "stages", _flow(stages="stepwise"), TypeError, "stages must be triples"),
    ("progressive_nm", "no stages", _flow(stages=()), TypeError, "stages must be triples"),
    ("progressive_nm", "pairs", _flow(stages=((1, 2),)), ValueError, "stages must be triples"),
    (
      "progressive_nm", "order", _flow(stages=((5, 1, 2), (4, 1, 2))), ValueError,
      "stages must not begin before the last one",
    ),
    ("progressive_nm", "n of m", _flow(stages=((0, 3, 2),)), ValueError, "have n at most m"),
    (
      "progressive_nm", "start", _flow(stages=((-1, 1, 2),)), ValueError,
      "start of stages must be at least 0",
    ),
    (
      "progressive_nm", "last stage", _flow(stages=((0, 1, 2), (5, 1, 4))), ValueError,
      "stages must end with 1:2; got 1:4",
    ),
    (
      "progressive_nm", "width",
      lambda: _used(stages=transforms.sdgf_stages("geometric", 1, 2, total=9)), ValueError,
      r"params\['kernel'\]: m must divide the length 4 of axis -2; got 16",
    ),
    ("harden", "nothing", _harden(None), TypeError, "params must be an array or a pytree"),
    ("harden", "complex", _harden({"w": 1j * MATRIX}), TypeError, r"params\['w'\]: weights must"),
    ("harden", "text", _harden("text"), TypeError, "params must be a number or an array"),
    ("harden", "n", _harden(n=3), ValueError, "params: n must be at most m"),
    ("harden", "m", _harden(m=3), ValueError, "params: m must divide the length 4 of axis -2"),
    ("harden", "axis", _harden(axis=2), ValueError, "params: axis must be an axis"),
    ("harden", "predicate", _harden(predicate=1), TypeError, "predicate must be callable"),
  )
]  # fmt: skip
