"""Ranking losses on rare positives: moving averages, batch plug-ins and cross entropy."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import datasets
from experiments._earlier import Claim, Outcome, Row
from experiments._protocol import Paper, Progress, new_figure
from experiments._training import batches, stack, train_all
from jaxopt_robust import compositional, losses, transforms

PAPER = Paper(
  title="LibAUC: a deep learning library for X-risk optimization",
  authors="Yuan, Zhu, Qiu, Li, Wang and Yang (with the papers of SOAP, SOPA, SOPAs, SOTAs, PDSCA)",
  year=2023,
  claim="A moving average for each positive reaches a lower value of a ranking objective than the "
  "batch's own mean plugged into its formula, and a loss made for a metric beats cross entropy in "
  "that metric. On our small problems the first holds on the training set (not for the learned "
  "thresholds of SOPA and STACO) and does not carry over to the test set; the second holds where "
  "the model cannot fit the data, for partial AUC.",
  section="Experiments (imbalanced images)",
  url="https://arxiv.org/abs/2306.03065",
)


METRICS = {
  "ap": "average precision",
  "auc": "AUC",
  "pauc": "partial AUC",
  "two_way": "two-way partial AUC",
}
# A family is one compiled program; families with averages run with every rate.
AVERAGED = ("SOAP", "SOPAs", "SOTAs")
FAMILIES = (
  "CE", "CE, resampled", "pairwise AUC", "AUC margin", "PDSCA", *AVERAGED, "SOPA", "CVaR plug-in",
  "STACO", "two-way CVaR plug-in",
)  # fmt: skip
MARGIN = ("AUC margin", "PDSCA")  # the AUC margin loss by PESG; after a step of cross entropy


class Setting(NamedTuple):
  """One training run: features used, step size, weight of the new value in the averages."""

  features: jax.Array
  learning_rate: jax.Array
  rate: jax.Array


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings.

  Attributes:
    seeds: number of random splits, initial weights and batch orders.
    families: which of ``FAMILIES`` are compared.
    data: "digits", "mnist5k" (one digit against the others) or "spambase" (spam is positive).
    positive: the digit that is positive; ignored for "spambase".
    num_positives: positives in the training set.
    num_negatives: negatives in the training set; the other rows are for validation and test, half
      each.
    features: how many principal components of the training rows are the features, one problem
      each. With few of them no model separates the classes.
    hidden: width of the hidden layer; 0 for a linear scorer.
    warm_up: steps of cross entropy that all methods start with, as the authors advise.
    steps: optimizer steps after these.
    batch_positives: positives a batch, for all methods but plain cross entropy.
    batch_negatives: negatives a batch.
    warm_rate: step size of Adam during the warm-up.
    learning_rates: step sizes of Adam afterwards; the validation set chooses for each metric.
    rates: weights of the new value; 1 is the batch plug-in and must be among them.
    max_fpr: share of the negatives in the partial areas.
    min_tpr: 1 minus the share of the positives in the two-way partial area.
    temperature: of the losses in KL form.
  """

  seeds: int = 8
  families: tuple[str, ...] = FAMILIES
  data: str = "digits"
  positive: int = 8
  num_positives: int = 60
  num_negatives: int = 800
  features: tuple[int, ...] = (8, 30)
  hidden: int = 0
  warm_up: int = 1000
  steps: int = 2000
  batch_positives: int = 2
  batch_negatives: int = 14
  warm_rate: float = 1e-2
  learning_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
  rates: tuple[float, ...] = (0.1, 0.5, 1.0)
  max_fpr: float = 0.1
  min_tpr: float = 0.5
  temperature: float = 0.2

  def __post_init__(self) -> None:
    if self.data not in ("digits", "mnist5k", "spambase"):
      raise ValueError(f"data must be 'digits', 'mnist5k' or 'spambase'; got {self.data!r}.")
    needed = {"CE", "CE, resampled", "pairwise AUC", "SOPAs"}
    if set(self.families) - set(FAMILIES) or not needed <= set(self.families):
      raise ValueError(
        f"families must be among {', '.join(FAMILIES)} and hold {', '.join(sorted(needed))}; "
        f"got {self.families}."
      )
    if 1.0 not in self.rates or len(self.rates) < 2:
      raise ValueError(f"rates must hold 1.0 and a smaller one; got {self.rates}.")


SIZES = {
  "toy": Config(
    seeds=1,
    families=("CE", "CE, resampled", "pairwise AUC", "SOPAs"),
    num_negatives=200,
    warm_up=20,
    steps=20,
    learning_rates=(3e-3,),
    rates=(0.1, 1.0),
  ),
  "desk": Config(),
  "large": Config(
    seeds=10,
    data="mnist5k",
    num_positives=200,
    num_negatives=2500,
    features=(15, 100),
    hidden=64,
    warm_up=3000,
    steps=6000,
  ),
}
_GRID = np.concatenate([[0.0], np.logspace(-3, 0, 60)])  # false positive rates of the figure


class Data(NamedTuple):
  """One split: weights, training, validation and test rows, and minibatches of both kinds."""

  params: Any
  x: tuple[jax.Array, jax.Array, jax.Array]
  y: tuple[jax.Array, jax.Array, jax.Array]
  plain: jax.Array
  mixed: jax.Array


class Result(NamedTuple):
  """Metrics (one entry a name of ``METRICS``) and exact training objectives, float[seeds, runs]."""

  validation: dict[str, Any]
  test: dict[str, Any]
  objective: dict[str, Any]


def make_model(config: Config) -> Any:
  """One hidden layer, one output."""
  from jaxopt_robust import nets

  return nets.MLP((config.hidden, 1) if config.hidden else (1,))


@functools.partial(jax.jit, static_argnums=0)
def _init(model: Any, key: jax.Array, x: jax.Array) -> Any:
  return model.init(key, x)


@functools.partial(jax.jit, static_argnames=("num_positives", "num_negatives", "num_steps"))
def _draw(key: jax.Array, labels: jax.Array, **sizes: int) -> jax.Array:
  return compositional.epoch_batches_with_positives(key, labels, **sizes).index


def load_split(seed: int, config: Config) -> Data:
  """Features and labels; positives are rare in the training set only."""
  table = datasets.load(config.data)
  x, y = np.asarray(table["x"], np.float64), np.asarray(table["y"])
  y = (y == (1 if config.data == "spambase" else config.positive)).astype(np.int32)
  rng, parts = np.random.default_rng(seed), []
  for label, size in ((1, config.num_positives), (0, config.num_negatives)):
    order = rng.permutation(np.flatnonzero(y == label))
    parts.append(np.split(order, [size, size + (len(order) - size) // 2]))
  train, validation, test = (np.concatenate(pair) for pair in zip(*parts, strict=True))
  if config.data == "spambase":
    x = np.log1p(x)
  centre, spread = x[train].mean(0), x[train].std(0) + 1e-3
  x = np.clip((x - centre) / spread, -5, 5)
  axes = np.linalg.svd(x[train], full_matrices=False)[2][: max(config.features)]
  x = x @ axes.T
  x = x / x[train].std(0)
  init_key, draw_key = jax.random.split(jax.random.key(seed))
  batch = config.batch_positives + config.batch_negatives
  steps = config.warm_up + config.steps
  passes = -(-steps // (len(train) // batch))
  plain = batches(len(train), batch, passes, seed).reshape(-1, batch)[:steps]
  mixed = _draw(
    draw_key,
    jnp.asarray(y[train]),
    num_positives=config.batch_positives,
    num_negatives=config.batch_negatives,
    num_steps=config.steps,
  )
  parts = [train, validation, test]
  return Data(
    _init(make_model(config), init_key, jnp.asarray(x[:1], jnp.float32)),
    tuple(jnp.asarray(x[part], jnp.float32) for part in parts),
    tuple(jnp.asarray(y[part]) for part in parts),
    jnp.asarray(plain),
    mixed,
  )


def _over_positives(loss: jax.Array, labels: jax.Array) -> jax.Array:
  return jnp.sum(loss) / jnp.maximum(jnp.sum(labels), 1)


def make_loss(family: str, config: Config) -> tuple[Any, Any]:
  """``(init(num_examples), loss(logits, labels, rows, state, rate) -> (value, state))``."""
  none = lambda num: ()
  cvar = {"max_fpr": config.max_fpr}
  two_way = {**cvar, "min_tpr": config.min_tpr}
  kl = {"temperature": config.temperature}
  both = {**kl, "positive_temperature": config.temperature}

  def stateless(fun: Any) -> Any:
    return none, lambda s, y, rows, state, rate: (fun(jax.nn.sigmoid(s), y), state)

  def stateful(name: str, **hyper: Any) -> Any:
    loss = getattr(compositional, f"{name}_loss")

    def call(s: jax.Array, y: jax.Array, rows: jax.Array, state: Any, rate: jax.Array) -> Any:
      rates = {"soap": {"rate": rate}, "sopas": {"rate": rate}}.get(name, {})
      if name == "sotas":
        rates = {"rate": rate, "positive_rate": rate}
      value, (state, _) = loss(jax.nn.sigmoid(s), y, rows, state, **rates, **hyper)
      return value, state

    return getattr(compositional, f"{name}_init"), call

  if family.startswith("CE"):
    entropy = lambda s, y: jnp.mean(optax.sigmoid_binary_cross_entropy(s, y.astype(s.dtype)))
    return none, lambda s, y, rows, state, rate: (entropy(s, y), state)
  pairwise = lambda s, y: _over_positives(losses.pairwise_auc_loss(s, y), y)
  hardest = lambda s, y: _over_positives(losses.partial_auc_cvar_loss(s, y, **cvar), y)
  return {
    "pairwise AUC": lambda: stateless(pairwise),
    "SOAP": lambda: stateful("soap"),
    "SOPAs": lambda: stateful("sopas", **kl),
    "SOTAs": lambda: stateful("sotas", **both),
    "SOPA": lambda: stateful("sopa", **cvar),
    "STACO": lambda: stateful("staco", **two_way),
    "CVaR plug-in": lambda: stateless(hardest),
    "two-way CVaR plug-in": lambda: stateless(
      lambda s, y: losses.two_way_partial_auc_cvar_loss(s, y, **two_way)
    ),
  }[family]()


def make_trainer(family: str, config: Config) -> Any:
  """``train(setting, data)``: one run; runs of one split see the same batches."""
  model = make_model(config)

  def logits(params: Any, x: jax.Array, setting: Setting) -> jax.Array:
    used = jnp.arange(x.shape[1]) < setting.features
    return model.apply(params, jnp.where(used[None, :], x, 0))[:, 0]

  def schedule(setting: Setting) -> Any:
    decay = optax.piecewise_constant_schedule(1.0, {2 * config.steps // 3: 0.1})
    return lambda count: setting.learning_rate * decay(count)

  def train_margin(params: Any, setting: Setting, data: Data) -> Any:
    # PESG and PDSCA want larger steps than Adam: thirty times those of the other methods
    rate = lambda count: 30 * schedule(setting)(count)
    composed = family == "PDSCA"
    tx = transforms.pdsca(rate) if composed else transforms.pesg(rate)
    params = {"w": params, "a": jnp.zeros(()), "b": jnp.zeros(())}

    def objective(params: Any, alpha: jax.Array, rows: jax.Array) -> jax.Array:
      variables = losses.AucMarginVariables(params["a"], params["b"], alpha)
      scores = jax.nn.sigmoid(logits(params["w"], data.x[0][rows], setting))
      return jnp.mean(losses.auc_margin_loss(scores, data.y[0][rows], variables))

    def entropy(params: Any, rows: jax.Array) -> jax.Array:
      return make_loss("CE", config)[1](
        logits(params["w"], data.x[0][rows], setting), data.y[0][rows], rows, (), setting.rate
      )[0]

    def step(carry: Any, rows: jax.Array) -> tuple[Any, None]:
      params, state = carry
      if composed:  # a step of cross entropy and one of the margin loss, on the same batch
        grads = jax.grad(entropy)(params, rows)
        updates, state = tx.update(grads, state, params, phase=0)
        params = optax.apply_updates(params, updates)
      extra = {"phase": 1} if composed else {}
      grads = jax.grad(objective)(params, state.alpha, rows)
      updates, state = tx.update(grads, state, params, **extra)
      return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), data.mixed)
    return params["w"]

  def train_adam(
    name: str, params: Any, rows: jax.Array, tx: Any, setting: Setting, data: Data
  ) -> Any:
    init, loss = make_loss(name, config)

    def objective(params: Any, rows: jax.Array, state: Any) -> Any:
      labels = data.y[0][rows]
      scores = logits(params, data.x[0][rows], setting)
      return loss(scores, labels, rows, state, setting.rate)

    def step(carry: Any, rows: jax.Array) -> tuple[Any, None]:
      params, opt_state, state = carry
      grads, state = jax.grad(objective, has_aux=True)(params, rows, state)
      updates, opt_state = tx.update(grads, opt_state, params)
      return (optax.apply_updates(params, updates), opt_state, state), None

    carry = (params, tx.init(params), init(data.y[0].shape[0]))
    return jax.lax.scan(step, carry, rows)[0][0]

  def train(setting: Setting, data: Data) -> list[jax.Array]:
    first, rest = data.plain[: config.warm_up], data.plain[config.warm_up :]
    params = train_adam("CE", data.params, first, optax.adam(config.warm_rate), setting, data)
    if family in MARGIN:
      params = train_margin(params, setting, data)
    else:
      rows, tx = rest if family == "CE" else data.mixed, optax.adam(schedule(setting))
      params = train_adam(family, params, rows, tx, setting, data)
    return [logits(params, x, setting) for x in data.x]

  return train


@functools.partial(jax.jit, static_argnums=2)  # one program for all families
def evaluate(scores: list[jax.Array], labels: Any, config: Config) -> Result:
  """Metrics and objectives of one run on every seed, from scores on the three parts."""

  def one(scores: list[jax.Array], labels: Any) -> Result:
    return Result(
      measure(scores[1], labels[1], config),
      measure(scores[2], labels[2], config),
      training_objectives(jax.nn.sigmoid(scores[0]), labels[0], config),
    )

  return jax.vmap(one)(scores, labels)


def measure(scores: jax.Array, labels: jax.Array, config: Config) -> dict[str, jax.Array]:
  """The metrics."""
  share = {"max_fpr": config.max_fpr}
  return {
    "ap": losses.average_precision(scores, labels),
    "auc": losses.auc(scores, labels),
    "pauc": losses.partial_auc(scores, labels, **share),
    "two_way": losses.partial_auc(scores, labels, **share, min_tpr=config.min_tpr),
  }


def training_objectives(
  scores: jax.Array, labels: jax.Array, config: Config
) -> dict[str, jax.Array]:
  """The objectives of the stateful methods, exact on the whole training set."""
  kl = {"temperature": config.temperature}
  cvar = {"max_fpr": config.max_fpr}
  return {
    "SOAP": _over_positives(losses.average_precision_loss(scores, labels), labels),
    "SOPAs": _over_positives(losses.partial_auc_kl_loss(scores, labels, **kl), labels),
    "SOPA": _over_positives(losses.partial_auc_cvar_loss(scores, labels, **cvar), labels),
    "SOTAs": losses.two_way_partial_auc_kl_loss(
      scores, labels, **kl, positive_temperature=config.temperature
    ),
    "STACO": losses.two_way_partial_auc_cvar_loss(scores, labels, **cvar, min_tpr=config.min_tpr),
  }


def run(config: Config, progress: Progress) -> Outcome:
  """Trains every family on every problem with every step size and rate, in one program each."""
  data = stack([load_split(seed, config) for seed in range(config.seeds)])
  labels = np.asarray(data.y[2])
  metrics: dict[str, Any] = {_problem(features): {} for features in config.features}
  for family in progress.track(config.families, "losses"):
    rates = config.rates if family in AVERAGED else (1.0,)
    grid = [(f, step, rate) for f in config.features for rate in rates for step in
            config.learning_rates]  # fmt: skip
    features, step, rate = (np.array(column) for column in zip(*grid, strict=True))
    settings = Setting(
      jnp.asarray(features), jnp.asarray(step, jnp.float32), jnp.asarray(rate, jnp.float32)
    )
    scores = train_all(progress, make_trainer(family, config), settings, data, name=family)
    runs = [evaluate([s[:, i] for s in scores], data.y, config) for i in range(len(grid))]
    result = jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *runs)
    for f in config.features:
      for r in rates:
        rows = np.flatnonzero((features == f) & (rate == r))
        part = jax.tree.map(lambda leaf, rows=rows: leaf[:, rows], result)
        metrics[_problem(f)][_name(family, r)] = _choose(part, scores[2][:, rows], labels, config)
  return Outcome(
    {"problems": metrics, "grid": _GRID}, _table(metrics, config), _claims(metrics, config)
  )


def _problem(features: int) -> str:
  return f"{features} features"


def _name(family: str, rate: float) -> str:
  """The plug-in is the method whose average forgets everything."""
  if family not in AVERAGED:
    return family
  return f"{family} plug-in" if rate == 1 else f"{family} {rate:g}"


def _choose(
  result: Result, scores: np.ndarray, labels: np.ndarray, config: Config
) -> dict[str, Any]:
  """For each metric the step size that is best on the validation sets, on average over seeds."""
  entry: dict[str, Any] = {}
  for metric in METRICS:
    best = int(np.argmax(result.validation[metric].mean(0)))
    entry[metric] = {
      "test": result.test[metric][:, best],
      "learning_rate": config.learning_rates[best],
      "by_learning_rate": result.test[metric].mean(0),
    }
    if metric == "pauc":
      entry["roc"] = _roc(scores[:, best], labels)
  # Optimisation alone: the smallest value reached with any step size.
  entry["objective"] = {
    name: values[:, int(np.argmin(values.mean(0)))] for name, values in result.objective.items()
  }
  return entry


def _roc(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """True positive rates at fixed false positive rates, mean over the seeds."""
  rates = []
  for s, y in zip(scores, labels, strict=True):
    negative = np.sort(s[y == 0])
    above = 1 - np.searchsorted(negative, s[y == 1], side="right") / len(negative)
    rates.append([np.mean(above <= rate) for rate in _GRID])
  return np.mean(rates, axis=0)


def _averaged(config: Config) -> list[str]:
  return [family for family in AVERAGED if family in config.families]


def _pairs(config: Config) -> list[tuple[str, str, str]]:
  """Stateful methods, their batch plug-ins, and whose objective both minimise."""
  pairs = [
    (_name(family, rate), _name(family, 1.0), family)
    for family in _averaged(config)
    for rate in config.rates
    if rate != 1
  ]
  thresholds = {"SOPA": "CVaR plug-in", "STACO": "two-way CVaR plug-in"}
  return pairs + [
    (name, plug_in, name)
    for name, plug_in in thresholds.items()
    if {name, plug_in} <= set(config.families)
  ]


def _ahead(ours: Any, base: Any) -> tuple[float, float]:
  """Mean difference over the seeds, and its standard error."""
  difference = np.asarray(ours) - np.asarray(base)
  size = len(difference)
  error = difference.std(ddof=1) / size**0.5 if size > 1 else 0.0
  return float(difference.mean()), float(error)


def _table(metrics: dict[str, Any], config: Config) -> list[Row]:
  note = "Small problem; the papers have images and deep networks."
  rows = []
  for problem, methods in metrics.items():
    for metric in ("ap", "pauc"):
      rows += [
        Row(
          method=name,
          metric=f"test {METRICS[metric]}, {config.data}, {problem}",
          ours=float(np.mean(entry[metric]["test"])),
          baseline=float(np.mean(methods["CE"][metric]["test"])),
          baseline_name="CE",
          spread=float(np.std(entry[metric]["test"])),
          note=note,
        )
        for name, entry in methods.items()
        if name != "CE"
      ]
    rows += [
      Row(
        method=name,
        metric=f"test {METRICS['auc']}, {config.data}, {problem}",
        ours=float(np.mean(methods[name]["auc"]["test"])),
        baseline=float(np.mean(methods["CE"]["auc"]["test"])),
        baseline_name="CE",
        spread=float(np.std(methods[name]["auc"]["test"])),
        note=note,
      )
      for name in MARGIN
      if name in methods
    ]
    for name, plug_in, own in _pairs(config):
      ours, base = methods[name]["objective"][own], methods[plug_in]["objective"][own]
      rows.append(
        Row(
          method=name,
          metric=f"exact training objective of {own}, {config.data}, {problem}",
          ours=float(np.mean(ours)),
          baseline=float(np.mean(base)),
          baseline_name=plug_in,
          better="lower",
          spread=float(np.std(ours)),
          note=note,
        )
      )
  return rows


def _claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  few, many = (_problem(f) for f in (min(config.features), max(config.features)))
  slow = min(config.rates)
  claims = []
  name = _name("SOPAs", slow)
  tests = {n: entry["pauc"]["test"] for n, entry in metrics[few].items()}
  against = [n for n in ("CE", "CE, resampled", "pairwise AUC", "AUC margin") if n in tests]
  gaps = {f"{name} - {base}": _ahead(tests[name], tests[base]) for base in against}
  claims.append(
    Claim(
      f"With {few}, where no model fits, {name} is ahead of cross entropy (plain and resampled), "
      "and of the losses for the whole AUC in test partial AUC, by at least two standard errors of "
      "the difference.",
      all(mean > 2 * error for mean, error in gaps.values()),
      {key: mean for key, (mean, _) in gaps.items()}
      | {f"standard error of {key}": error for key, (_, error) in gaps.items()},
    )
  )
  least_gain = {"SOPAs": 0.05, "SOTAs": 0.15}
  for family in (f for f in _averaged(config) if f in least_gain):
    least = least_gain[family]
    name, plug_in = _name(family, slow), _name(family, 1.0)
    ours, base = (float(np.mean(metrics[many][n]["objective"][family])) for n in (name, plug_in))
    claims.append(
      Claim(
        f"With {many}, the moving average of {family} (rate {slow:g}) ends at least "
        f"{100 * least:g} percent lower in the exact training objective than the batch plug-in.",
        ours <= (1 - least) * base,
        {name: ours, plug_in: base},
      )
    )
  if "SOAP" in config.families:
    middle = _name("SOAP", sorted(config.rates)[-2])
    ours, base = (metrics[many][n]["objective"]["SOAP"] for n in (middle, "SOAP plug-in"))
    mean, error = _ahead(ours, base)
    claims.append(
      Claim(
        f"With {many}, {middle} ends lower in the exact training objective of SOAP than its "
        "plug-in, by a small but consistent amount (two standard errors of the difference).",
        mean < -2 * error,
        {middle: float(np.mean(ours)), "SOAP plug-in": float(np.mean(base)), "difference": mean},
      )
    )
  if set(MARGIN) <= set(config.families):
    claims.append(_margin_claim(metrics, few, many))
  numbers = {n: float(np.mean(entry["ap"]["test"])) for n, entry in metrics[many].items()}
  claims.append(
    Claim(
      f"What does not carry over: with {many}, no ranking loss is ahead of both cross entropies by "
      "0.01 in test average precision.",
      all(v < max(numbers["CE"], numbers["CE, resampled"]) + 0.01 for v in numbers.values()),
      numbers,
    )
  )
  return claims


def _margin_claim(metrics: dict[str, Any], few: str, many: str) -> Claim:
  """PDSCA against PESG and cross entropy, in AUC and in partial AUC."""
  gaps = {
    f"{metric}, PDSCA - {base}, {problem}": _ahead(
      metrics[problem]["PDSCA"][metric]["test"], metrics[problem][base][metric]["test"]
    )
    for problem in (few, many)
    for metric in ("auc", "pauc")
    for base in ("AUC margin", "CE")
  }
  behind = gaps[f"auc, PDSCA - AUC margin, {few}"]
  level = [gaps[f"auc, PDSCA - {base}, {many}"] for base in ("AUC margin", "CE")]
  partial = [gaps[f"pauc, PDSCA - AUC margin, {problem}"] for problem in (few, many)]
  return Claim(
    "A step of cross entropy inside the AUC margin loss (PDSCA) does not raise the AUC here: with "
    f"{few} PDSCA is behind the margin loss alone (PESG) in test AUC, with {many} level with it "
    "and with cross entropy; it is ahead of PESG in test partial AUC with both (ahead, behind: at "
    "least two standard errors of the difference).",
    behind[0] < -2 * behind[1]
    and all(abs(mean) <= 2 * error for mean, error in level)
    and all(mean >= 2 * error for mean, error in partial),
    {key: mean for key, (mean, _) in gaps.items()}
    | {f"standard error of {key}": error for key, (_, error) in gaps.items()},
  )


def figure(record: dict[str, Any]) -> Any:
  """ROC curves with few features, test metrics, and training objectives against the plug-in."""
  metrics = record["metrics"]
  problems = metrics["problems"]
  fig, axes = new_figure(1, 3)
  few, many = next(iter(problems)), list(problems)[-1]
  slow = next(n for n in problems[few] if n.startswith("SOPAs"))
  shown = ("CE", "CE, resampled", "pairwise AUC", *MARGIN, slow, "SOPA", "STACO")
  for name in (n for n in shown if n in problems[few]):
    axes[0].plot(metrics["grid"], problems[few][name]["roc"], label=name, lw=1.2)
  axes[0].set(
    xlabel="false positive rate",
    ylabel="true positive rate",
    title=f"Test ROC, {few}",
    xlim=(0, 0.3),
    ylim=(0, 0.6),
  )
  axes[0].legend(fontsize="x-small")
  names = list(problems[few])
  place = np.arange(len(names))
  for shift, (problem, methods) in zip((-0.15, 0.15), problems.items(), strict=False):
    gap = [np.subtract(methods[n]["pauc"]["test"], methods["CE"]["pauc"]["test"]) for n in names]
    error = [np.std(g) / len(g) ** 0.5 for g in gap]
    axes[1].errorbar(
      [np.mean(g) for g in gap], place + shift, xerr=error, fmt="o", ms=4, label=problem
    )
  axes[1].axvline(0, color="0.5", lw=0.8)
  axes[1].set_yticks(place, names, fontsize="x-small")
  axes[1].invert_yaxis()
  axes[1].set(xlabel="difference to CE", title="Test partial AUC (bars: std. error)")
  axes[1].legend(fontsize="x-small")
  families = [f for f in AVERAGED if f"{f} plug-in" in names]
  for offset, family in enumerate(families):
    versions = [n for n in names if n.startswith(family + " ")]
    base = np.array(problems[many][f"{family} plug-in"]["objective"][family])
    for n, version in enumerate(versions):
      ratio = np.array(problems[many][version]["objective"][family]) / base
      axes[2].errorbar(
        offset + 0.2 * (n - 1),
        ratio.mean(),
        yerr=ratio.std(),
        fmt="o",
        color=f"C{n}",
        label=("plug-in" if "plug" in version else f"rate {version.split()[1]}")
        if offset == 0
        else None,
        capsize=2,
      )
  axes[2].set_xticks(range(len(families)), families)
  axes[2].set(
    ylabel="training objective / plug-in's", title=f"Exact objectives, {many}", ylim=(0, None)
  )
  axes[2].legend(fontsize="x-small")
  return fig
