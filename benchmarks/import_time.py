"""Start-up: ``import jaxopt_robust`` against ``import jax, optax``, each in a new process."""

import subprocess
import sys

from benchmarks._timing import Contender, Row

_LAZY = "import jaxopt_robust"
# nets needs flax, which is an extra.
_ALL = "import jaxopt_robust as jr; [getattr(jr, n) for n in jr.__all__ if n != 'nets']"


def _import(statement: str):
  return lambda: subprocess.run([sys.executable, "-c", statement], check=True)


def build(size: str) -> Row:
  """The row; the toy size is the same."""
  del size
  return Row(
    name="import",
    work="a new Python process that imports",
    contenders=[
      Contender("jaxopt_robust, every module", _import(_ALL), ours=True),
      Contender(
        "jaxopt_robust (modules load on first use)", _import(_LAZY), ours=True, counts=False
      ),
      Contender("jax and optax", _import("import jax, optax")),
    ],
    goal=1.15,
  )
