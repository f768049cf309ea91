"""Regression on many covariates: screening by mutual information."""

from jaxopt_robust._deprecations import install_getattr
from jaxopt_robust.regression.mutual_information import (
  MIScreening,
  mi_binned,
  mi_kde,
  mi_kde_discrete,
  mi_screen,
)

__all__ = [
  "MIScreening",
  "mi_binned",
  "mi_kde",
  "mi_kde_discrete",
  "mi_screen",
]

install_getattr(__name__)
