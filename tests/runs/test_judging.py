"""What is scored when a start is judged: which state a client is sent, how it adapts, and how scores are averaged."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seedbed.data.types import Batch
from seedbed.evaluation import as_newcomers, evaluate, per_example, renumber_clients, to_newcomers, without_adaptation
from seedbed.federated import NEWCOMER, Algorithm, ServerState

SUPPORT = Batch(torch.ones(2, 1), torch.ones(2), torch.ones(2))


def nothing(*arguments: Any) -> Any:
    raise AssertionError("judging does not train")


def named(state: ServerState, client: int) -> dict[str, Tensor]:
    """Every client is sent its number."""
    return {"w": torch.tensor(float(client))}


ALGORITHM = Algorithm(
    init=nothing,
    client=nothing,
    server=nothing,
    send=named,
    remember=lambda sent: {"kept": sent["w"] + 100},
    personalise=lambda sent, kept, support: {"w": sent["w"] + kept["kept"]},
)
STATE = ServerState({}, {})


class Scores:
    """An engine whose clients have these scores."""

    def __init__(self, scores: Mapping[int, Tensor]):
        self.scores = scores

    def evaluate(self, *arguments: Any) -> Mapping[int, Tensor]:
        return self.scores


def judged(scores: Mapping[int, Tensor], **how: bool) -> Any:
    return evaluate(Scores(scores), ALGORITHM, STATE, None, nothing, **how)  # type: ignore[arg-type]


def test_clients_count_alike_whatever_the_number_of_their_episodes() -> None:
    scores = {0: torch.tensor([0.0, 0.0, 0.0, 0.0]), 1: torch.tensor([1.0]), 2: torch.tensor([0.25, 0.75])}
    assert judged(scores).scores == (0.0, 1.0, 0.5)
    assert judged(scores).mean == 0.5


def test_the_worst_are_the_lowest_unless_less_is_better() -> None:
    scores = {c: torch.tensor([float(c)]) for c in range(11)}
    assert judged(scores).worst_tenth == 0.5
    assert judged(scores, higher_is_better=False).worst_tenth == 9.5


def test_means_of_episodes_are_taken_in_double_precision() -> None:
    assert judged({0: torch.tensor([1.0, 2.0**-24, 2.0**-24, 0.0])}).mean == (1 + 2.0**-23) / 4


def test_a_metric_counts_real_examples_only() -> None:
    metric = per_example(lambda params, x: x[:, 0] * params["w"], lambda predicted, y: (predicted - y).abs())
    batch = Batch(torch.tensor([[1.0], [2.0], [9.0]]), torch.tensor([0.0, 0.0, 0.0]), torch.tensor([1.0, 1.0, 0.0]))
    assert float(metric({"w": torch.tensor(2.0)}, batch)) == 3.0


def test_before_adapting_a_client_uses_what_it_is_sent() -> None:
    plain = without_adaptation(ALGORITHM, lambda params, support: {"w": params["w"] * 10})
    assert plain.personalise({"w": torch.tensor(3.0)}, {"kept": torch.tensor(1.0)}, SUPPORT) == {
        "w": torch.tensor(30.0)
    }


def test_clients_are_sent_what_belongs_to_their_number_in_training() -> None:
    assert [int(renumber_clients(ALGORITHM, [4, 2]).send(STATE, c)["w"]) for c in (0, 1)] == [4, 2]
    assert int(to_newcomers(ALGORITHM).send(STATE, 5)["w"]) == NEWCOMER


def test_a_newcomer_keeps_nothing_of_before() -> None:
    """What it keeps is made from what it is sent, after the new head: (3 · 10) + (3 · 10 + 100)."""
    fresh = as_newcomers(ALGORITHM, lambda params, support: {"w": params["w"] * 10})
    made = fresh.personalise({"w": torch.tensor(3.0)}, {"kept": torch.tensor(-7.0)}, SUPPORT)
    assert made == {"w": torch.tensor(160.0)}
