"""New classes on a drifting stream: masks, sessions and steps against their parts and by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxopt_robust import robustness, transforms

CLASSES, SHOTS, WIDTH = 5, 2, 6
CENTERS = np.eye(CLASSES, WIDTH)


def encode(params, x):
  return x * params["scale"][None] + params["shift"][None]


def start():
  return {"scale": jnp.ones(WIDTH), "shift": jnp.full(WIDTH, 0.05)}


def optimizer():
  return transforms.rsgs(optax.sgd(0.05, momentum=0.9))


def draw(seed, labels, shift=0.0):
  rng = np.random.default_rng(seed)
  labels = np.asarray(labels)
  noise = 0.15 * rng.standard_normal((*labels.shape, WIDTH))
  return jnp.asarray(CENTERS[labels] + noise + shift, jnp.float32)


def initial():
  """Classes 1 and 3 are the base session."""
  labels = jnp.array([1, 3] * 4)
  return robustness.csfa_init(
    encode, optimizer(), start(), draw(0, labels), labels, num_classes=CLASSES
  )


def units(rows):
  rows = np.asarray(rows, float)
  return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_masks_leave_rows_out():
  rng = np.random.default_rng(3)
  new, base = rng.standard_normal((2, 2, 4)).astype(np.float32)
  both = np.stack([base[0], [np.nan] * 4, base[1]])
  mask = np.array([True, False, True])
  calibrated = robustness.calibrate_prototypes(new, both, where=mask)
  np.testing.assert_allclose(calibrated, robustness.calibrate_prototypes(new, base), rtol=1e-6)
  none = robustness.calibrate_prototypes(new, both, where=np.zeros(3, bool))
  np.testing.assert_allclose(units(none), units(new), rtol=1e-6)
  logits = robustness.prototype_logits(new, both, where=mask)
  np.testing.assert_allclose(logits[:, mask], robustness.prototype_logits(new, base), rtol=1e-6)
  assert np.isneginf(logits[:, 1]).all()
  half = robustness.prototype_logits(new, base, temperature=0.5)
  np.testing.assert_allclose(32 * half, logits[:, mask], rtol=1e-6)
  slope = jax.grad(
    lambda v: robustness.prediction_entropy(robustness.prototype_logits(v, both, where=mask)).sum()
  )
  kept = jax.grad(
    lambda v: robustness.prediction_entropy(robustness.prototype_logits(v, base)).sum()
  )
  np.testing.assert_allclose(slope(jnp.asarray(new)), kept(jnp.asarray(new)), rtol=1e-4, atol=1e-6)


def test_base_session():
  state, labels = initial(), np.array([1, 3] * 4)
  features = np.asarray(encode(start(), draw(0, labels)))
  assert state.seen.tolist() == state.base.tolist() == [False, True, False, True, False]
  for k in (1, 3):
    mean = features[labels == k].mean(0)
    np.testing.assert_allclose(state.prototypes[k], units(mean), rtol=1e-5)
  few = robustness.csfa_init(
    encode, optimizer(), start(), draw(0, labels), labels, num_classes=CLASSES,
    where=labels == 3,
  )  # fmt: skip
  assert few.seen.tolist() == [False, False, False, True, False]
  np.testing.assert_array_equal(few.prototypes[3], state.prototypes[3])


def test_masked_labels_may_be_anything():
  """Also what no int32 holds: such rows are ignored."""
  labels, where = [1, 2**40, 3, -7], np.array([True, False, True, False])
  x = draw(0, [1, 1, 3, 3])
  state = robustness.csfa_init(
    encode, optimizer(), start(), x, labels, num_classes=CLASSES, where=where
  )
  assert state.seen.tolist() == [False, True, False, True, False]
  after = robustness.csfa_add_classes(encode, state, x, [0, 2**40, 3, -7], where=where)
  assert after.seen.tolist() == [True, True, False, True, False]


def test_new_classes_are_calibrated_means_under_the_parameters_of_today():
  state = initial()
  moved = jax.tree.map(lambda v: v + 0.3, state.stream.params)
  state = state._replace(stream=state.stream._replace(params=moved))
  labels = jnp.array([0, 0, 3, 4])  # 3 is known, 4 is masked
  x, where = draw(1, labels), jnp.array([True, True, True, False])
  after = robustness.csfa_add_classes(encode, state, x, labels, where=where)
  assert after.seen.tolist() == [True, True, False, True, False]
  assert after.base.tolist() == state.base.tolist()
  np.testing.assert_array_equal(after.prototypes[1:], state.prototypes[1:])
  mean = units(np.asarray(encode(moved, x))[:2].mean(0))
  base = units(state.prototypes[jnp.array([1, 3])])
  shares = np.exp(16 * base @ mean)
  towards = units(shares / shares.sum() @ base)
  np.testing.assert_allclose(after.prototypes[0], 0.5 * mean + 0.5 * towards, rtol=1e-4)
  plain = robustness.csfa_add_classes(encode, state, x, labels, where=where, weight=0.0)
  np.testing.assert_allclose(plain.prototypes[0], mean, rtol=1e-5)
  # A later new class is compared with the base classes, not with those that came in between.
  later = [
    robustness.csfa_add_classes(encode, s, draw(2, [2]), jnp.array([2])) for s in (state, after)
  ]
  np.testing.assert_array_equal(later[0].prototypes[2], later[1].prototypes[2])


@functools.cache
def stepped(threshold=None):
  state, x = initial(), draw(5, [1, 3, 1, 3, 1, 3, 3, 1], shift=0.2)
  step = lambda s, x: robustness.csfa_stream_step(encode, optimizer(), s, x, threshold=threshold)
  return state, x, *jax.jit(step)(state, x)


def test_step_is_the_step_of_a_stream_on_the_classes_that_are_seen():
  state, x, after, info = stepped()
  rows = jnp.array([1, 3])
  apply_fn = lambda p, x: robustness.prototype_logits(encode(p, x), state.prototypes[rows])
  tx = optimizer()
  peer, peer_info = robustness.stream_step(
    apply_fn, tx, robustness.stream_init(start(), tx), x, threshold=0.4 * np.log(2)
  )
  assert int(info.num_reliable) == int(peer_info.num_reliable) > 0
  np.testing.assert_allclose(info.logits[:, rows], peer_info.logits, rtol=1e-5)
  assert np.isneginf(info.logits[:, jnp.array([0, 2, 4])]).all()
  for key, value in peer.params.items():
    assert not np.array_equal(value, start()[key])
    np.testing.assert_allclose(after.stream.params[key], value, rtol=1e-4, atol=1e-6)
  np.testing.assert_array_equal(after.prototypes, state.prototypes)
  np.testing.assert_allclose(
    robustness.csfa_logits(encode, state, x), info.logits, rtol=1e-5
  )  # answers come before the adaptation


def test_nothing_reliable_changes_nothing():
  state, _, after, info = stepped(0.0)
  jax.tree.map(np.testing.assert_array_equal, state, after)
  assert int(info.num_reliable) == 0 and float(info.entropy) == 0
  labels = jnp.zeros(2, jnp.int32)  # a single class leaves nothing to be uncertain about
  one = robustness.csfa_init(
    encode, optimizer(), start(), draw(0, labels), labels, num_classes=CLASSES
  )
  _, info = robustness.csfa_stream_step(encode, optimizer(), one, draw(4, [0, 1]))
  assert int(info.num_reliable) == 0 and jnp.argmax(info.logits, axis=1).tolist() == [0, 0]


def test_sessions_are_one_scan():
  """Three sessions of different numbers of new classes, padded: a scan is the loop of calls."""
  fresh = np.array([[0, 0, 0, 0], [2, 2, 4, 4], [0, 0, 0, 0]])
  known = np.array([[True] * 2 + [False] * 2, [True] * 4, [False] * 4])
  shots = draw(10, fresh, shift=0.1)
  rng = np.random.default_rng(6)
  truth = np.stack([rng.choice(c, (3, 8)) for c in ([0, 1, 3], range(5), range(5))])
  batches = draw(11, truth, shift=0.25)
  traces = []

  def session(state, data):
    traces.append(None)
    shots, labels, where, batches = data
    state = robustness.csfa_add_classes(encode, state, shots, labels, where=where)
    step = lambda s, x: robustness.csfa_stream_step(encode, optimizer(), s, x)
    state, info = jax.lax.scan(step, state, batches)
    return state, (info.logits, state.seen)

  data = (shots, jnp.asarray(fresh), jnp.asarray(known), batches)
  run = jax.jit(lambda state, data: jax.lax.scan(session, state, data))
  state, (logits, seen) = run(initial(), data)
  assert len(traces) == 1
  assert seen.tolist() == [[True, True, False, True, False], [True] * 5, [True] * 5]
  assert np.isneginf(np.asarray(logits)[0][..., [2, 4]]).all()
  assert float(np.mean(np.argmax(logits, axis=-1) == truth)) > 0.8
  one_session, loop = jax.jit(session), initial()
  for t in range(3):
    loop, (answers, _) = one_session(loop, jax.tree.map(lambda v, t=t: v[t], data))
    np.testing.assert_allclose(answers, logits[t], rtol=1e-4, atol=1e-4)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), loop, state)
