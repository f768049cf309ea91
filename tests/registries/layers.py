"""Public names and bad inputs of layers."""

import jax.numpy as jnp

from jaxopt_robust import layers
from tests.helpers import BadInput

COVERED = {
  "OrthogonalExistence",
  "SingularValueBounds",
  "SoftAttentionInfo",
  "bjorck_orthonormal",
  "circular_convolution",
  "convolution_matrix",
  "convolution_residual",
  "convolution_singular_values",
  "elu_attention",
  "full_gaussian_attention",
  "gaussian_gram",
  "group_sort",
  "kernel_to_oihw",
  "nystrom_attention",
  "orthogonal_convolution_exists",
  "orthogonality_penalty",
  "orthogonality_residual",
  "segment_means",
  "singular_value_bounds",
  "soft_attention",
}

_K = jnp.ones((2, 3, 3, 3))
_X = jnp.ones((1, 3, 4, 4))
_T = jnp.ones((4, 2))


def _bad(name, what, call, error, match):
  return BadInput(f"layers.{name}", what, call, error, match)


def _sized(name):
  function = getattr(layers, name)
  return [
    _bad(name, "rank", lambda: function(jnp.ones((2, 3)), size=4), ValueError, "kernel must have"),
    _bad(name, "small", lambda: function(_K, size=2), ValueError, "size must be at least the"),
    _bad(
      name, "multiple", lambda: function(_K, size=5, stride=2), ValueError, "size must be a mul"
    ),
    _bad(
      name, "sizes", lambda: function(_K, size=(4, 4, 4)), ValueError, "one number or 2 of them"
    ),
    _bad(name, "size dtype", lambda: function(_K, size=4.0), TypeError, "size must be a static"),
  ]


BAD_INPUTS: list[BadInput] = [
  _bad(
    "gaussian_gram", "features", lambda: layers.gaussian_gram(_T, _T[:, :1]), ValueError,
    "b must have the 2 features of a",
  ),
  _bad("gaussian_gram", "rank", lambda: layers.gaussian_gram(_T[0], _T), ValueError, "a must have"),
  _bad(
    "segment_means", "runs", lambda: layers.segment_means(_T, num_landmarks=3), ValueError,
    "num_landmarks must divide the 4 tokens",
  ),
  _bad(
    "soft_attention", "values", lambda: layers.soft_attention(_T, _T, _T[:2]), ValueError,
    "v must have the 4 tokens of q",
  ),
  _bad(
    "soft_attention", "heads", lambda: layers.soft_attention(_T, _T[None], _T), ValueError,
    "landmarks must have the leading axes of q",
  ),
  _bad(
    "soft_attention", "nan", lambda: layers.soft_attention(jnp.nan * _T, _T, _T), ValueError,
    "q must be finite",
  ),
  _bad(
    "soft_attention", "ridge", lambda: layers.soft_attention(_T, _T, _T, ridge=-1.0), ValueError,
    "ridge must be >= 0",
  ),
  _bad(
    "full_gaussian_attention", "integers",
    lambda: layers.full_gaussian_attention(jnp.ones((2, 2), jnp.complex64), _T[:2]), TypeError,
    "q must",
  ),
  _bad(
    "elu_attention", "keys", lambda: layers.elu_attention(_T, _T, _T[:1]), ValueError,
    "v must have the 4 tokens of k",
  ),
  _bad(
    "nystrom_attention", "landmarks",
    lambda: layers.nystrom_attention(_T, _T, _T, num_landmarks=0), ValueError,
    "num_landmarks must be at least 1",
  ),
  *_sized("convolution_matrix"),
  *_sized("convolution_residual"),
  *_sized("convolution_singular_values"),
  _bad(
    "convolution_matrix", "padding", lambda: layers.convolution_matrix(_K, size=4, padding="zero"),
    ValueError, "padding must be one of .* Did you mean 'zeros'",
  ),
  _bad(
    "circular_convolution", "channels", lambda: layers.circular_convolution(_X[:, :2], _K),
    ValueError, "x and kernel must have equally many",
  ),
  _bad(
    "circular_convolution", "rank", lambda: layers.circular_convolution(_X[0], _K), ValueError,
    "x must have rank 4",
  ),
  _bad(
    "circular_convolution", "stride", lambda: layers.circular_convolution(_X, _K, stride=0),
    ValueError, "stride must be at least 1",
  ),
  _bad(
    "circular_convolution", "method",
    lambda: layers.circular_convolution(_X, _K, method="tap"), ValueError, "method must be one of",
  ),
  _bad(
    "orthogonality_residual", "rank", lambda: layers.orthogonality_residual(jnp.ones(3)),
    ValueError, "kernel must have rank 2 or 3 or 4 or 5",
  ),
  _bad(
    "orthogonality_residual", "stride", lambda: layers.orthogonality_residual(_K, stride=1.5),
    TypeError, "stride must be a static",
  ),
  _bad(
    "singular_value_bounds", "empty", lambda: layers.singular_value_bounds(jnp.ones((0, 3))),
    ValueError, "kernel must not be empty",
  ),
  _bad(
    "kernel_to_oihw", "rank", lambda: layers.kernel_to_oihw(jnp.ones(3)), ValueError, "kernel must"
  ),
  _bad(
    "orthogonal_convolution_exists", "size",
    lambda: layers.orthogonal_convolution_exists(0, 1, 1), ValueError, "out_channels must be",
  ),
  _bad(
    "orthogonal_convolution_exists", "axes",
    lambda: layers.orthogonal_convolution_exists(1, 1, 1, num_axes=3), ValueError, "num_axes must",
  ),
  _bad(
    "orthogonal_convolution_exists", "zeros",
    lambda: layers.orthogonal_convolution_exists(1, 1, 3, stride=2, padding="zeros"), ValueError,
    "nothing is known; compute convolution_residual",
  ),
  _bad(
    "orthogonality_penalty", "path",
    lambda: layers.orthogonality_penalty({"conv": {"kernel": _K}}, {"conv/kernle": 1}), ValueError,
    "not in params. Did you mean 'conv/kernel'",
  ),
  _bad(
    "orthogonality_penalty", "strides", lambda: layers.orthogonality_penalty({"k": _K}, 1),
    TypeError, "strides must map paths",
  ),
  _bad(
    "orthogonality_penalty", "rank",
    lambda: layers.orthogonality_penalty({"bias": jnp.ones(3)}, {"bias": 1}), ValueError,
    r"params\['bias'\]: kernel must have rank",
  ),
  _bad(
    "orthogonality_penalty", "layout",
    lambda: layers.orthogonality_penalty({"k": _K}, {"k": 1}, layout="NHWC"), ValueError, "layout",
  ),
  _bad(
    "bjorck_orthonormal", "rank", lambda: layers.bjorck_orthonormal(jnp.ones(3)), ValueError,
    "weight must have rank 2",
  ),
  _bad(
    "bjorck_orthonormal", "steps", lambda: layers.bjorck_orthonormal(jnp.eye(2), num_steps=-1),
    ValueError, "num_steps must be at least 0",
  ),
  _bad("group_sort", "length", lambda: layers.group_sort(jnp.ones((1, 3))), ValueError, "divide"),
  _bad("group_sort", "axis", lambda: layers.group_sort(jnp.ones(4)), ValueError, "axis must be"),
]  # fmt: skip
