"""What every loss of one set of scores must satisfy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import central_difference
from tests.registries.losses import CASES

BATCH, CLASSES = 8, 5
LABELS = np.array([0, 3, 1, 3, 4, 2, 2, 0], np.int32)
EVERY = np.ones(BATCH, bool)
every_case = pytest.mark.parametrize("case", CASES, ids=str)


@functools.cache
def compiled(index: int):
  """Jitted ``(logits, labels, hyper, where, direction) -> (losses, gradient, derivative)``.

  One shape for all tests: compilation is what takes time.
  """
  loss = CASES[index].loss

  def evaluate(logits, labels, hyper, where, direction):
    def total(x):
      values = loss(x, labels, where=where, **hyper)
      return jnp.sum(values), values

    grads, values = jax.grad(total, has_aux=True)(logits)
    _, slope = jax.jvp(lambda x: total(x)[0], (logits,), (direction,))
    return values, grads, slope

  return jax.jit(evaluate)


def evaluate(case, logits, labels=LABELS, where=EVERY, scale=1.0):
  hyper = {name: np.float32(value * scale) for name, value in case.hyper.items()}
  fun = compiled(CASES.index(case))
  return fun(
    logits, labels, hyper, where, jnp.cos(jnp.arange(40.0, dtype=logits.dtype)).reshape(8, 5)
  )


@pytest.fixture
def logits(rng):
  return jnp.asarray(rng.normal(size=(BATCH, CLASSES)), jnp.result_type(float))


@every_case
def test_shape_dtype_and_jit(case, logits):
  values, _, _ = evaluate(case, logits)
  assert values.shape == (BATCH,) and values.dtype == jnp.float32 and not values.weak_type
  eager = case.loss(logits, LABELS, **case.hyper)
  np.testing.assert_allclose(eager, values, rtol=2e-5, atol=1e-6)
  default = jax.eval_shape(lambda x: case.loss(x, jnp.zeros((2, 4), int)), logits.reshape(2, 4, 5))
  assert default.shape == (2, 4)


@every_case
def test_equals_its_single_example_form(case, logits):
  values, _, _ = evaluate(case, logits)
  single = jax.jit(jax.vmap(lambda row, label, hyper: case.loss(row, label, **hyper)))
  ones = np.ones(BATCH, np.float32)
  by_row = {name: np.float32(value) * ones for name, value in case.hyper.items()}
  np.testing.assert_allclose(single(logits, LABELS, by_row), values, rtol=2e-5, atol=1e-6)
  if by_row and not case.name.startswith("aldr"):  # hyperparameters may differ from row to row
    factors = 1 - 0.05 * np.arange(BATCH, dtype=np.float32)
    by_row = {name: np.float32(value) * factors for name, value in case.hyper.items()}
    together = jax.jit(lambda x: case.loss(x, LABELS, **by_row))(logits)
    np.testing.assert_allclose(together, single(logits, LABELS, by_row), rtol=2e-5, atol=1e-6)


@every_case
def test_mask_equals_dropping_rows(case, logits):
  values, grads, _ = evaluate(case, logits)
  where = np.arange(BATCH) % 2 == 0
  hidden = logits.at[1].set(jnp.nan).at[3].set(jnp.inf)
  labels = np.where(where, LABELS, np.where(np.arange(BATCH) < 4, -1, CLASSES))
  masked, masked_grads, _ = evaluate(case, hidden, labels, where)
  np.testing.assert_array_equal(masked[1::2], 0.0)
  np.testing.assert_array_equal(masked_grads[1::2], 0.0)
  np.testing.assert_allclose(masked[::2], values[::2], rtol=2e-5, atol=1e-6)
  np.testing.assert_allclose(masked_grads[::2], grads[::2], rtol=2e-5, atol=1e-6)


def test_labels_that_are_masked_out_are_not_checked():
  where = jnp.array([True, False])
  loss = CASES[0].loss(jnp.zeros((2, 2)), jnp.array([0, -1]), where=where)
  np.testing.assert_allclose(loss, [np.log(2), 0], rtol=1e-6)


@every_case
def test_labels_out_of_range_are_nan_under_jit(case, logits):
  labels = np.array([0, -1, CLASSES, 3, -5, 2**31 - 1, -(2**31), 1], np.int32)
  values, grads, _ = evaluate(case, logits, labels)
  is_bad = (labels < 0) | (labels >= CLASSES)
  np.testing.assert_array_equal(jnp.isnan(values), is_bad)
  assert np.all(np.isfinite(grads[~is_bad]))


@every_case
def test_finite_at_huge_scores(case):
  patterns = [[1, -1, -1, -1, -1], [-1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [-1, -1, -1, -1, -1]]
  patterns += [[1, -1, 0, 1, -1], [0, 0, 0, 0, 0], [-1, 0, 1, 1, 1], [0, 1, 1, -1, 0]]
  labels = np.zeros(BATCH, np.int32)
  values, grads, slope = evaluate(case, 1e4 * jnp.array(patterns, jnp.float32), labels)
  assert np.all(np.isfinite(values)) and np.all(np.isfinite(grads)) and np.isfinite(slope)


@pytest.mark.x64
@every_case
def test_gradient_and_precision(case, logits):
  values, grads, slope = evaluate(case, logits)
  assert values.dtype == jnp.float64
  direction = np.cos(np.arange(40.0)).reshape(BATCH, CLASSES)
  np.testing.assert_allclose(slope, np.sum(grads * direction), rtol=1e-12, atol=1e-12)
  if not case.frozen:
    total = lambda x: np.sum(evaluate(case, x)[0])
    # central differences: error about eps^2 / 6 |f'''| + 1e-16 |f| / eps, that is 1e-9
    np.testing.assert_allclose(grads, central_difference(total, logits), rtol=1e-6, atol=1e-7)
  narrow = np.asarray(logits, np.float32)
  wide_values, wide_grads, _ = evaluate(case, jnp.asarray(narrow, jnp.float64))
  with jax.enable_x64(False):
    values, grads, _ = evaluate(case, jnp.asarray(narrow))
  assert values.dtype == jnp.float32
  # float32 epsilon 1e-7, a dozen operations, conditioning at most that of the softmax
  np.testing.assert_allclose(values, wide_values, rtol=2e-5, atol=2e-6)
  np.testing.assert_allclose(grads, wide_grads, rtol=2e-5, atol=5e-6)


@every_case
def test_bfloat16_is_computed_in_float32(case, logits):
  half = logits.astype(jnp.bfloat16)
  values, grads, _ = evaluate(case, half)
  assert values.dtype == jnp.bfloat16 and grads.dtype == jnp.bfloat16
  if case.name not in ("margin_deviation", "smooth_adversarial_comp_sum_loss"):
    # (those cases compute their second set of scores in bfloat16 themselves)
    expected, _, _ = evaluate(case, half.astype(jnp.float32))
    # at most one step of bfloat16 apart: the fused programs may round differently
    np.testing.assert_allclose(
      values.astype(np.float32), expected.astype(jnp.bfloat16).astype(np.float32), rtol=2**-7
    )


@pytest.mark.parametrize("case", [c for c in CASES if c.hyper], ids=str)
def test_new_hyperparameters_do_not_retrace(case, logits):
  first, _, _ = evaluate(case, logits)
  size = compiled(CASES.index(case))._cache_size()
  second, _, _ = evaluate(case, logits, scale=0.9)
  assert compiled(CASES.index(case))._cache_size() == size
  if not np.isinf(case.hyper.get("temperature", 0)):
    assert np.any(first != second)  # the new values were used


# Of these the mean over all classes, or the difference of two sets of scores, may be undefined.
_NEED_ALL_SCORES = ("ldr_kl_loss", "aldr_kl", "margin_deviation", "smooth_adversarial")


@every_case
def test_a_score_of_minus_infinity_excludes_a_class(case, logits):
  """The limit of a falling score, also where the label's class alone is left."""
  out = jnp.zeros((BATCH, CLASSES), bool).at[0].set(True).at[1, 2].set(True)
  out = out & (jnp.arange(CLASSES)[None] != LABELS[:, None])
  values, grads, _ = evaluate(case, jnp.where(out, -jnp.inf, logits))
  limit = evaluate(case, jnp.where(out, -3e4, logits))  # some fall like 1 over the score
  is_defined = np.isfinite(values) | ~np.any(out, axis=1)
  assert case.name.startswith(_NEED_ALL_SCORES) or is_defined.all()
  np.testing.assert_allclose(values[is_defined], limit[0][is_defined], rtol=1e-3, atol=1e-6)
  np.testing.assert_allclose(grads[is_defined], limit[1][is_defined], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("case", [c for c in CASES if c.symmetric_sum], ids=str)
def test_symmetric_losses_sum_to_a_constant(case, logits):
  total = sum(evaluate(case, logits, np.full(BATCH, y, np.int32))[0] for y in range(CLASSES))
  np.testing.assert_allclose(total, case.symmetric_sum(**case.hyper), rtol=1e-5, atol=1e-5)
