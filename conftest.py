"""Strict JAX settings for every test, fake devices, and keys derived from test names."""

import gc
import zlib

import jax
import numpy as np
import pytest

# Before any device is used. Eight devices serve the sharding tests; the rest runs on the first.
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Traced programs are many small objects that live on: looking at them less often saves time.
gc.set_threshold(100_000, 20, 20)


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
