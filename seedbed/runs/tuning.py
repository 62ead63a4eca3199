"""Choosing how to fine-tune: on validation clients that the model never saw, not on those that it is judged by."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch

from seedbed.federated import Algorithm, Engine, ServerState, adapting
from seedbed.learning.finetuning import FineTuning, along
from seedbed.learning.objectives import Adapt, Metric
from seedbed.tasks.sampling import TaskSource

HEAD_RATES, HEAD_STEPS = (0.01, 0.1, 1.0), (20, 100)
RATES, STEPS = (0.01, 0.1), (5, 20)

Scored = tuple[float, FineTuning]


def choose_finetuning(
    path: Callable[[FineTuning, Sequence[int]], Adapt],
    algorithm: Algorithm,
    state: ServerState,
    engine: Engine,
    source: TaskSource,
    metric: Metric,
    *,
    higher_is_better: bool,
    has_head: bool,
) -> FineTuning:
    """The best of: the head alone, all layers, the best head and then all layers; over rates and numbers of steps.

    Args:
        path: a way and numbers of steps to look at -> the adaptation whose result is the params there, stacked.
        state: of a model that was trained without the source's clients.
        source: validation clients' episodes.
    """

    def score(how: FineTuning, at: Sequence[int]) -> Iterator[Scored]:
        tuned = replace(algorithm, personalise=adapting(path(how, at)))
        scores = engine.evaluate(tuned, state, source, along(metric)).values()
        means = torch.stack([s.double().mean(0) for s in scores]).mean(0)
        for steps, mean in zip(at, means.tolist(), strict=True):
            reached = replace(how, head_steps=steps) if how.layers == "head" else replace(how, steps=steps)
            yield mean if higher_is_better else -mean, reached

    def best(found: list[Scored]) -> FineTuning:
        return max(found, key=lambda pair: pair[0])[1]

    longest = STEPS[-1]
    found: list[Scored] = []
    for lr in RATES:
        found += score(FineTuning("all", steps=longest, lr=lr), STEPS)
    if has_head:
        heads: list[Scored] = []
        for lr in HEAD_RATES:
            heads += score(FineTuning("head", head_steps=HEAD_STEPS[-1], head_lr=lr), HEAD_STEPS)
        head = best(heads)
        found += heads
        for lr in RATES:
            found += score(replace(head, layers="head_then_all", steps=longest, lr=lr), STEPS)
    return best(found)
