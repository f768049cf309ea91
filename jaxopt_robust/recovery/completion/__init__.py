"""Completion of low-rank matrices from some of their entries."""
