"""What a client of a table can do by itself, and what needs no model: ridge, logistic or softmax regression on its own
few examples, and the trivial predictor."""

import math

import torch

from seedbed import evaluation
from seedbed.algorithms.exact_start import with_priors
from seedbed.engines import Vectorised
from seedbed.experiments.config import Row
from seedbed.experiments.run_plan import RunPlan
from seedbed.federated import Params, ServerState
from seedbed.learning.effects import start_prior
from seedbed.learning.empirical_bayes import Prior
from seedbed.learning.finetuning import FineTuning
from seedbed.learning.objectives import Metric
from seedbed.models import Model

INTERCEPTS, SLOPES = (3.0, 100.0), (1e-8, 0.1, 1.0, 10.0)  # variances over that of the noise: 1/λ
MOST_JUDGES = 60  # known clients that choose


class Local:
    """Regression from zero weights, its two strengths chosen on known clients for each row.

    Args:
        places: the inputs that it may use.
    """

    def __init__(self, experiment: RunPlan, model: Model, places: tuple[int, ...]):
        self.experiment, self.model, self.options = experiment, model, {"slopes": places}
        self.blank = {name: torch.zeros_like(p) for name, p in model.params.items()}
        self.effects = experiment.learner.effects(model, places)
        self.way = list(self.effects)[-1]
        self.algorithm, self.predict = experiment.learner.exact(model, self.options, FineTuning(self.way))  # type: ignore[arg-type]

    def choose(self, row: Row, metric: Metric) -> tuple[ServerState, str]:
        """The start with the best strengths, and words for them."""
        grid = [(i, s) for i in INTERCEPTS for s in (SLOPES if self.way == "slopes" else SLOPES[:1])]
        judges = self.experiment.train
        source = self.experiment.judged(
            judges.only(range(min(len(judges), MOST_JUDGES))), row, purpose="local", episodes=1
        )
        if not source.clients:
            return self._state(*grid[0]), f"1/λ {grid[0][0]:g}"
        engine, algorithm = Vectorised(source), evaluation.to_newcomers(self.algorithm)

        def loss(strengths: tuple[float, float]) -> float:
            found = engine.evaluate(algorithm, self._state(*strengths), source, metric).values()
            mean = math.fsum(float(s.double().mean()) for s in found) / len(found)
            return mean if math.isfinite(mean) else math.inf

        best = min(grid, key=loss)
        slopes = f", of slopes {best[1]:g}" if self.way == "slopes" else ""
        return self._state(*best), f"regularised regression, 1/λ of the intercept {best[0]:g}{slopes}"

    def _state(self, intercept: float, slope: float) -> ServerState:
        kind = self.experiment.learner.kind(self.model)(self.blank)

        def prior(name: str) -> Prior:
            blank = start_prior(self.effects[name], kind, self.blank, slope)
            first = torch.arange(len(blank.mean)) < kind.count
            return blank._replace(variance=torch.where(first.to(blank.mean.device), intercept, blank.variance))

        return ServerState(with_priors(self.blank, {name: prior(name) for name in self.effects}), {})


def trivial(experiment: RunPlan, model: Model) -> Params:
    """Params that give everybody the known clients' mean, or the shares of their classes."""
    known, classes = experiment.train, experiment.learner.shape.classes
    y = known.y[known.rows]
    bias = model.params[f"{model.head}.bias"]
    if classes:
        counts = torch.bincount(y, minlength=classes).double() + 1 / classes
        best = (counts / counts.sum()).log()
    else:
        best = y.double().mean().reshape(1)
    return {**{name: torch.zeros_like(p) for name, p in model.params.items()}, f"{model.head}.bias": best.to(bias)}
