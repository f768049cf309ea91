"""The parts of the total-variation experiment against SciPy, scikit-image and duality."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import skimage.restoration

from experiments import _pictures
from experiments.prox import _photographs as photos
from experiments.prox import _total_variation as tv
from experiments.prox import total_variation_image as experiment

N, LAM = 16, 0.1
pytestmark = pytest.mark.x64


@pytest.fixture
def noisy(rng):
  step = np.where(np.arange(N) < N // 2, 0.2, 0.8)
  return jnp.asarray(step[:, None] + 0.1 * rng.standard_normal((N, N)))


def test_the_cosine_basis_is_orthonormal():
  basis = tv.cosine_basis(N)
  np.testing.assert_allclose(basis @ basis.T, np.eye(N), atol=1e-13)


def test_the_blur_is_scipys_with_reflecting_borders(noisy):
  problem = tv.make_problem(N, 1.5)
  ours = tv.filtered(noisy, problem.blur, problem)
  theirs = scipy.ndimage.gaussian_filter(np.asarray(noisy), 1.5, mode="reflect", truncate=4.0)
  np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_the_laplacian_is_that_of_the_differences(noisy):
  problem = tv.make_problem(N, 0.0)
  (twice,) = jax.linear_transpose(tv.differences, noisy)(tv.differences(noisy))
  np.testing.assert_allclose(tv.filtered(noisy, problem.laplacian, problem), twice, atol=1e-12)


def test_the_quadratic_step_is_a_minimiser(noisy, rng):
  problem = tv.make_problem(N, 1.0)
  v = jnp.asarray(rng.standard_normal((N, N, 2)))
  (adjoint,) = jax.linear_transpose(tv.differences, noisy)(v)
  x = tv.quadratic_argmin(adjoint, 0.7, noisy, problem, problem.laplacian)
  loss = lambda x: tv.misfit(x, noisy, problem) + 0.35 * jnp.sum((tv.differences(x) - v) ** 2)
  np.testing.assert_allclose(jax.grad(loss)(x), 0.0, atol=1e-12)


@pytest.fixture
def points(noisy):
  jump = jnp.asarray([0.1, 1.0])
  twice = jnp.stack([noisy, noisy])
  return tv.Point(twice, jnp.full(2, LAM), jump, twice)


@pytest.mark.parametrize("name", tv.METHODS)
def test_each_method_reaches_the_certified_minimum_of_scikit_image(name, noisy, points):
  problem = tv.make_problem(N, 0.0)
  solve, convexity = tv.make_solve(name, 400)
  solved = solve(points, jnp.asarray(convexity), problem)
  best = int(name == tv.FAST)  # its own first step
  image, bound, value = solved.image[best], solved.bound[best], solved.values[best, -1]
  assert 0 <= value - bound < 1e-4 * value
  theirs = skimage.restoration.denoise_tv_chambolle(
    np.asarray(noisy), LAM, eps=0.0, max_num_iter=4000
  )
  exact = tv.objective(jnp.asarray(theirs), (None, LAM), noisy, problem)
  # The objective is 1-strongly convex: 1/2 ||x - x*||^2 is at most the gap.
  assert bound <= exact + 1e-12
  radius = np.sqrt(2 * (value - bound)) + np.sqrt(2 * (exact - bound))
  assert np.linalg.norm(image - theirs) <= radius


def test_strengths_tasks_and_acceleration_share_one_program(points):
  programs = set()
  for name, blur in ((tv.PLAIN, 0.0), (tv.PLAIN, 1.5), (tv.FAST, 0.0)):
    solve, convexity = tv.make_solve(name, 400)
    solve(points, jnp.asarray(convexity), tv.make_problem(N, blur))
    programs.add(solve)
  assert len(programs) == 1 and programs.pop()._cache_size() == 1


def test_the_dual_value_is_a_lower_bound_for_any_dual_point(noisy, rng):
  problem = tv.make_problem(N, 0.0)
  p = jnp.asarray(rng.standard_normal((N, N, 2)))  # mostly outside the balls of radius LAM
  assert tv.dual_value(p, LAM, noisy) <= tv.objective(noisy, (None, LAM), noisy, problem)
  assert float(tv.dual_value(jnp.zeros_like(p), LAM, noisy)) == 0.0


def test_the_peers_undo_a_blur_without_noise():
  picture = _pictures.load_picture("camera", top=30, left=80, pixels=48, block=8)
  picture = picture.astype(np.float64)
  blurred = scipy.ndimage.gaussian_filter(picture, 1.0, mode="reflect", truncate=4.0)
  start = np.linalg.norm(blurred - picture)
  sharp = photos.wiener(1.0)(blurred, 1e-14)  # exact, borders and all, without the regularisation
  assert np.linalg.norm(sharp - picture) < 1e-3 * start
  sharper = photos.richardson_lucy(1.0)(blurred, 50)
  assert np.linalg.norm(sharper - picture) < 0.6 * start


def test_a_wiener_filter_without_blur_and_weight_changes_nothing(noisy):
  np.testing.assert_allclose(photos.wiener(0.0)(np.asarray(noisy), 1e-14), noisy, atol=1e-10)


def test_the_best_setting_of_a_filter_is_the_best_in_the_mean():
  pairs = [(np.full((2, 2), 0.1), np.zeros((2, 2))), (np.full((2, 2), -0.1), np.zeros((2, 2)))]
  choice = photos.tune_filter("gain", lambda y, s: s * y, (1.0, 0.5, 2.0), pairs)
  assert choice.chosen == 0.5 and choice.scores[0] == pytest.approx(-20 * np.log10(0.05))


def test_edges_are_the_pixels_beside_a_jump():
  step = np.zeros((10, 10))
  step[:, 5:] = 1
  near = photos.edges(step)
  assert near[:, 4].all() and near.sum() == 10
  found = photos.levels([step + 0.1 * near], [step])
  assert found["edges"] == [pytest.approx(20.0)] and found["psnr"] == [pytest.approx(30.0)]


def test_steps_are_counted_to_the_first_value_within_the_goal():
  values = np.array([[3.0, 1.5, 1.0, 1.2], [3.0, 2.5, 2.0, 2.0]])
  assert experiment.steps_to(values, np.ones(2), 0.1).tolist() == [3, 5]


def test_a_picture_is_cut_out_encoded_and_decoded():
  picture = _pictures.load_picture("camera", top=0, left=0, pixels=32, block=16)
  assert picture.shape == (32, 32) and 0 <= picture.min() < picture.max() <= 1
  back = _pictures.decode(_pictures.encode(picture), 32)
  assert np.abs(back - picture).max() <= 0.5 / 255 + 1e-6
  assert _pictures.psnr(3.2, 32) == pytest.approx(20.0)
  with pytest.raises(ValueError, match="does not fit"):
    _pictures.load_picture("camera", top=0, left=0, pixels=64, block=16)
