"""Where a computation runs: one function over a grid, on any number of devices and hosts."""

from jaxopt_robust._deprecations import install_getattr
from jaxopt_robust.sweeps.grid import product_grid
from jaxopt_robust.sweeps.lock import StoreLockedError
from jaxopt_robust.sweeps.run import RunResult, run
from jaxopt_robust.sweeps.store import StoreMismatchError
from jaxopt_robust.sweeps.sweep import gather, make_sweep_mesh, sweep

__all__ = [
  "RunResult",
  "StoreLockedError",
  "StoreMismatchError",
  "gather",
  "make_sweep_mesh",
  "product_grid",
  "run",
  "sweep",
]

install_getattr(__name__)
