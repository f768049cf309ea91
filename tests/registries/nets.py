"""Calls of ``nets`` that must fail."""

import jax
import jax.numpy as jnp

from jaxopt_robust import layers, nets
from tests.helpers import BadInput

COVERED = {
  "ICNN", "MLP", "ConvICNN", "MixingNet", "MixtureContext", "MixtureTransformer", "SoftAttention",
  "TrActConv", "TrActDense", "from_nnx", "log_normal", "nonnegative_mask",
}  # fmt: skip


def _soft(x=(16, 4), **options):
  options = {"dim": 4, "heads": 2, "grid": (4, 4), **options}
  return lambda: nets.SoftAttention(**options).init(jax.random.key(0), jnp.ones(x))


def _mixture(x=(1, 3, 2), override=None, **options):
  model = nets.MixtureTransformer(**{"classes": 2, "tokens": 3, **options})
  return lambda: jax.eval_shape(model.init, jax.random.key(0), jnp.ones(x), override)


def _mixing(shallow, deep, **options):
  features = ([jnp.ones(shape) for shape in shapes] for shapes in (shallow, deep))
  return lambda: nets.MixingNet(**options).init(jax.random.key(0), *features)


_PATHWAY = layers.Pathway(jnp.ones((1, 4, 9)), jnp.ones((1, 4, 9), bool))

BAD_INPUTS = [
  *(
    BadInput("nets.MixingNet", what, call, ValueError, match)
    for what, call, match in (
      ("clip", _mixing([(2, 3)], [(2, 3)], clip=0.0), "clip must be > 0"),
      ("blocks", _mixing([(2, 3)], [(2, 3)], blocks=-1), "blocks must be at least 0"),
      ("rank", _mixing([(2, 3, 1)], [(2, 3)]), "shallow must have rank 2 or 4"),
      ("batch", _mixing([(2, 3), (1, 3)], [(2, 3)]), "shallow must agree in all axes"),
      ("ranks", _mixing([(2, 3)], [(2, 1, 1, 3)]), "shallow and deep must have equal ranks"),
      ("grid", _mixing([(2, 4, 4, 1)], [(2, 3, 4, 1)]), "deep must have a grid that divides"),
      ("none", lambda: nets.MixingNet().init(jax.random.key(0), (), ()), "must be a sequence"),
    )
  ),
  *(
    BadInput("nets.MixtureTransformer", what, call, ValueError, match)
    for what, call, match in (
      ("tokens", _mixture((1, 4, 2)), "x must have shape .batch, 3, features"),
      ("experts", _mixture(selected=9), "selected must be at most 8"),
      ("layers", _mixture(layers=0), "layers must be at least 1"),
      ("override", _mixture(override=_PATHWAY), "override.weights must have shape"),
    )
  ),
  *(
    BadInput("nets.SoftAttention", what, call, ValueError, match)
    for what, call, match in (
      ("heads", _soft(heads=3), "dim must be a multiple of heads"),
      ("ratio", _soft(ratio=3), "ratio must divide the grid"),
      ("conv", _soft(conv=2), "conv must be 0 or odd"),
      ("tokens", _soft(x=(15, 4)), "x must have shape"),
    )
  ),
  BadInput("nets.from_nnx", "type", lambda: nets.from_nnx(3), TypeError, "flax.nnx.Module"),
  BadInput(
    "nets.ICNN", "layers", lambda: nets.ICNN(layers=0).init(jax.random.key(0), jnp.ones(2)),
    ValueError, "layers must be at least 1; got 0",
  ),
  *(
    BadInput(
      f"nets.{name}", option, call, ValueError, match
    )
    for name, call, option, match in (
      ("ICNN", lambda: nets.ICNN(beta=0.0).init(jax.random.key(0), jnp.ones(2)), "beta",
       "beta must be > 0"),
      ("ICNN", lambda: nets.ICNN(alpha=-1.0).init(jax.random.key(0), jnp.ones(2)), "alpha",
       "alpha must be >= 0"),
      ("ConvICNN", lambda: nets.ConvICNN(beta=0.0).init(jax.random.key(0), jnp.ones((4, 4, 1))),
       "beta", "beta must be > 0"),
    )
  ),
  BadInput(
    "nets.log_normal", "deviation", lambda: nets.log_normal(deviation=-1.0), ValueError,
    "deviation must be >= 0; got -1",
  ),
  BadInput(
    "nets.log_normal", "mean", lambda: nets.log_normal(jnp.ones(2)), ValueError,
    "mean must have rank 0",
  ),
  BadInput(
    "nets.nonnegative_mask", "other network", lambda: nets.nonnegative_mask({"kernel": 1.0}),
    ValueError, "must hold a key that begins with 'nonnegative'",
  ),
]  # fmt: skip
