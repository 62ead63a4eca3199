"""Judging adaptation: personalise on a support set, score on queries disjoint from it, and look at every client.

Shapes: B examples of a batch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from scipy import special

from seedbed.data.sampling import TaskSource
from seedbed.data.types import Batch
from seedbed.federated import NEWCOMER, Algorithm, ClientId, Engine, Params, ServerState, personalise_by
from seedbed.learning.objectives import Adapt, Loss, Metric, Predict, masked_mean
from seedbed.learning.passes import predictions
from seedbed.tree import Tree


@dataclass(frozen=True)
class ScoreSummary:
    """Scores over clients: what a table shows.

    Attributes:
        mean: of the clients' scores, each the mean of its episodes.
        ci95: half the width of the 95 % interval of the mean over clients (Student's t); NaN for one client.
        worst_tenth: mean score of the worst tenth of the clients (at least one): averages hide them.
        clients: how many.
        scores: each client's own.
    """

    mean: float
    ci95: float
    worst_tenth: float
    clients: int
    scores: tuple[float, ...]

    def _repr_html_(self) -> str:
        cells = (f"{self.mean:.4g} ± {self.ci95:.2g}", f"{self.worst_tenth:.4g}", f"{self.clients}")
        return (
            "<table><tr><th>mean ± 95 %</th><th>worst tenth</th><th>clients</th></tr>"
            f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr></table>"
        )

    def __repr__(self) -> str:
        return f"{self.mean:.4g} ± {self.ci95:.2g} (worst tenth {self.worst_tenth:.4g}, {self.clients} clients)"


def summarise(scores: Sequence[float], *, higher_is_better: bool = True) -> ScoreSummary:
    """
    >>> summarise([0.5, 1.0])
    0.75 ± 3.2 (worst tenth 0.5, 2 clients)
    """
    n = len(scores)
    mean = math.fsum(scores) / n
    spread = math.sqrt(math.fsum((s - mean) ** 2 for s in scores) / (n - 1)) if n > 1 else math.nan
    ci95 = float(special.stdtrit(n - 1, 0.975)) * spread / math.sqrt(n) if n > 1 else math.nan
    worst = sorted(scores, reverse=not higher_is_better)[: math.ceil(n / 10)]
    return ScoreSummary(mean, ci95, math.fsum(worst) / len(worst), n, tuple(scores))


def per_example(predict: Predict, score: Loss) -> Metric:
    """A metric from a score of each example, [B]: the mean over a batch's real ones. The 0/1 `correct` is accuracy."""
    return lambda params, batch: masked_mean(
        score(predictions(predict, params, batch, trains=False), batch.y), batch.mask
    )


def evaluate(
    engine: Engine,
    algorithm: Algorithm,
    state: ServerState,
    source: TaskSource,
    metric: Metric,
    *,
    higher_is_better: bool = True,
) -> ScoreSummary:
    """How well the algorithm's start adapts: a score for every client of the source, over its episodes.

    Args:
        source: episodes, of clients seen in training or never seen. Give unseen clients an engine of their own
            (an engine takes what its clients kept in training for theirs), and `to_newcomers(algorithm)` where the
            server holds something for every client.
    """
    scores = engine.evaluate(algorithm, state, source, metric)
    return summarise([float(s.double().mean()) for s in scores.values()], higher_is_better=higher_is_better)


def without_adaptation(algorithm: Algorithm, start: Adapt) -> Algorithm:
    """The algorithm whose clients use what they are sent without looking at their examples.

    Args:
        start: what every model gets all the same: a head of zeros where the classes are new.
    """
    return replace(algorithm, personalise=personalise_by(start))


def renumber_clients(algorithm: Algorithm, numbers: Sequence[ClientId]) -> Algorithm:
    """The algorithm for an engine whose clients 0, 1, ... are those of these numbers in training."""

    def send(state: ServerState, client: ClientId) -> Tree:
        return algorithm.send(state, numbers[client])

    return replace(algorithm, send=send)


def to_newcomers(algorithm: Algorithm) -> Algorithm:
    """The algorithm for an engine of clients that were never seen in training: none has a number there."""

    def send(state: ServerState, client: ClientId) -> Tree:
        return algorithm.send(state, NEWCOMER)

    return replace(algorithm, send=send)


def as_newcomers(algorithm: Algorithm, start: Adapt) -> Algorithm:
    """The algorithm whose clients all adapt as ones never seen do.

    Where the classes are new, what a client keeps is about others.

    Args:
        start: what is done first to the model that they are sent: a head of zeros for the new classes.
    """

    def personalise(sent: Params, kept: Tree, support: Batch) -> Params:
        begun = start(sent, support)
        return algorithm.personalise(begun, algorithm.remember(begun), support)

    return replace(algorithm, personalise=personalise)
