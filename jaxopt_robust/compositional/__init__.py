"""Objectives with an expectation inside a function: explicit state, unbiased in the long run.

Every stateful loss returns ``(surrogate, (state, info))``. The surrogate has the right gradient and
a value without meaning; ``info.objective`` is the estimate of the objective to report and plot.
"""

from jaxopt_robust._deprecations import install_getattr
from jaxopt_robust.compositional._robust_batch import RobustMeanInfo
from jaxopt_robust.compositional.average_precision import SoapState, XRiskInfo, soap_init, soap_loss
from jaxopt_robust.compositional.energy import (
  LogPartition,
  MecoInfo,
  MecoState,
  effective_sample_size,
  log_partition,
  meco_init,
  meco_value_and_grad,
)
from jaxopt_robust.compositional.estimators import (
  InnerEstimator,
  InnerState,
  inner_batch,
  inner_ema,
  inner_msvr,
  inner_scent,
  inner_storm,
)
from jaxopt_robust.compositional.fcco import FccoInfo, fcco_value_and_grad
from jaxopt_robust.compositional.global_contrastive import (
  RgclInfo,
  RgclState,
  rgcl_bimodal_loss,
  rgcl_init,
  rgcl_loss,
)
from jaxopt_robust.compositional.group_robust_mean import (
  GroupMeanInfo,
  GroupMeanState,
  group_robust_mean,
  group_robust_mean_init,
  smoothed_group_robust_mean,
)
from jaxopt_robust.compositional.k_song import KSongState, k_song_init, k_song_loss
from jaxopt_robust.compositional.kl_robust_mean import (
  KlBallMeanInfo,
  KlBallMeanState,
  KlMeanState,
  kl_ball_robust_mean,
  kl_ball_robust_mean_init,
  kl_robust_mean,
  kl_robust_mean_init,
)
from jaxopt_robust.compositional.ndcg import (
  SongListwiseState,
  SongState,
  song_init,
  song_listwise_init,
  song_listwise_loss,
  song_loss,
)
from jaxopt_robust.compositional.noise_contrastive import ence_loss, log_ence_loss, nce_loss
from jaxopt_robust.compositional.outer import (
  OuterFn,
  outer_identity,
  outer_log,
  outer_mean_deviation,
  outer_moreau,
  outer_power,
  outer_ratio,
  outer_square,
)
from jaxopt_robust.compositional.partial_auc import (
  SopaInfo,
  SopasState,
  SopaState,
  SotasState,
  sopa_init,
  sopa_loss,
  sopas_init,
  sopas_loss,
  sotas_init,
  sotas_loss,
)
from jaxopt_robust.compositional.primal_dual import (
  AlexrInfo,
  AlexrState,
  alexr_init,
  alexr_value_and_grad,
)
from jaxopt_robust.compositional.saddle import AdawacInfo, AdawacState, adawac_init, adawac_loss
from jaxopt_robust.compositional.samplers import (
  Sample,
  epoch_batches,
  epoch_batches_with_positives,
  sample_batch,
  sample_classes,
  sample_with_positives,
)
from jaxopt_robust.compositional.staco import StacoInfo, StacoState, staco_init, staco_loss
from jaxopt_robust.compositional.threshold_robust_mean import (
  ThresholdState,
  cvar_robust_mean,
  phi_divergence_robust_mean,
  threshold_init,
)

__all__ = [
  "AdawacInfo",
  "AdawacState",
  "AlexrInfo",
  "AlexrState",
  "FccoInfo",
  "GroupMeanInfo",
  "GroupMeanState",
  "InnerEstimator",
  "InnerState",
  "KSongState",
  "KlBallMeanInfo",
  "KlBallMeanState",
  "KlMeanState",
  "LogPartition",
  "MecoInfo",
  "MecoState",
  "OuterFn",
  "RgclInfo",
  "RgclState",
  "RobustMeanInfo",
  "Sample",
  "SoapState",
  "SongListwiseState",
  "SongState",
  "SopaInfo",
  "SopaState",
  "SopasState",
  "SotasState",
  "StacoInfo",
  "StacoState",
  "ThresholdState",
  "XRiskInfo",
  "adawac_init",
  "adawac_loss",
  "alexr_init",
  "alexr_value_and_grad",
  "cvar_robust_mean",
  "effective_sample_size",
  "ence_loss",
  "epoch_batches",
  "epoch_batches_with_positives",
  "fcco_value_and_grad",
  "group_robust_mean",
  "group_robust_mean_init",
  "inner_batch",
  "inner_ema",
  "inner_msvr",
  "inner_scent",
  "inner_storm",
  "k_song_init",
  "k_song_loss",
  "kl_ball_robust_mean",
  "kl_ball_robust_mean_init",
  "kl_robust_mean",
  "kl_robust_mean_init",
  "log_ence_loss",
  "log_partition",
  "meco_init",
  "meco_value_and_grad",
  "nce_loss",
  "outer_identity",
  "outer_log",
  "outer_mean_deviation",
  "outer_moreau",
  "outer_power",
  "outer_ratio",
  "outer_square",
  "phi_divergence_robust_mean",
  "rgcl_bimodal_loss",
  "rgcl_init",
  "rgcl_loss",
  "sample_batch",
  "sample_classes",
  "sample_with_positives",
  "smoothed_group_robust_mean",
  "soap_init",
  "soap_loss",
  "song_init",
  "song_listwise_init",
  "song_listwise_loss",
  "song_loss",
  "sopa_init",
  "sopa_loss",
  "sopas_init",
  "sopas_loss",
  "sotas_init",
  "sotas_loss",
  "staco_init",
  "staco_loss",
  "threshold_init",
]

install_getattr(__name__)
