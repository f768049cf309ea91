"""Objectives with an expectation inside a function: explicit state, unbiased in the long run.

Every stateful loss returns ``(surrogate, (state, info))``. The surrogate has the right gradient and
a value without meaning; ``info.objective`` is the estimate of the objective to report and plot.
"""

__all__: list[str] = []
