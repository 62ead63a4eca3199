"""Before training: what adapting can gain on a table, by a linear model, in seconds.

It is what a run does first (`table_start`), on at most 150 of its known clients. A pooled model that is fitted without
each fifth of the clients judges them as it is, with an intercept of their own, and with slopes of their own. Each
client by itself fits a regularised regression to the same examples.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from seedbed import evaluation
from seedbed.algorithms import catalogue
from seedbed.data.population import Population
from seedbed.data.sampling import Sampled
from seedbed.engines import Vectorised
from seedbed.errors import InputError
from seedbed.evaluation import ScoreSummary, per_example, summarise
from seedbed.experiments.config import Row, Settings
from seedbed.experiments.honest_choice import BIAS, NONE, some_of
from seedbed.experiments.planning import divide, plan
from seedbed.experiments.run_plan import RunPlan, large_enough, row_sampler
from seedbed.experiments.table_local import Local
from seedbed.experiments.table_start import DRAWS, TableStart, has_many_classes
from seedbed.models import Model

MOST = 150  # known clients
LOCAL = "local"


@dataclass(frozen=True)
class Headroom:
    """Losses of known clients by models that have not seen them.

    Attributes:
        metric: log-loss or squared error (in parts of the target's variance, if it is standardised).
        rows: by number of examples, then by way to adapt: none, bias, slopes, local.
        gains: of bias over none, client by client, by number of examples.
    """

    metric: str
    rows: Mapping[str, Mapping[str, ScoreSummary]]
    gains: Mapping[str, ScoreSummary]


def headroom(settings: Settings, population: Population) -> Headroom | None:
    """The headroom of a run with these settings; None: its start is not linear, so that there is none to tell.

    Args:
        settings: complete ones.
    Raises:
        InputError: the clients are too few or too small.
    """
    if settings.start != "exact":
        return None
    experiment = plan(divide(settings, population))
    if has_many_classes(experiment.learner):
        raise InputError(f"{len(population.classes)} classes are too many for intercepts of a client's own")
    some = some_of(range(len(experiment.train)), MOST, seed=settings.seed)
    experiment = replace(experiment, train=experiment.train.only(some))
    if len(experiment.train) < 2:
        raise InputError("one known client tells nothing of others")
    model = experiment.learner.model(catalogue.entry(settings.algorithm))
    assert isinstance(model, Model)
    made = TableStart(experiment, model).make()
    local = Local(experiment, model, made.places)
    losses = {row: {**each, LOCAL: _local(experiment, local, row)} for row, each in _by_row(experiment, made.losses)}
    rows = {
        str(row): {way: summarise(list(each.values()), higher_is_better=False) for way, each in ways.items()}
        for row, ways in losses.items()
    }
    gains = {
        str(row): summarise([ways[NONE][client] - ways[BIAS][client] for client in ways[NONE]])
        for row, ways in losses.items()
    }
    return Headroom(experiment.learner.metric_name, rows, gains)


def _by_row(
    experiment: RunPlan, losses: Mapping[str, Mapping[str, Mapping[int, float]]]
) -> list[tuple[Row, Mapping[str, Mapping[int, float]]]]:
    return [(row, losses[str(row)]) for row in experiment.shots if losses.get(str(row), {}).get(NONE)]


def _local(experiment: RunPlan, local: Local, row: Row) -> dict[int, float]:
    """The losses of clients by themselves, on the same episodes."""
    metric = per_example(local.predict, experiment.learner.loss)
    state, _ = local.choose(row, metric)
    known = experiment.train.only(large_enough(experiment.train, row))
    source = Sampled(known, row_sampler(row, DRAWS), seed=experiment.settings.seed, purpose="choice")
    scores = Vectorised(source).evaluate(evaluation.to_newcomers(local.algorithm), state, source, metric)
    return {client: float(score.double().mean()) for client, score in scores.items()}


def headroom_lines(found: Headroom) -> list[str]:
    """What adapting can gain, in words."""
    lines = []
    for row, gain in found.gains.items():
        what = "half of their own examples" if row == "half" else f"{row} examples"
        sure = gain.clients > 1 and abs(gain.mean) > gain.ci95
        word = "gains" if gain.mean > 0 else "loses"
        told = f"{word} {abs(gain.mean):.3g} ± {gain.ci95:.2g}" if sure else "makes no difference that can be told"
        lines.append(f"with {what}, an intercept of its own {told} in {found.metric} over the pooled model")
    return lines
