"""Ranking losses against LibAUC on the same scores, for twenty steps of moving state.

Needs ``torch`` and ``libauc``. LibAUC lets its averages start at 0, where a first visit here takes
the batch's mean whole; each comparison starts from LibAUC's state.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import compositional, losses

torch = pytest.importorskip("torch")
libauc = pytest.importorskip("libauc.losses")
pytestmark = pytest.mark.peer

STEPS, N, ROWS = 20, 24, 60
MARGIN = 0.8
SURROGATE = functools.partial(losses.squared_hinge_surrogate, margin=MARGIN)


def batches():
  rng = np.random.default_rng(0)
  labels = np.arange(N) % 3 == 0
  for _ in range(STEPS):
    scores = rng.normal(size=N).astype(np.float32)
    yield scores, labels.astype(np.int32), rng.permutation(ROWS)[:N].astype(np.int32)


def peer_step(loss, scores, *args):
  """The peer's value and gradient."""
  s = torch.tensor(scores.reshape(-1, 1), requires_grad=True)
  value = loss(s, *(torch.tensor(a) for a in args))
  value.backward()
  return value.item(), s.grad.numpy().ravel()


def compare(ours, theirs, state):
  """Twenty steps of both on the same scores; returns both states."""
  step = jax.jit(lambda s, y, i, state: jax.value_and_grad(ours, has_aux=True)(s, y, i, state))
  for scores, labels, index in batches():
    (value, (state, _)), grads = step(scores, labels, index, state)
    peer_value, peer_grads = peer_step(theirs, scores, labels, index.astype(np.int64))
    np.testing.assert_allclose(value, peer_value, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(grads, peer_grads, rtol=1e-5, atol=1e-6)
  return state


def test_soap():
  theirs = libauc.APLoss(data_len=ROWS, gamma=0.7, margin=MARGIN)
  ours = lambda s, y, i, state: compositional.soap_loss(
    s, y, i, state, rate=0.7, surrogate=SURROGATE
  )
  state = compositional.soap_init(ROWS)._replace(seen=jnp.ones(ROWS, bool))
  state = compare(ours, theirs, state)
  np.testing.assert_allclose(state.averages[:, 0], theirs.u_all.numpy().ravel(), rtol=1e-5)
  np.testing.assert_allclose(state.averages[:, 1], theirs.u_pos.numpy().ravel(), rtol=1e-5)


def test_sopa():
  theirs = libauc.pAUC_CVaR_Loss(data_len=ROWS, pos_len=8, margin=MARGIN, beta=0.3, eta=0.2)
  ours = lambda s, y, i, state: compositional.sopa_loss(
    s, y, i, state, max_fpr=0.3, step_size=0.2, surrogate=SURROGATE
  )
  state = compare(ours, theirs, compositional.sopa_init(ROWS))
  np.testing.assert_allclose(state.threshold, theirs.u_pos.numpy().ravel(), rtol=1e-5, atol=1e-6)


def test_sopas():
  theirs = libauc.pAUC_DRO_Loss(data_len=ROWS, gamma=0.7, margin=MARGIN, Lambda=0.8)
  ours = lambda s, y, i, state: compositional.sopas_loss(
    s, y, i, state, temperature=0.8, rate=0.7, surrogate=SURROGATE
  )
  almost_zero = compositional.SopasState(jnp.full(ROWS, -1e4))
  state = compare(ours, theirs, almost_zero)
  seen = theirs.u_pos.numpy().ravel() > 0
  np.testing.assert_allclose(
    jnp.exp(state.log_average)[seen], theirs.u_pos.numpy().ravel()[seen], rtol=2e-5
  )


def test_sotas():
  theirs = libauc.tpAUC_KL_Loss(
    data_len=ROWS, margin=MARGIN, Lambda=0.8, tau=1.5, gammas=(0.7, 0.6)
  )
  ours = lambda s, y, i, state: compositional.sotas_loss(
    s,
    y,
    i,
    state,
    temperature=0.8,
    positive_temperature=1.5,
    rate=0.7,
    positive_rate=0.6,
    surrogate=SURROGATE,
  )
  almost_zero = compositional.SotasState(jnp.full(ROWS, -1e4), jnp.asarray(-1e4, jnp.float32))
  state = compare(ours, theirs, almost_zero)
  np.testing.assert_allclose(np.exp(state.log_total), float(theirs.w), rtol=2e-5)


def test_staco():
  theirs = libauc.auc.tpAUC_CVaR_loss(
    data_length=ROWS, threshold=MARGIN, alpha=0.1, beta_0=0.2, beta_1=0.05, theta_0=0.4, theta_1=0.3
  )
  ours = lambda s, y, i, state: compositional.staco_loss(
    s,
    y,
    i,
    state,
    max_fpr=0.3,
    min_tpr=0.6,
    dual_step_size=0.1,
    step_size=0.2,
    positive_step_size=0.05,
    surrogate=SURROGATE,
  )
  state = compositional.staco_init(ROWS, threshold=0.0, positive_threshold=0.0)
  state = compare(ours, theirs, state)
  np.testing.assert_allclose(state.dual, theirs.dual_var.numpy().ravel(), rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(state.threshold, theirs.s1.numpy().ravel(), rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(state.positive_threshold, float(theirs.s2), rtol=1e-5)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_auc_margin(version):
  theirs = libauc.AUCMLoss(margin=MARGIN, version=version)
  prior = np.float32(8 / 24) if version == "v1" else None
  variables = losses.AucMarginVariables(*jnp.array([0.4, -0.2, 0.3]))
  for name, value in variables._asdict().items():
    getattr(theirs, name).data.fill_(float(value))

  @jax.jit
  def step(s, y, variables):
    loss = lambda s, v: jnp.mean(losses.auc_margin_loss(s, y, v, margin=MARGIN, prior=prior))
    return jax.value_and_grad(loss, argnums=(0, 1))(s, variables)

  for scores, labels, _ in batches():
    theirs.zero_grad()
    value, (grads, slopes) = step(scores, labels, variables)
    peer_value, peer_grads = peer_step(theirs, scores, labels)
    peer_slopes = {name: float(getattr(theirs, name).grad) for name in slopes._fields}
    if version == "v2":
      # LibAUC 2.0.1 divides the sum over the negatives by the size of the batch where its
      # documentation has their mean; the term that this leaves out is added here.
      negative = scores * (labels == 0)
      missing = negative.sum() * (1 / 16 - 1 / N)
      peer_value += 2 * 0.3 * missing
      peer_grads = peer_grads + 2 * 0.3 * (1 / 16 - 1 / N) * (labels == 0)
      peer_slopes["alpha"] += 2 * missing
    np.testing.assert_allclose(value, peer_value, rtol=1e-5)
    np.testing.assert_allclose(grads, peer_grads, rtol=1e-5, atol=1e-6)
    for name, slope in slopes._asdict().items():
      np.testing.assert_allclose(slope, peer_slopes[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
  ("name", "surrogate", "hyper"),
  [
    ("squared_hinge", SURROGATE, MARGIN),
    ("squared", functools.partial(losses.squared_surrogate, margin=MARGIN), MARGIN),
    ("hinge", functools.partial(losses.hinge_surrogate, margin=MARGIN), MARGIN),
    ("logistic", functools.partial(losses.logistic_surrogate, scale=1.7), 1.7),
    (
      "barrier_hinge",
      functools.partial(losses.barrier_hinge_surrogate, margin=MARGIN, scale=3.0),
      (MARGIN, 3.0),
    ),
  ],
)
def test_pairwise(name, surrogate, hyper):
  theirs = libauc.PairwiseAUCLoss(surr_loss=name, hparam=hyper)

  @jax.jit
  def step(s, y):
    loss = lambda s: jnp.sum(losses.pairwise_auc_loss(s, y, surrogate=surrogate)) / 8
    return jax.value_and_grad(loss)(s)

  for scores, labels, _ in batches():
    value, grads = step(scores, labels)
    peer_value, peer_grads = peer_step(theirs, scores, labels)
    np.testing.assert_allclose(value, peer_value, rtol=1e-5)
    np.testing.assert_allclose(grads, peer_grads, rtol=1e-5, atol=1e-6)


QUERIES, ITEMS, POSITIVES = 4, 9, 3  # the peer wants the relevant items first


@pytest.mark.parametrize("version", ["song", "prac", "theo"])
def test_song(version):
  rng = np.random.default_rng(1)
  k = -1 if version == "song" else 2
  options = {"smoothing": 0.3, "ridge": 1e-2, "step_size": 0.1, "curvature_rate": 0.6}
  theirs = libauc.NDCGLoss(
    N=QUERIES * ITEMS,
    num_user=QUERIES,
    num_item=ITEMS,
    num_pos=POSITIVES,
    gamma0=0.7,
    gamma1=0.6,
    eta0=0.1,
    margin=MARGIN,
    topk=k,
    topk_version=version,
    tau_1=0.3,
    tau_2=1e-2,
    sigmoid_alpha=1.0,  # the peer's derivative of the sigmoid leaves this factor out
  )
  seen = jnp.ones((QUERIES, ITEMS), bool)
  if version == "song":
    state = compositional.song_init(QUERIES, ITEMS)._replace(seen=seen)
    loss = compositional.song_loss
  else:
    state = compositional.k_song_init(QUERIES, ITEMS)
    state = state._replace(seen=seen, query_seen=jnp.ones(QUERIES, bool))
    correction = "none" if version == "prac" else "hessian"
    loss = functools.partial(
      compositional.k_song_loss, k=2, correction=correction, selection_scale=1.0, **options
    )

  @jax.jit
  def step(s, grades, index, state, ideal):
    fun = lambda s: loss(
      s,
      grades,
      index,
      state,
      rate=0.7,
      num_relevant=5.0,
      ideal_dcg=ideal,
      surrogate=SURROGATE,
    )
    return jax.value_and_grad(fun, has_aux=True)(s)

  for _ in range(STEPS):
    scores = rng.normal(size=(2, ITEMS)).astype(np.float32)
    grades = np.zeros((2, ITEMS), np.int32)
    grades[:, :POSITIVES] = rng.integers(1, 4, size=(2, POSITIVES))
    query = rng.permutation(QUERIES)[:2].astype(np.int32)
    item = np.stack([rng.permutation(ITEMS) for _ in range(2)]).astype(np.int32)
    ideal = rng.uniform(2, 5, size=2).astype(np.float32)
    (value, (state, _)), grads = step(scores, grades, (query, item), state, ideal)
    s = torch.tensor(scores, requires_grad=True)
    batch = {
      "rating": torch.tensor(grades),
      "user_id": torch.tensor(query.astype(np.int64)),
      "num_pos_items": torch.full((2,), 5.0),
      "ideal_dcg": torch.tensor(ideal),
      "user_item_id": torch.tensor(query[:, None] * ITEMS + item, dtype=torch.int64),
    }
    peer_value = theirs(s, batch)
    peer_value.backward()
    np.testing.assert_allclose(value, peer_value.item(), rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(grads, s.grad.numpy(), rtol=5e-5, atol=1e-6)
  np.testing.assert_allclose(state.average.ravel(), theirs.u.numpy(), rtol=1e-5)
