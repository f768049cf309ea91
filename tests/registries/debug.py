"""Calls of ``debug`` that must fail."""

from jaxopt_robust import debug
from tests.helpers import BadInput

COVERED = set(debug.__all__)
BAD_INPUTS = [
  BadInput("debug.checked", "function", lambda: debug.checked(1), TypeError, "callable"),
  BadInput("debug.count_traces", "function", lambda: debug.count_traces(1), TypeError, "callable"),
]
