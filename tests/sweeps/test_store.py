"""Stores: odd paths, chunks that cannot be read, two runs at once, full disks, interrupts."""

import _thread
import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

import jaxopt_robust as jr
from jaxopt_robust.sweeps import store as stores
from jaxopt_robust.sweeps.lock import StoreLock
from tests.sweeps.programs import CHUNK, NUM_POINTS, make_grid, solve_point
from tests.sweeps.test_run import start

SQUARES = jnp.arange(1.0, 9.0)


def square(x):
  return x**2


def run(store, *, chunk=8, **options):
  result = jr.sweeps.run(square, SQUARES, store=store, chunk=chunk, progress=False, **options)
  np.testing.assert_array_equal(result.outputs, np.arange(1.0, 9.0, dtype=np.float32) ** 2)
  return result


def one_device():
  return jr.sweeps.make_sweep_mesh(num_devices=1)


def in_chunks(store, **options):
  return run(store, chunk=2, mesh=one_device(), **options)


@pytest.mark.parametrize("name", ["run[x]/s", "[a-z]*", "b?c/{d,e}", "%20 #é", "..x/chunk_1"])
def test_a_path_is_never_a_pattern(tmp_path, name):
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    first, again = (in_chunks(tmp_path / name) for _ in range(2))
  assert (first.num_computed, first.num_restored) == (8, 0)
  assert (again.num_computed, again.num_restored) == (0, 8)


def content(folder):
  return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_chunk_that_cannot_be_read_is_kept(tmp_path, monkeypatch):
  in_chunks(tmp_path / "s")
  chunk = tmp_path / "s" / "chunk_000001"
  before = content(chunk)
  restore = ocp.Checkpointer.restore

  def broken(self, path, **options):
    if path == chunk:
      raise OSError(errno.EIO, "the network is down")
    return restore(self, path, **options)

  for aside in ("unreadable_chunk_000001_0", "unreadable_chunk_000001_1"):
    monkeypatch.setattr(ocp.Checkpointer, "restore", broken)
    with pytest.warns(UserWarning, match=rf"chunk 1 .*network is down.* kept as {aside}"):
      assert in_chunks(tmp_path / "s").num_computed == 2
    monkeypatch.undo()
    assert in_chunks(tmp_path / "s").num_computed == 0
  assert content(tmp_path / "s" / "unreadable_chunk_000001_0") == before
  # It was good all along: put back it serves again.
  (tmp_path / "s" / "unreadable_chunk_000001_1").rename(tmp_path / "x")
  chunk.rename(tmp_path / "y")
  (tmp_path / "s" / "unreadable_chunk_000001_0").rename(chunk)
  assert in_chunks(tmp_path / "s").num_restored == 8


def test_a_chunk_with_a_wrong_checksum_is_replaced(tmp_path):
  in_chunks(tmp_path / "s")
  (tmp_path / "s" / "chunk_000000").rename(tmp_path / "x")
  (tmp_path / "s" / "chunk_000001").rename(tmp_path / "s" / "chunk_000000")
  with pytest.warns(UserWarning, match="chunk 0 .*checksum is wrong; it is computed again"):
    assert in_chunks(tmp_path / "s").num_computed == 4
  names = sorted(p.name for p in (tmp_path / "s").iterdir())
  assert names == [*(f"chunk_{i:06d}" for i in range(4)), "manifest.json"]


def test_outputs_without_elements_are_stored(tmp_path):
  fn = lambda x: {"square": x**2, "none": jnp.zeros((0, 3), jnp.bfloat16)}
  first, again = (
    jr.sweeps.run(fn, SQUARES, store=tmp_path / "s", chunk=8, progress=False) for _ in range(2)
  )
  assert (first.num_computed, again.num_restored) == (8, 8)
  for result in (first, again):
    assert result.outputs["none"].shape == (8, 0, 3)
    assert result.outputs["none"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(result.outputs["square"], np.arange(1.0, 9.0) ** 2)


@pytest.mark.slow
def test_of_two_processes_the_second_is_refused_until_the_first_dies(tmp_path):
  store, out = tmp_path / "store", tmp_path / "out.npz"
  options = {"store": store, "chunk": CHUNK, "progress": False, "mesh": one_device()}
  process = start(store, out, 0.5)
  process.stdout.readline()
  began = time.time()
  message = rf"store is in use by process {process.pid} on \S+ since 20\d\d-.*another store"
  with pytest.raises(jr.sweeps.StoreLockedError, match=message):
    jr.sweeps.run(solve_point, make_grid(), **options)
  assert time.time() - began < 20
  assert process.poll() is None, "the first one is not disturbed"
  assert process.stdout.readline().startswith("saved")
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert (store / "lock.json").exists()
  result = jr.sweeps.run(solve_point, make_grid(), **options)
  assert 2 <= result.num_restored // CHUNK < NUM_POINTS // CHUNK
  assert not (store / "lock.json").exists()
  whole = jr.sweeps.sweep(solve_point)(make_grid())
  np.testing.assert_array_equal(result.outputs["root"], np.asarray(whole["root"]))


def test_a_finished_store_can_be_read_while_another_run_has_it(tmp_path):
  in_chunks(tmp_path / "s")
  lock = StoreLock(tmp_path / "s")
  lock.acquire()
  assert in_chunks(tmp_path / "s").num_restored == 8
  (tmp_path / "s" / "chunk_000003").rename(tmp_path / "x")
  with pytest.raises(jr.sweeps.StoreLockedError, match="in use by this very process since"):
    in_chunks(tmp_path / "s")
  lock.release()
  assert in_chunks(tmp_path / "s").num_restored == 6


def foreign_lock(folder, age):
  """A lock of another machine, last touched so many seconds ago."""
  folder.mkdir(exist_ok=True)
  holder = {"host": "elsewhere", "machine": "m", "process": 7, "since": "2026-01-01T00:00:00+00:00"}
  (folder / "lock.json").write_text(json.dumps(holder))
  then = time.time() - age
  os.utime(folder / "lock.json", (then, then))


def test_a_lock_of_another_machine_counts_while_it_is_touched(tmp_path):
  foreign_lock(tmp_path / "s", 30)
  with pytest.raises(
    jr.sweeps.StoreLockedError, match=r"process 7 on elsewhere since 2026-01-01.*after 60 s"
  ):
    in_chunks(tmp_path / "s")
  foreign_lock(tmp_path / "s", 90)
  assert in_chunks(tmp_path / "s").num_computed == 8
  assert not (tmp_path / "s" / "lock.json").exists()


def test_the_holder_touches_its_lock_and_notices_its_loss(tmp_path, monkeypatch):
  monkeypatch.setattr("jaxopt_robust.sweeps.lock._BEAT_S", 0.02)
  lock = StoreLock(tmp_path)
  lock.acquire()
  os.utime(tmp_path / "lock.json", (0, 0))
  deadline = time.monotonic() + 5
  while (tmp_path / "lock.json").stat().st_mtime < 1 and time.monotonic() < deadline:
    time.sleep(0.02)
  assert abs((tmp_path / "lock.json").stat().st_mtime - time.time()) < 5
  lock.check()
  foreign_lock(tmp_path, 0)  # taken over while this process was stopped
  with pytest.raises(jr.sweeps.StoreLockedError, match=r"taken over: .*process 7 on elsewhere"):
    lock.check()
  lock.release()
  assert (tmp_path / "lock.json").exists(), "the other's lock stays"


def test_only_the_owner_of_the_lock_clears_what_a_killed_run_left(tmp_path):
  in_chunks(tmp_path / "s")
  leftover = tmp_path / "s" / "chunk_000003.orbax-checkpoint-tmp"
  (tmp_path / "s" / "chunk_000003").rename(leftover)
  lock = StoreLock(tmp_path / "s")
  lock.acquire()
  with pytest.raises(jr.sweeps.StoreLockedError):
    in_chunks(tmp_path / "s")
  assert leftover.exists()
  lock.release()
  assert in_chunks(tmp_path / "s").num_computed == 2
  assert not leftover.exists()


@pytest.fixture
def small_disk(tmp_path):
  folder = tmp_path / "disk"
  folder.mkdir()
  mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)]
  if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
    pytest.skip("needs the right to mount a small disk")
  yield folder
  subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_explained_and_nothing_is_lost(small_disk):
  noise = np.random.default_rng(0).standard_normal((8, 30_000)).astype(np.float32)
  fill = lambda x, table: x * table[0]
  options = {"shared": (noise,), "chunk": 2, "mesh": one_device(), "progress": False}
  with pytest.raises(OSError, match=r"chunk \d of the store .*disk is full.*safe: free") as raised:
    jr.sweeps.run(fill, SQUARES, store=small_disk / "s", **options)
  assert raised.value.errno == errno.ENOSPC
  finished = [p for p in (small_disk / "s").iterdir() if p.name.startswith("chunk_")]
  assert len(finished) >= 1 and not any("tmp" in p.name for p in finished)
  subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
  result = jr.sweeps.run(fill, SQUARES, store=small_disk / "s", **options)
  assert result.num_restored == 2 * len(finished)
  np.testing.assert_array_equal(
    result.outputs, np.arange(1, 9, dtype=np.float32)[:, None] * noise[0]
  )


@pytest.mark.parametrize(
  ("error", "message"),
  [
    (ValueError("... No space left on device [os_error_code='28']"), "disk is full"),
    (OSError(errno.EDQUOT, "quota"), "disk is full"),
    (PermissionError(errno.EACCES, "no"), "Permission denied.*make it writable"),
  ],
)
def test_errors_of_the_writer_name_store_and_chunk(tmp_path, monkeypatch, error, message):
  save = ocp.Checkpointer.save

  def failing(self, path, **options):
    if path.name == "chunk_000002":
      (path.parent / f"{path.name}.orbax-checkpoint-tmp").mkdir()
      raise error
    return save(self, path, **options)

  monkeypatch.setattr(ocp.Checkpointer, "save", failing)
  with pytest.raises(OSError, match=rf"chunk 2 of the store {tmp_path}/s .*{message}"):
    in_chunks(tmp_path / "s")
  monkeypatch.undo()
  names = sorted(p.name for p in (tmp_path / "s").iterdir())
  assert names == ["chunk_000000", "chunk_000001", "manifest.json"]
  assert in_chunks(tmp_path / "s").num_restored == 4


@pytest.fixture
def interrupts():
  """Interrupts raise, also in a worker that ignores them."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
def test_an_interrupt_waits_for_the_chunk_and_leaves_nothing_behind(tmp_path, monkeypatch, capfd):
  save = ocp.Checkpointer.save

  def interrupted(self, path, **options):
    if path.name == "chunk_000001":
      _thread.interrupt_main()
      time.sleep(0.3)
    return save(self, path, **options)

  monkeypatch.setattr(ocp.Checkpointer, "save", interrupted)
  with pytest.raises(KeyboardInterrupt):
    in_chunks(tmp_path / "s")
  monkeypatch.undo()
  names = sorted(p.name for p in (tmp_path / "s").iterdir())
  assert names == ["chunk_000000", "chunk_000001", "manifest.json"]
  assert in_chunks(tmp_path / "s").num_restored == 4
  assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_interrupted_and_resumed_in_one_process_it_prints_no_traces(tmp_path, rng):
  out = tmp_path / "out.npz"
  with open(tmp_path / "errors", "w") as errors:
    process = start(tmp_path / "store", out, 0.1, stderr=errors)
    lines = []
    for _ in range(4):
      lines.append(process.stdout.readline())
      time.sleep(rng.uniform(0.0, 0.15))
      process.send_signal(signal.SIGINT)
    lines += process.communicate(timeout=120)[0].splitlines()
  assert process.returncode == 0, (tmp_path / "errors").read_text()
  assert any(line.startswith("interrupted") for line in lines)
  # Python itself reports an interrupt that comes in the middle of a destructor.
  ignored = r"Exception ignored in:.*?KeyboardInterrupt: ?\n"
  assert re.sub(ignored, "", (tmp_path / "errors").read_text(), flags=re.DOTALL) == ""
  whole = jr.sweeps.run(solve_point, make_grid(), chunk=CHUNK, progress=False, backend="vmap")
  with np.load(out) as resumed:
    np.testing.assert_array_equal(resumed["root"], whole.outputs["root"])


def test_manifests_are_written_before_any_chunk(tmp_path, monkeypatch):
  monkeypatch.setattr(stores.ChunkStore, "save", lambda *_: sys.exit(1))
  with pytest.raises(SystemExit):
    in_chunks(tmp_path / "s")
  monkeypatch.undo()
  assert [p.name for p in (tmp_path / "s").iterdir()] == ["manifest.json"]
  assert in_chunks(tmp_path / "s").num_computed == 8
