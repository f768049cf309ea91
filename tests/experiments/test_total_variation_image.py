"""The parts of the total-variation experiment against SciPy, scikit-image and duality."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import skimage.restoration

from experiments import _pictures
from experiments.prox import total_variation_image as tv
from jaxopt_robust import solvers

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
  problem = tv.make_problem(N, None)
  (twice,) = jax.linear_transpose(tv.differences, noisy)(tv.differences(noisy))
  np.testing.assert_allclose(tv.filtered(noisy, problem.laplacian, problem), twice, atol=1e-12)


def test_the_quadratic_step_is_a_minimiser(noisy, rng):
  problem = tv.make_problem(N, 1.0)._replace(observed=noisy)
  v = jnp.asarray(rng.standard_normal((N, N, 2)))
  (adjoint,) = jax.linear_transpose(tv.differences, noisy)(v)
  x = tv.quadratic_argmin(adjoint, 0.7, problem, problem.laplacian)
  loss = lambda x: tv.misfit(x, problem) + 0.35 * jnp.sum((tv.differences(x) - v) ** 2)
  np.testing.assert_allclose(jax.grad(loss)(x), 0.0, atol=1e-12)


@pytest.mark.parametrize("name", tv.METHODS)
def test_each_method_reaches_the_certified_minimum_of_scikit_image(name, noisy):
  problem = tv.make_problem(N, None)
  norm = solvers.operator_norm(tv.differences, noisy, key=jax.random.key(0))
  solve = tv.make_solve(name, 400)
  jump = jnp.asarray(1.0 if "accelerated" in name else 0.1)
  images, bounds, values = solve(noisy[None], jnp.asarray(LAM), jump, norm, problem)
  assert 0 <= values[0, -1] - bounds[0] < 1e-4 * values[0, -1]
  theirs = skimage.restoration.denoise_tv_chambolle(
    np.asarray(noisy), LAM, eps=0.0, max_num_iter=4000
  )
  exact = tv.objective(jnp.asarray(theirs), (None, LAM), problem._replace(observed=noisy))
  # The objective is 1-strongly convex: 1/2 ||x - x*||^2 is at most the gap.
  assert bounds[0] <= exact + 1e-12
  radius = np.sqrt(2 * (values[0, -1] - bounds[0])) + np.sqrt(2 * (exact - bounds[0]))
  assert np.linalg.norm(images[0] - theirs) <= radius


def test_the_dual_value_is_a_lower_bound_for_any_dual_point(noisy, rng):
  problem = tv.make_problem(N, None)._replace(observed=noisy)
  p = jnp.asarray(rng.standard_normal((N, N, 2)))  # mostly outside the balls of radius LAM
  assert tv.dual_value(p, LAM, problem) <= tv.objective(noisy, (None, LAM), problem)
  assert float(tv.dual_value(jnp.zeros_like(p), LAM, problem)) == 0.0


def test_the_peers_undo_a_blur_without_noise():
  picture = _pictures.load_picture("camera", top=30, left=80, pixels=48, block=8)
  picture = picture.astype(np.float64)
  blurred = scipy.ndimage.gaussian_filter(picture, 1.0, mode="reflect", truncate=4.0)
  start = np.linalg.norm(blurred - picture)
  sharp = tv.wiener(1.0)(blurred, 1e-14)  # exact, borders and all, without the regularisation
  assert np.linalg.norm(sharp - picture) < 1e-3 * start
  sharper = tv.richardson_lucy(1.0)(blurred, 50)
  assert np.linalg.norm(sharper - picture) < 0.6 * start


def test_the_best_setting_is_the_best_in_the_mean():
  truth = np.zeros((2, 2))
  observed = np.stack([truth + 0.1, truth - 0.1])
  best, levels, image = tv.best_setting(lambda y, s: s * y, (1.0, 0.5, 2.0), observed, truth)
  assert best == 0.5 and np.ptp(levels) < 1e-9
  np.testing.assert_allclose(image, 0.05)


def test_a_picture_is_cut_out_encoded_and_decoded():
  picture = _pictures.load_picture("camera", top=0, left=0, pixels=32, block=16)
  assert picture.shape == (32, 32) and 0 <= picture.min() < picture.max() <= 1
  back = _pictures.decode(_pictures.encode(picture), 32)
  assert np.abs(back - picture).max() <= 0.5 / 255 + 1e-6
  assert _pictures.psnr(3.2, 32) == pytest.approx(20.0)
  with pytest.raises(ValueError, match="does not fit"):
    _pictures.load_picture("camera", top=0, left=0, pixels=64, block=16)
