"""Strict JAX settings for every test, fake devices, and keys derived from test names."""

import gc
import pathlib
import zlib

import jax
import numpy as np
import pytest

# Before any device is used. Eight devices serve the sharding tests; the rest runs on the first.
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Traced programs are many small objects that live on: looking at them less often saves time.
gc.set_threshold(100_000, 20, 20)

# The machine code of each compiled program takes memory maps. Linux lets a process have 65530, and
# running out of them ends it; long before, compiling gets slow (a tiny program takes 17 ms of CPU
# alone, 27 beside 4,000 maps, 43 beside 13,000). Programs are dropped between files from here on.
_MANY_MAPS = 3_000
_MAPS = pathlib.Path("/proc/self/maps")


def pytest_runtest_teardown(item, nextitem):
  """Drops compiled programs between two files once they are many."""
  if (nextitem is not None and nextitem.path == item.path) or not _MAPS.exists():
    return
  with _MAPS.open("rb") as lines:
    count = sum(1 for _ in lines)
  if count > _MANY_MAPS:
    jax.clear_caches()
    gc.collect()


@pytest.fixture(autouse=True)
def _float64(request):
  """Runs tests marked ``x64`` in double precision."""
  with jax.enable_x64(request.node.get_closest_marker("x64") is not None):
    yield


@pytest.fixture
def seed(request) -> int:
  """A number that depends on the test's name alone."""
  return zlib.crc32(request.node.nodeid.encode())


@pytest.fixture
def key(seed):
  """A typed PRNG key that depends on the test's name alone."""
  return jax.random.key(seed)


@pytest.fixture
def rng(seed):
  """A NumPy generator that depends on the test's name alone."""
  return np.random.default_rng(seed)


@pytest.fixture(autouse=True)
def _doctest_namespace(request, doctest_namespace):
  """What an example in a docstring may use without importing it: jax, jnp, optax, jr."""
  import jax.numpy as jnp
  import optax

  import jaxopt_robust as jr

  doctest_namespace.update(jax=jax, jnp=jnp, optax=optax, jr=jr, np=np)
