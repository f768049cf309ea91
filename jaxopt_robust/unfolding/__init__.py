"""Iterations as networks: unfolded solvers, sparse coding and dictionary learning."""

from jaxopt_robust._deprecations import install_getattr
from jaxopt_robust.unfolding.dictionary import (
  DictionaryInfo,
  DictionaryState,
  dictionary_step,
  init_dictionary,
  learn_dictionary,
  normalize_atoms,
  recovered_atoms,
  sparse_coding,
)
from jaxopt_robust.unfolding.patches import random_patches, whiten

__all__ = [
  "DictionaryInfo",
  "DictionaryState",
  "dictionary_step",
  "init_dictionary",
  "learn_dictionary",
  "normalize_atoms",
  "random_patches",
  "recovered_atoms",
  "sparse_coding",
  "whiten",
]

install_getattr(__name__)
