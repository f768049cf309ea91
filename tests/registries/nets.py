"""Calls of ``nets`` that must fail."""

from jaxopt_robust import nets
from tests.helpers import BadInput

COVERED = {"MLP", "from_nnx"}
BAD_INPUTS = [
  BadInput("nets.from_nnx", "type", lambda: nets.from_nnx(3), TypeError, "flax.nnx.Module"),
]
