"""Small networks as pure functions: perceptrons, input-convex ones, attention, mixing."""

from jaxopt_robust._deprecations import install_getattr

try:
  import flax  # noqa: F401
except ImportError as error:
  raise ImportError(
    "jaxopt_robust.nets needs flax; install it with: pip install 'jaxopt-robust[nets]'"
  ) from error

from jaxopt_robust.nets.attention import SoftAttention
from jaxopt_robust.nets.convex import ICNN, ConvICNN, log_normal, nonnegative_mask
from jaxopt_robust.nets.first_layers import TrActConv, TrActDense
from jaxopt_robust.nets.mixing import MixingNet
from jaxopt_robust.nets.mixture import MixtureContext, MixtureTransformer
from jaxopt_robust.nets.perceptron import MLP, from_nnx

__all__ = [
  "ICNN",
  "MLP",
  "ConvICNN",
  "MixingNet",
  "MixtureContext",
  "MixtureTransformer",
  "SoftAttention",
  "TrActConv",
  "TrActDense",
  "from_nnx",
  "log_normal",
  "nonnegative_mask",
]

install_getattr(__name__)
