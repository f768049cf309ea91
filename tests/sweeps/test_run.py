"""A run survives a kill, and never uses a store that is not its own."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_robust as jr
from jaxopt_robust.sweeps.store import ChunkStore
from tests.sweeps.programs import CHUNK, NUM_POINTS, make_grid, solve_point
from tests.sweeps.test_sweep import lasso_data, solve_lasso

ROOT = pathlib.Path(__file__).parents[2]


def start(store, out, delay, **options):
  return subprocess.Popen(
    [sys.executable, "-m", "tests.sweeps.programs", str(store), str(out), str(delay)],
    cwd=ROOT,
    env={**os.environ, "PYTHONPATH": str(ROOT)},
    stdout=subprocess.PIPE,
    text=True,
    **options,
  )


@pytest.mark.slow
@pytest.mark.parametrize("kills", [3])
def test_killed_at_random_moments_it_ends_with_the_same_bits(tmp_path, rng, kills):
  store, out = tmp_path / "store", tmp_path / "out.npz"
  for _ in range(kills):
    process = start(store, out, 0.1)
    process.stdout.readline()  # the first chunk of this round is saved
    time.sleep(rng.uniform(0.0, 0.25))  # then it dies while waiting, writing or computing
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists(), "killed too late to test anything"
  finished = len(
    [p for p in store.iterdir() if p.name.startswith("chunk_") and "tmp" not in p.name]
  )
  assert 0 < finished < NUM_POINTS // CHUNK
  process = start(store, out, 0.0)
  process.communicate(timeout=120)
  assert process.returncode == 0
  whole = jr.sweeps.run(solve_point, make_grid(), chunk=CHUNK, progress=False, backend="vmap")
  with np.load(out) as resumed:
    assert resumed["computed"] == NUM_POINTS - finished * CHUNK
    for name, value in whole.outputs.items():
      np.testing.assert_array_equal(resumed[name], value)


def run(store, *, fn=solve_point, grid=None, **options):
  grid = make_grid() if grid is None else grid
  return jr.sweeps.run(fn, grid, store=store, chunk=8, progress=False, **options)


def test_a_finished_store_computes_nothing_and_gives_the_same_bits(tmp_path):
  first = run(tmp_path / "s")
  again = run(tmp_path / "s")
  assert (first.num_computed, again.num_computed, again.num_restored) == (NUM_POINTS, 0, NUM_POINTS)
  for name in first.outputs:
    np.testing.assert_array_equal(first.outputs[name], again.outputs[name])


def test_another_grid_function_chunk_or_data_is_refused(tmp_path):
  run(tmp_path / "s")
  other = make_grid()
  other["target"] = other["target"].at[3].add(1.0)
  with pytest.raises(jr.sweeps.StoreMismatchError, match="grid changed"):
    run(tmp_path / "s", grid=other)
  with pytest.raises(jr.sweeps.StoreMismatchError, match="function changed"):
    run(tmp_path / "s", fn=lambda p: {"root": p["target"], "count": p["shift"].astype(jnp.int32)})
  with pytest.raises(jr.sweeps.StoreMismatchError, match="shared data changed"):
    run(tmp_path / "s", fn=lambda p, c: solve_point(p), shared=(jnp.ones(1),))
  with pytest.raises(jr.sweeps.StoreMismatchError, match="chunk size changed: 8 in the store, 16"):
    jr.sweeps.run(solve_point, make_grid(), store=tmp_path / "s", chunk=16, progress=False)


def test_a_constant_that_the_function_closes_over_counts(tmp_path):
  def make(constant):
    table = np.full(100, constant)
    return lambda p: p["target"] * jnp.sum(jnp.asarray(table))

  run(tmp_path / "s", fn=make(1.0))
  assert run(tmp_path / "s", fn=make(1.0)).num_computed == 0
  with pytest.raises(jr.sweeps.StoreMismatchError, match="function changed"):
    run(tmp_path / "s", fn=make(2.0))


def biggest_file(folder):
  return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


@pytest.mark.parametrize("damage", ["truncate", "empty", "flip"])
def test_a_damaged_chunk_is_reported_and_repaired(tmp_path, damage):
  first = run(tmp_path / "s")
  chunk = tmp_path / "s" / "chunk_000002"
  for file in [p for p in chunk.rglob("*") if p.is_file()]:
    content = bytearray(file.read_bytes())
    if damage == "truncate":
      content = content[: len(content) // 2]
    elif damage == "empty":
      content = bytearray()
    elif file == biggest_file(chunk):
      content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
  with pytest.warns(UserWarning, match=r"chunk 2 of the store .* is damaged"):
    again = run(tmp_path / "s")
  assert again.num_computed == 8
  for name in first.outputs:
    np.testing.assert_array_equal(first.outputs[name], again.outputs[name])
  assert run(tmp_path / "s").num_computed == 0, "the repaired chunk is kept"


def test_a_swapped_chunk_is_noticed(tmp_path):
  first = run(tmp_path / "s")
  store = tmp_path / "s"
  os.rename(store / "chunk_000000", store / "x")
  os.rename(store / "chunk_000001", store / "chunk_000000")
  os.rename(store / "x", store / "chunk_000001")
  with pytest.warns(UserWarning, match="checksum"):
    again = run(store)
  np.testing.assert_array_equal(first.outputs["root"], again.outputs["root"])


def test_a_store_without_its_manifest_or_with_a_damaged_one_is_refused(tmp_path):
  run(tmp_path / "s")
  manifest = tmp_path / "s" / "manifest.json"
  manifest.write_text(manifest.read_text()[:20])
  with pytest.raises(jr.sweeps.StoreMismatchError, match="damaged"):
    run(tmp_path / "s")
  manifest.unlink()
  with pytest.raises(jr.sweeps.StoreMismatchError, match="no manifest"):
    run(tmp_path / "s")


def test_failed_points_are_reported_and_the_others_kept():
  def fn(x):
    fun = lambda b, x: 0.5 * jnp.sum((b - x) ** 2)
    solver = jr.solvers.ista(fun, jr.prox.prox_none, stepsize=1.0)
    return jr.solvers.run_until(solver, jnp.zeros(1), None, x, tol=1e-6, max_steps=10)

  data = jnp.array([[1.0], [jnp.nan], [2.0], [jnp.inf], [3.0]])
  with pytest.warns(UserWarning, match=r"2 of 5 points .* first is point 1"):
    result = jr.sweeps.run(fn, data, chunk=2, progress=False)
  assert result.failed.tolist() == [False, True, False, True, False]
  np.testing.assert_array_equal(result.outputs[0][~result.failed, 0], [1.0, 2.0, 3.0])
  assert result.outputs[1].status.tolist() == [0, 2, 0, 2, 0]


def test_chunks_do_not_change_what_a_sweep_computes():
  whole = jr.sweeps.sweep(solve_point)(make_grid())
  for chunk in (None, 1, 7, 100):
    part = jr.sweeps.run(solve_point, make_grid(), chunk=chunk, progress=False)
    np.testing.assert_array_equal(part.outputs["root"], np.asarray(whole["root"]))


def some_devices(count):
  return jr.sweeps.make_sweep_mesh(num_devices=count)


@pytest.mark.parametrize("chunk", [None, 6])
def test_with_lanes_a_store_goes_on_with_another_number_of_devices(tmp_path, monkeypatch, chunk):
  strengths = jnp.asarray(np.geomspace(0.01, 1.0, 17), jnp.float32)
  options = {"shared": lasso_data(), "chunk": chunk, "lanes": 2, "progress": False}
  whole = jr.sweeps.run(solve_lasso, strengths, mesh=some_devices(1), **options)
  save, finished = ChunkStore.save, []

  def save_one(self, number, leaves):
    if finished:
      raise InterruptedError
    save(self, number, leaves)
    finished.append(number)

  options["store"] = tmp_path / "s"
  for devices in (4, 3):  # each of them dies after one chunk
    finished.clear()
    monkeypatch.setattr(ChunkStore, "save", save_one)
    with pytest.raises(InterruptedError):
      jr.sweeps.run(solve_lasso, strengths, mesh=some_devices(devices), **options)
    monkeypatch.undo()
  with pytest.warns(UserWarning, match="made on several devices, and goes on with 1: points comp"):
    resumed = jr.sweeps.run(solve_lasso, strengths, mesh=some_devices(1), **options)
  assert (resumed.num_restored, resumed.num_computed) == (16, 1)
  again = jr.sweeps.run(solve_lasso, strengths, mesh=some_devices(8), **options)
  assert again.num_computed == 0
  for got in (resumed, again):
    for left, right in zip(jax.tree.leaves(got[0]), jax.tree.leaves(whole[0]), strict=True):
      np.testing.assert_array_equal(left, right)
  with pytest.raises(
    jr.sweeps.StoreMismatchError, match="chunk size changed: 8 in the store, 4 in"
  ):
    jr.sweeps.run(solve_lasso, strengths, mesh=some_devices(1), **{**options, "chunk": 4})


def test_a_mismatch_says_what_changed_and_only_that(tmp_path):
  def refused(*, fn=solve_point, grid=None, chunk=8, **options):
    grid = make_grid() if grid is None else grid
    with pytest.raises(jr.sweeps.StoreMismatchError) as raised:
      jr.sweeps.run(fn, grid, store=tmp_path / "s", chunk=chunk, progress=False, **options)
    return re.search(r"does not belong to this run: (.*)\. Mixing", str(raised.value)).group(1)

  lanes = {"lanes": 2, "mesh": some_devices(4)}
  run(tmp_path / "s", **lanes)
  other = make_grid()
  other["shift"] = other["shift"].at[3].add(1.0)
  fewer = {name: leaf[:39] for name, leaf in make_grid().items()}
  assert refused(lanes=4, mesh=some_devices(2)) == "lanes changed: 2 in the store, 4 in this run"
  assert refused(chunk=16, **lanes) == "chunk size changed: 8 in the store, 16 in this run"
  assert refused(fn=lambda p: {"root": p["target"]}, **lanes) == "function changed"
  assert refused(grid=other, **lanes) == "grid changed in ['shift']"
  points = "number of points changed: 40 in the store, 39 in this run"
  assert refused(grid=fewer, **lanes) == points
  two = refused(fn=lambda p, c: {"root": p["target"] + c}, shared=(1.0,), **lanes)
  assert two == "shared data changed; function changed"
  without = refused(mesh=some_devices(4))
  assert without == "lanes changed: 2 in the store, None in this run"
  run(tmp_path / "t", mesh=some_devices(4))
  with pytest.raises(
    jr.sweeps.StoreMismatchError,
    match=r"run: number of devices changed: 4 in the store, 2 in this run \(with lanes it may",
  ):
    run(tmp_path / "t", mesh=some_devices(2))


def test_without_tqdm_a_line_of_progress_is_printed_now_and_then(monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, "tqdm", None)
  monkeypatch.setattr("jaxopt_robust.sweeps.progress._EVERY_S", 0.0)
  jr.sweeps.run(solve_point, make_grid(), chunk=8)
  lines = capsys.readouterr().err.splitlines()
  assert [line.partition(",")[0] for line in lines] == [
    f"sweep: {done}/40 points" for done in range(8, 41, 8)
  ]
  monkeypatch.setattr("jaxopt_robust.sweeps.progress._EVERY_S", 1000.0)
  jr.sweeps.run(solve_point, make_grid(), chunk=8)
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("sweep: 40/40 points, ")
  jr.sweeps.run(solve_point, make_grid(), chunk=8, progress=False)
  assert capsys.readouterr().err == ""


def test_progress_is_shown_and_can_be_switched_off(capsys):
  jr.sweeps.run(solve_point, make_grid(), chunk=8)
  assert "40/40" in capsys.readouterr().err
  jr.sweeps.run(solve_point, make_grid(), chunk=8, progress=False)
  assert capsys.readouterr().err == ""
