"""Robust principal components: a matrix as the sum of a low-rank and a sparse one."""
