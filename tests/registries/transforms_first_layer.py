"""Calls of the first layers and of the line search that must fail."""

import jax.numpy as jnp

from jaxopt_robust import transforms
from tests.helpers import BadInput

COVERED: set[str] = set()  # tests/registries/transforms.py names them all

X, W = jnp.ones((2, 3)), jnp.ones((3, 4))
IMAGES, KERNEL = jnp.ones((2, 4, 4, 2)), jnp.ones((3, 3, 2, 4))


def _dense(x=X, w=W, **options):
  return lambda: transforms.tract_dense(x, w, **options)


def _conv(x=IMAGES, w=KERNEL, **options):
  return lambda: transforms.tract_conv(x, w, **options)


def _patches(x=IMAGES, window=(3, 3), **options):
  return lambda: transforms.patch_gram(x, window=window, **options)


def _scale(**extra):
  tx = transforms.scale_by_tract()
  return lambda: tx.update(W, tx.init(W), **extra)


def _search(**options):
  return lambda: transforms.armijo_descent(**options)


def _step(*args, **extra):
  tx = transforms.armijo_descent()
  return lambda: tx.update(X, tx.init(X), *args, **extra)


BAD_INPUTS = [
  BadInput(f"transforms.{name}", what, call, error, match)
  for name, what, call, error, match in (
    ("tract_dense", "complex", _dense(1j * X), TypeError, "x must be a floating-point array"),
    ("tract_dense", "rank", _dense(w=X[0]), ValueError, "w must have rank 2"),
    ("tract_dense", "shapes", _dense(w=W.T), ValueError, "the last axis of x must match the first"),
    ("tract_dense", "lam", _dense(lam=-0.1), ValueError, "lam must be >= 0; got -0.1"),
    ("tract_dense", "vector lam", _dense(lam=jnp.ones(2)), ValueError, "lam must be a scalar"),
    ("tract_conv", "rank", _conv(w=W), ValueError, "w must have rank 3 or 4 or 5"),
    ("tract_conv", "axes", _conv(x=X), ValueError, "x must have the 2 spatial axes of w"),
    ("tract_conv", "channels", _conv(x=IMAGES[..., :1]), ValueError, "w must have shape"),
    ("tract_conv", "groups", _conv(groups=0), ValueError, "groups must be at least 1"),
    ("tract_conv", "outputs", _conv(w=KERNEL[..., :1, :3], groups=2), ValueError, "w must have"),
    ("tract_conv", "lam", _conv(lam=-1.0), ValueError, "lam must be >= 0"),
    ("tract_conv", "strides", _conv(strides=(1, 0)), ValueError, "strides must be at least 1"),
    ("tract_conv", "stride axes", _conv(strides=(1,)), ValueError, "strides must be one number"),
    ("tract_conv", "dilation", _conv(dilation=1.5), TypeError, "dilation must be a static Python"),
    ("tract_conv", "padding", _conv(padding="same"), ValueError, "padding must be one of"),
    ("tract_conv", "pairs", _conv(padding=((1, 1),)), ValueError, "padding must hold a pair for"),
    ("input_gram", "scalar", lambda: transforms.input_gram(1.0), ValueError, "x must have rank at"),
    ("input_gram", "empty", lambda: transforms.input_gram(X[:0]), ValueError, "must not be empty"),
    ("patch_gram", "window", _patches(window=3), TypeError, "window must hold a size for each"),
    ("patch_gram", "size", _patches(window=(0, 1)), ValueError, "window must be at least 1"),
    ("patch_gram", "axes", _patches(x=X, window=(1, 1)), ValueError, "window must have 1 to 3"),
    ("scale_by_tract", "lam", lambda: transforms.scale_by_tract(-1.0), ValueError, "lam must be"),
    ("scale_by_tract", "no gram", _scale(), ValueError, "needs the second moments of the inputs"),
    ("scale_by_tract", "size", _scale(gram=jnp.eye(2)), ValueError, r"gram must have shape \(3, 3"),
    ("armijo_descent", "stepsize", _search(stepsize=0.0), ValueError, "stepsize must be > 0"),
    ("armijo_descent", "growth", _search(growth=0.5), ValueError, "growth must be in"),
    ("armijo_descent", "shrink", _search(shrink=1.0), ValueError, "shrink must be in"),
    ("armijo_descent", "decrease", _search(decrease=1.0), ValueError, "decrease must be in"),
    ("armijo_descent", "trials", _search(max_trials=0), ValueError, "max_trials must be at least"),
    ("armijo_descent", "least", _search(min_stepsize=-1.0), ValueError, "min_stepsize must be"),
    ("armijo_descent", "tol", _search(tol=-1.0), ValueError, "tol must be >= 0"),
    ("armijo_descent", "no params", _step(), ValueError, "needs the current parameters"),
    ("armijo_descent", "no value", _step(X), ValueError, "needs the value of the objective"),
    (
      "armijo_descent", "value_fn", _step(X, value=1.0, value_fn=2.0), TypeError,
      "value_fn must be callable",
    ),
  )
]  # fmt: skip
