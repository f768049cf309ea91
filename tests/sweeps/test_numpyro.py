"""A sweep runs the chains of NumPyro."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_robust as jr

pytestmark = [pytest.mark.peer, pytest.mark.slow]

CHAINS, DRAWS = 4, 400


@pytest.fixture(scope="module")
def regression():
  rng = np.random.default_rng(0)
  x = rng.standard_normal((30, 3)).astype(np.float32)
  y = (x @ np.arange(3.0) + rng.standard_normal(30)).astype(np.float32)
  return x, y


@pytest.fixture(scope="module")
def draws(regression):
  """Draws of a Bayesian regression with trajectories of a fixed length, by the way they are run."""
  pytest.importorskip("numpyro")
  import numpyro.distributions as dist
  from numpyro import sample
  from numpyro.infer import HMC, MCMC

  def model(x, y):
    b = sample("b", dist.Normal(jnp.zeros(3), 1.0))
    sample("y", dist.Normal((x * b).sum(axis=-1), 1.0), obs=y)

  def on(devices, **options):
    mesh = jr.sweeps.make_sweep_mesh(num_devices=devices)
    return lambda fn: jr.sweeps.sweep(fn, mesh=mesh, **options)

  def run(method):
    kernel = HMC(
      model, step_size=0.05, num_steps=8, trajectory_length=None, adapt_step_size=False,
      adapt_mass_matrix=False,
    )  # fmt: skip
    mcmc = MCMC(
      kernel, num_warmup=20, num_samples=DRAWS, num_chains=CHAINS, chain_method=method,
      progress_bar=False,
    )  # fmt: skip
    mcmc.run(jax.random.key(0), *map(jnp.asarray, regression))
    return np.asarray(mcmc.get_samples(group_by_chain=True)["b"])

  methods = {
    "sequential": "sequential",
    "vectorized": "vectorized",
    "sweep": jr.sweeps.sweep,
    "sweep on 1 device": on(1),
    "vmap": lambda fn: jr.sweeps.sweep(fn, backend="vmap"),
  }
  with jax.numpy_rank_promotion("allow"):  # its distributions rely on it
    return {name: run(method) for name, method in methods.items()}


def test_on_one_device_the_bits_are_those_of_vmap(draws):
  np.testing.assert_array_equal(draws["sweep on 1 device"], draws["vmap"])


def test_all_ways_take_the_same_keys_and_agree_to_rounding_at_first(draws):
  # The potential is quadratic, so that trajectories keep a difference of some 1e-6 that size; later
  # one of them may be accepted here and rejected there.
  for name, value in draws.items():
    first = draws["sequential"][:, :20]
    np.testing.assert_allclose(value[:, :20], first, atol=1e-4, err_msg=name)


def test_the_draws_have_the_mean_of_the_posterior(draws, regression):
  x, y = (np.asarray(part, np.float64) for part in regression)
  covariance = np.linalg.inv(np.eye(3) + x.T @ x)
  mean = covariance @ x.T @ y
  value = draws["sweep"]
  assert value.shape == (CHAINS, DRAWS, 3)
  # A trajectory of 0.4 is a tenth of a period: one independent draw in ten or so.
  error = 5 * np.sqrt(np.diag(covariance) / (CHAINS * DRAWS / 10))
  assert np.all(np.abs(value.mean(axis=(0, 1)) - mean) < error)
  assert len({chain.tobytes() for chain in value}) == CHAINS
