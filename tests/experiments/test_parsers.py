"""Formats of the fetched files, on made-up contents."""

import gzip
import io
import struct

import numpy as np
import pytest

from experiments import _parsers


def test_mnist():
  digits = np.concatenate([np.arange(784) % 256, [7]]).reshape(1, -1)
  text = io.BytesIO()
  np.savetxt(text, digits, delimiter=",", fmt="%d")
  mnist = _parsers.mnist(gzip.compress(text.getvalue() + text.getvalue()))
  assert mnist["x"].shape == (2, 784) and mnist["x"].max() == 1 and mnist["y"].tolist() == [7, 7]


def test_movielens():
  ratings = _parsers.movielens(b"u:token\ti:token\tr:float\tt:float\n196\t242\t3\t881250949\n")
  assert ratings["user"].tolist() == [195] and ratings["rating"].tolist() == [3.0]


def test_usgs():
  buffer = io.BytesIO()
  labels = np.array(["a", "b [AMX]", "a", "synth c"])
  np.savez(buffer, grid=np.ones(3), rule=labels, label=labels, spectra=np.ones((4, 3)))
  assert _parsers.usgs(buffer.getvalue())["measured"].tolist() == [True, False, False, False]


def make_idx(values, kind=8):
  """The bytes of a compressed idx file, as its format says: big-endian lengths after four bytes."""
  lengths = struct.pack(f">{values.ndim}I", *values.shape)
  return gzip.compress(bytes([0, 0, kind, values.ndim]) + lengths + values.tobytes())


def test_fashion_mnist(rng):
  images = rng.integers(0, 256, (5, 28, 28), np.uint8)
  images[0, 0, :2] = 0, 255
  labels = np.array([9, 0, 3, 1, 2], np.uint8)
  parts = [make_idx(part) for part in (images[:3], labels[:3], images[3:], labels[3:])]
  data = _parsers.fashion_mnist(*parts)
  for name, rows in (("train", slice(0, 3)), ("test", slice(3, 5))):
    x, y = data[f"x_{name}"], data[f"y_{name}"]
    assert x.dtype == np.float32 and y.dtype == np.int32
    np.testing.assert_array_equal(x, images[rows].reshape(-1, 784).astype(np.float32) / 255)
    np.testing.assert_array_equal(y, labels[rows])
  assert data["x_train"][0, :2].tolist() == [0, 1]


def test_idx_of_another_type_is_refused():
  with pytest.raises(ValueError, match="starts with 00 00 08; got 00 00 0d"):
    _parsers._idx(make_idx(np.zeros(4, np.uint8), kind=13))


def test_stream():
  data = _parsers.stream(b"a,b,class\n0.5,-1,7\n2,3,1\n4,5,7\n")
  assert data["x"].dtype == np.float32 and data["y"].dtype == np.int32
  np.testing.assert_array_equal(data["x"], [[0.5, -1], [2, 3], [4, 5]])
  assert data["y"].tolist() == [1, 0, 1]


def test_wordnet():
  first = (
    "  1 This software is provided under the following licence.  \n"
    "00001740 03 n 02 thing 0 whole_thing 1 001 ~ 00001930 n 0000 | that which is; "
    '"a thing"; "things"  \n'
    "00002098 00 a 01 unable(p) 0 001 = 05200169 n 0000 | (usually followed by `to') not able  \n"
  )
  many = " ".join(f"w{i} 0" for i in range(11))  # the number of words is hexadecimal
  second = f"00001740 29 v 0b {many} 000 01 + 02 00 | draw air; | and let it go  \n"
  data = _parsers.wordnet(first.encode(), second.encode())
  assert data["gloss"].tolist() == [
    "that which is", "(usually followed by `to') not able", "draw air; | and let it go",
  ]  # fmt: skip
  assert data["part"].tolist() == ["n", "a", "v"]
  assert data["domain"].tolist() == [3, 0, 29]
  assert data["word"].tolist() == ["thing", "whole thing", "unable", *(f"w{i}" for i in range(11))]
  assert data["synset"].tolist() == [0, 0, 1, *[2] * 11] and data["synset"].dtype == np.int32
