"""The two problems with kinks: the certified minimum, exact and sampled values, the choices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments._training import grid
from experiments.compositional import _kink_methods, _kinks
from experiments.compositional import nonsmooth_compositional as experiment

CONFIG = experiment.Config(linear_steps=25, network_steps=25)


def test_the_minimum_of_the_worst_groups_is_known_by_duality():
  problem = _kinks.make_problem("linear", CONFIG)
  data = jax.tree.map(jnp.asarray, _kinks.load(0, 0, problem, CONFIG))
  least, bound = _kinks.least_value(data, CONFIG)
  assert -1e-9 <= least - bound < 1e-5
  start = problem.exact(data.params["w"], data, CONFIG.alpha)
  assert least < start and start == pytest.approx(np.log(2), rel=1e-6)


@pytest.mark.parametrize("name", experiment.PROBLEMS)
def test_a_sample_of_the_whole_group_gives_the_exact_value(name):
  problem = _kinks.make_problem(name, CONFIG)
  data = jax.tree.map(jnp.asarray, _kinks.load(3, 1, problem, CONFIG))
  params = jax.tree.map(lambda v: v + 0.1, data.params)
  sizes, width = np.asarray(data.sizes, int), data.x.shape[1]
  exact = problem.values(params["w"], data) - params.get("s", problem.level)
  for group in (0, 7):
    weights = jnp.where(jnp.arange(width) < sizes[group], 1 / sizes[group], 0.0)
    sample = _kinks.Sample(jnp.arange(width)[None], weights)
    found = problem.sampled(params, jnp.array([group]), sample, data)
    np.testing.assert_allclose(found[0], exact[group], rtol=1e-5, atol=1e-6)


def test_streams_differ_by_seed_and_by_part():
  problem = _kinks.make_problem("linear", CONFIG)
  drawn = {
    _kinks.load(seed, part, problem, CONFIG).columns.tobytes() for seed in (0, 1) for part in (0, 1)
  }
  assert len(drawn) == 4


def test_no_group_is_drawn_twice_in_a_step():
  problem = _kinks.make_problem("linear", CONFIG)
  index = np.sort(_kinks.load(0, 0, problem, CONFIG).index, axis=1)
  assert index.shape == (25, CONFIG.groups) and (np.diff(index, axis=1) > 0).all()


def test_every_method_has_as_many_pairs_of_numbers():
  for family in _kink_methods.FAMILIES:
    for label, (what, values) in _kink_methods.variants(family, CONFIG).items():
      assert len(values) == (len(CONFIG.rates) if what else 1), label


def test_the_best_pair_is_that_of_the_least_mean_and_never_one_that_diverged():
  axes, shape = grid(second=(0.3, 0.1), rate=(1.0, 2.0, 3.0))
  final = (axes["rate"] + axes["second"]).reshape(1, *shape).astype(float)
  final[0, 1, 0] = np.nan
  second = ("rate", [(0.3, 1.0, False), (0.1, 1.0, False)])
  chosen = [c.chosen for c in experiment.pick("x", (1.0, 2.0, 3.0), second, final)]
  assert chosen == [0.3, 1.0]


def test_settings_that_make_no_sense_are_refused():
  for changes, message in (
    ({"inner": (3,)}, "even"),
    ({"problems": ("network",)}, "linear"),
    ({"families": ("SONEX",)}, "average"),
    ({"linear_steps": 26}, "multiples"),
  ):
    with pytest.raises(ValueError, match=message):
      dataclasses.replace(CONFIG, **changes)
