"""Mixtures of experts and their neighbours: units, samples without neighbours, refused inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_robust import layers, nets


def model(params, x, override):
  """Two experts with the logits e_1 and e_2."""
  router = jax.nn.softmax(x, axis=-1)[:, None]
  return layers.override_router(router, override)[:, 0] * params, router


X = jnp.array([[0.2, 0.0], [1.0, 2.0]])
KNOWN = jnp.array([[0.0, 0.3], [1.0, 0.0], [0.5, 0.5]])
NEAR = layers.kernel_neighbors(X, KNOWN, num_neighbors=2, max_similarity=np.inf)


def remix(**options):
  options = {
    "inputs": KNOWN, "labels": jnp.array([1, 0, 1]), "neighbors": NEAR, "num_steps": 2,
    "optimizer": optax.sgd(0.1), "num_experts": 2, "num_layers": 1, **options,
  }  # fmt: skip
  return layers.remix_pathways(model, 2.0, X, **options)


@pytest.mark.parametrize("near", [3.0, 5.0, 11.0, 17.0, 333.0])
def test_distances_of_whole_numbers_are_exact(near):
  # near +- 2 lie on the boundary of the ball, which belongs to it.
  references = jnp.array([[near + 2], [near - 2], [7.3 * near + 9]])
  found = layers.kernel_neighbors(
    jnp.array([[near]]), references, num_neighbors=2, radius=2.0, max_similarity=np.inf
  )
  np.testing.assert_array_equal(found.where, [[True, True]])
  np.testing.assert_array_equal(found.distance, [[2.0, 2.0]])


def test_distances_far_from_the_origin_are_those_of_the_given_numbers():
  found = layers.kernel_neighbors(
    jnp.array([[10007.25]]), jnp.array([[10007.0], [10009.0], [10013.0]]), max_similarity=np.inf
  )
  np.testing.assert_array_equal(found.distance, [[0.25, 1.75, 5.75]])


def test_sums_of_the_largest_numbers():
  large = jnp.array([3e38, 1e38, 2e38], jnp.float32)
  shares = layers.select_experts(large, num_selected=2, renormalize=True)
  np.testing.assert_allclose(shares, [0.6, 0, 0.4], rtol=1e-6)
  core = jnp.array([[True, False, True]])
  one = layers.restrict_pathway(large[None], core, total="one")
  np.testing.assert_allclose(one.weights, [[0.6, 0, 0.4]], rtol=1e-6)
  pathway = layers.Pathway(jnp.array([[1.0, 0.0]]), jnp.ones((1, 2), bool))
  for unit in (1.0, 1e38, 1e-37):  # a mean has no unit of the weights
    loss = layers.neighborhood_loss(
      model, 2.0, pathway, inputs=jnp.zeros((2, 2)), labels=jnp.array([0, 1]),
      weights=unit * jnp.array([3.0, 1.0]),
    )  # fmt: skip
    # log(1 + exp(-2)) of the first, 2 more of the second.
    np.testing.assert_allclose(loss, np.log1p(np.exp(-2)) + 0.5, rtol=1e-6)


@pytest.mark.parametrize("options", [
  {"floor": 0.4},
  {"optimizer": optax.adamw(0.1), "parametrization": "softmax"},
  {"optimizer": optax.chain(optax.sgd(0.1), optax.add_noise(1.0, 0.0, 0))},
])  # fmt: skip
def test_without_neighbours_the_answer_is_kept(options):
  none = layers.kernel_neighbors(X, KNOWN, num_neighbors=2, where=jnp.zeros(3, bool))
  logits, info = remix(neighbors=none, **options)
  np.testing.assert_array_equal(logits, info.base_logits)
  one = jax.tree.map(lambda a, b: a.at[1].set(b[1]), NEAR, none)  # the others move
  logits, info = remix(neighbors=one, **options)
  np.testing.assert_array_equal(logits[1], info.base_logits[1])
  assert np.any(logits[0] != info.base_logits[0])


def test_what_remixing_refuses():
  with pytest.raises(ValueError, match=r"neighbors.weights must be >= 0; got -"):
    remix(neighbors=NEAR._replace(weights=-NEAR.weights))
  with pytest.raises(ValueError, match=r"labels must lie in \[0, 2\); got 7"):
    remix(labels=jnp.array([7, 0, 1]))
  # A label that no sample asks for may be unknown.
  known = layers.kernel_neighbors(X, KNOWN, num_neighbors=1, max_similarity=np.inf)
  unused = np.setdiff1d(np.arange(3), known.rows)
  assert unused.size
  labels = np.array([1, 0, 1])
  expected = remix(neighbors=known, labels=labels)[0]
  labels[unused] = -1
  np.testing.assert_array_equal(remix(neighbors=known, labels=labels)[0], expected)
  start = layers.Pathway(jnp.array([[0.5, 0.5]]), jnp.ones((1, 2), bool))
  with pytest.raises(ValueError, match=r"^num_neighbors must be at most 1"):
    layers.pathway_mode_finding(start, jnp.ones((1, 1, 2)))
  with pytest.raises(ValueError, match=r"^start must be finite"):
    layers.pathway_mode_finding(
      start._replace(weights=jnp.array([[0.5, jnp.nan]])), jnp.ones((1, 1, 2)), num_neighbors=1
    )


def test_scores_are_no_routing_weights():
  scores = jnp.array([[-2.0, 0.5, 0.3]])
  with pytest.raises(ValueError, match="weights must be >= 0"):
    layers.select_experts(scores, num_selected=2)
  with pytest.raises(ValueError, match="probabilities must be >= 0"):
    layers.load_balance_loss(scores)


def test_what_the_transformer_refuses():
  x = jnp.ones((2, 3, 2))
  build = lambda **sizes: nets.MixtureTransformer(**{"classes": 2, "tokens": 3, **sizes})
  for name in ("classes", "tokens", "hidden"):
    with pytest.raises(ValueError, match=f"{name} must be at least 1; got 0"):
      jax.eval_shape(build(**{name: 0}).init, jax.random.key(0), x)
  network = build(width=4, layers=1, experts=2, hidden=3)
  params = network.init(jax.random.key(0), x)
  logits, router = network.apply(params, x)
  np.testing.assert_array_equal(network.apply(params, np.ones((2, 3, 2)).tolist())[0], logits)
  for override in (router, (router, router > 0)):
    with pytest.raises(TypeError, match="override must be a Pathway"):
      network.apply(params, x, override)
  with pytest.raises(TypeError, match=r"^x must be"):
    network.apply(params, x.astype(complex))
