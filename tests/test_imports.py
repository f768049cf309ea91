"""No import touches a device, so that devices and processes can be chosen after all imports."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
PROGRAM = """
import importlib, pkgutil
import jax
import jaxopt_robust
found = [m.name for m in pkgutil.walk_packages(jaxopt_robust.__path__, "jaxopt_robust.")]
for name in found:
  importlib.import_module(name)
# JAX refuses this once a device was used, as it refuses jax.distributed.initialize().
jax.config.update("jax_num_cpu_devices", 3)
print(len(found), jax.device_count())
try:
  jax.config.update("jax_num_cpu_devices", 2)
except RuntimeError:
  print("refused")
"""


def test_importing_every_module_uses_no_device():
  done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, cwd=ROOT)
  assert done.returncode == 0, done.stderr
  (count, devices), (after,) = (line.split() for line in done.stdout.splitlines())
  files = list((ROOT / "jaxopt_robust").rglob("*.py"))
  assert int(count) == len(files) - 1, "all modules but the package itself"
  assert (devices, after) == ("3", "refused")
