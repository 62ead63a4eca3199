"""One way to be a newcomer: clients that choose are sent what unseen clients are sent, and the factory's own steps are
among those to choose from."""

from typing import Any

import pytest
import torch
from torch import Tensor

from seedbed.algorithms.catalogue import CATALOGUE
from seedbed.errors import InputError
from seedbed.evaluation import to_newcomers
from seedbed.experiments.launch import plan_run
from seedbed.experiments.tuning import Judge, choose_own_steps, own_rates, usual_steps
from seedbed.federated import NEWCOMER, Algorithm, ServerState
from seedbed.learning.finetuning import FineTuning
from seedbed.models import ModelZoo
from tests.runs.test_judging import ALGORITHM, STATE

OWN = [name for name, entry in CATALOGUE.items() if entry.own_steps({})]
SEVERAL = [name for name, entry in CATALOGUE.items() if entry.takes("newcomer")]


class SentScores:
    """An engine whose client's score is a function of what it is sent."""

    def evaluate(self, algorithm: Algorithm, state: ServerState, *rest: Any) -> dict[int, Tensor]:
        return {c: algorithm.send(state, c)["w"][None] for c in (0, 1)}


def judge() -> Judge:
    return Judge(SentScores(), STATE, None, lambda params, batch: torch.zeros(()), True)  # type: ignore[arg-type]


def test_clients_that_choose_are_newcomers() -> None:
    """Under their numbers 0 and 1 the mean would be ½."""
    assert judge().scores(ALGORITHM) == [NEWCOMER]


@pytest.mark.parametrize("name", OWN)
def test_own_steps_are_chosen_among_the_factorys_which_wins_a_tie(name: str) -> None:
    """Every way scores the same: the factory's default is chosen, so it is there and comes first."""
    usual = usual_steps(CATALOGUE[name], {})
    tried: list[FineTuning] = []

    def adapting(how: FineTuning) -> Algorithm:
        tried.append(how)
        return ALGORITHM

    assert choose_own_steps(adapting, judge(), usual, own_rates(usual, {})).how == usual
    parameters = CATALOGUE[name].settings
    default = parameters["test_steps"].default
    assert usual.steps == (parameters["steps"].default if default is None else default)
    assert usual.lr == (parameters["test_lr"].default if "test_lr" in parameters else 0)
    assert usual in tried
    assert any(how.steps == 0 for how in tried)


def test_a_rate_that_the_user_sets_is_kept() -> None:
    options = {"test_lr": 0.3}
    usual = usual_steps(CATALOGUE["fd"], options)
    assert own_rates(usual, options) == [0.3]


@pytest.mark.parametrize("name", SEVERAL)
def test_a_newcomers_architecture_is_not_that_of_a_number(name: str) -> None:
    """−1 would be the last in turn; a newcomer has the first, or the one that is set; an unknown one is refused."""
    data = {"algorithm": name, "data": "digits", "public": 0.1}
    experiment = plan_run(data, ["model.several=['mlp:8','mlp:4','linear']"], None, specific=False)
    learner, model = experiment.learner, experiment.learner.model(CATALOGUE[name])
    assert isinstance(model, ModelZoo)

    def sent(**options: Any) -> list[str]:
        algorithm = to_newcomers(learner.algorithm(name, model, options=options))
        return list(algorithm.send(algorithm.init(model.params), 1).params)

    assert (sent(), sent(newcomer="linear")) == (["mlp:8"], ["linear"])
    with pytest.raises(InputError, match=r"newcomer='mlp:9' is no architecture of this run: use one of mlp:8, mlp:4"):
        sent(newcomer="mlp:9")
