"""Ranking: surrogates of pairs, lists and retrieval, and the metrics they stand for."""
