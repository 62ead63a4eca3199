"""What all schedules share: the `Round` that they yield, who is chosen, and how messages become replies.

Shapes: C clients of a round.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple

import torch
from torch import Tensor

from seedbed import randomness, tree
from seedbed.errors import Diverged, InputError
from seedbed.federated import Algorithm, ClientId, Message, MessageBatch, Reducer, Replies, ServerState
from seedbed.tree import Tree

Rest = Mapping[str, Tensor]


class Round(NamedTuple):
    """What a schedule yields: the server's state after `number` rounds.

    `rest()` gives what else the schedule needs to go on from here, by name: nothing in synchronous rounds. Where
    messages were refused or lost, `info` counts them (`refused`, `lost`); where too few were left to reduce them, the
    model is as it was before, and `info` says `abandoned`: 1.
    """

    number: int
    state: ServerState
    clients: Sequence[ClientId]
    info: Mapping[str, float]
    rest: Callable[[], Rest] = dict
    refused: Mapping[ClientId, str] = {}  # whose message the gate did not let through, and why
    lost: Mapping[ClientId, str] = {}  # whose message did not arrive, and why

    def _repr_html_(self) -> str:
        numbers = {"round": str(self.number), "clients": str(len(self.clients))}
        numbers |= {name: f"{value:.4g}" for name, value in self.info.items()}
        heads, cells = (("".join(f"<{tag}>{escape(t)}</{tag}>" for t in row)) for tag, row in
                        (("th", numbers), ("td", numbers.values())))  # fmt: skip
        return f"<table><tr>{heads}</tr><tr>{cells}</tr></table>"

    def __repr__(self) -> str:
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in self.info.items())
        return f"round {self.number}: {len(self.clients)} clients, {numbers}"


def choose_cohort(population: Sequence[ClientId], cohort: int | None, seed: int, number: int) -> list[ClientId]:
    if cohort is None or cohort == len(population):
        return list(population)
    drawn = randomness.generator(seed, "cohort", number).choice(len(population), cohort, replace=False)
    return sorted(population[int(i)] for i in drawn)


def refuse_own_cohorts(algorithm: Algorithm, schedule: str) -> None:
    """A schedule that cannot leave the choice of clients to the algorithm."""
    if algorithm.cohort is not None:
        raise InputError(
            f"{schedule} rounds choose who takes part, but this algorithm does so itself, as what it promises of "
            "privacy is accounted for: use synchronous rounds"
        )


def empty_cohort_replies(replies: Replies) -> Replies:
    """The replies of an empty cohort: a zero of the shape that messages have, learned from those of somebody."""
    nobody = replies.weights[:0]
    return Replies(tree.zeros_like(replies.value), [], replies.population, nobody, nobody, {})


def refuse_other_than(low: int, value: int | None, high: int, name: str) -> None:
    """A number of clients must be one that there is; None: all."""
    if value is not None and not low <= value <= high:
        raise InputError(f"{name}={value} of {high} clients: choose between {low} and {high}")


def gather(
    algorithm: Algorithm, groups: Sequence[MessageBatch], population: int, staleness: Sequence[int] | None = None
) -> Replies:
    """Reduce a round's messages; clients are put in order first, so that who finished when changes nothing.

    Messages may be unlike, as those of clients with models of different architectures: what a dict holds under a key
    is reduced over the clients that sent that key, by their weights alone.

    Args:
        staleness: of each message of one group [C]; None: all are fresh.
    """
    groups = sorted(groups, key=lambda group: group.clients[0])
    if any(group.members is not None for group in groups):
        return _gathered_sums(algorithm, groups, population)
    clients = [c for group in groups for c in group.clients]
    given = torch.cat([group.messages.weight for group in groups])
    stale = torch.zeros_like(given) if staleness is None else torch.tensor(staleness).to(given)
    weights = given * algorithm.discount(stale)
    shares = torch.split(weights, [len(group.clients) for group in groups])
    parts = [(g.clients, g.messages.value, share) for g, share in zip(groups, shares, strict=True)]
    value = tree.form_unformed(_reduced(algorithm.reduce, parts))
    info = tree.concatenate([dict(group.messages.info) for group in groups])
    order = sorted(range(len(clients)), key=clients.__getitem__)
    if order != list(range(len(clients))):
        clients = [clients[i] for i in order]
        info, weights, stale = tree.index((info, weights, stale), order)
    return Replies(value, clients, population, stale, weights, mean_info(info, weights))


def _gathered_sums(algorithm: Algorithm, groups: Sequence[MessageBatch], population: int) -> Replies:
    """Replies of messages that are means over several clients each, of whom nobody's own weight is known."""
    stacked = tree.concatenate([group.messages for group in groups])
    members = [some for group in groups for some in group.members or [[c] for c in group.clients]]
    who = [c for some in members for c in some]
    order = sorted(range(len(who)), key=who.__getitem__)
    counts = torch.tensor([len(some) for some in members], device=stacked.weight.device)
    weights = torch.repeat_interleave(stacked.weight / counts, counts)[order]
    value = algorithm.reduce(stacked.value, stacked.weight)
    info = mean_info(stacked.info, stacked.weight)
    return Replies(value, [who[i] for i in order], population, torch.zeros_like(weights), weights, info)


MessagePart = tuple[Sequence[ClientId], Tree, Tensor]  # clients, what they sent (stacked), their weights


def _reduced(reduce: Reducer, parts: Sequence[MessagePart]) -> Tree:
    values = [value for _, value, _ in parts]
    if not tree.same_structure(values):
        if not all(isinstance(value, dict) for value in values):
            raise InputError("clients sent messages of unlike structure that are no dicts: they cannot be reduced")
        keys = sorted({key for value in values for key in value})
        return {k: _reduced(reduce, [(c, value[k], w) for c, value, w in parts if k in value]) for k in keys}
    if reduce.linear:
        means = [reduce(value, weights) for _, value, weights in parts]
        totals = torch.stack([weights.sum() for _, _, weights in parts])
        return means[0] if len(means) == 1 else reduce(tree.stack(means), totals)
    clients = [c for some, _, _ in parts for c in some]
    order = sorted(range(len(clients)), key=clients.__getitem__)
    stacked = tree.index(tree.concatenate_ragged(values), order)
    return reduce(stacked, torch.cat([weights for _, _, weights in parts])[order])


def mean_info(info: Mapping[str, Tensor], weights: Tensor) -> dict[str, Tensor]:
    """Weighted means of numbers for people, [C] each."""
    return {name: (weights * number).sum() / weights.sum() for name, number in info.items()}


def one_by_one(groups: Iterable[MessageBatch]) -> dict[ClientId, Message]:
    """Each client's own message."""
    groups = list(groups)
    if any(group.members is not None for group in groups):
        raise InputError(
            "these rounds need each client's own message, but secure aggregation gives sums alone: use synchronous "
            "rounds, or leave it out"
        )
    return {c: tree.index(group.messages, i) for group in groups for i, c in enumerate(group.clients)}


def refuse_infinite(state: Tree, number: int, info: Mapping[str, Tensor]) -> None:
    """A model that is no longer finite ends the rounds, before it is yielded."""
    if not tree.is_finite(state):
        loss = "unknown" if "loss" not in info else f"{float(info['loss']):.3g}"
        raise Diverged(
            f"round {number}: the model is no longer finite (loss {loss}); "
            "start again with lower learning rates (local.lr, outer.lr); what came before is intact"
        )


def refuse_hopeless(
    number: int, groups: Sequence[MessageBatch], refused: Mapping[ClientId, str], lost: Mapping[ClientId, str]
) -> None:
    """Messages were refused, and nobody's is left, or more are not finite than are left: no attack of a few, but a
    model that diverges."""
    left = sum(len(some) for group in groups for some in group.members or [[c] for c in group.clients])
    reasons = Counter(refused.values())
    bad = sum(why.startswith("not finite") for why in [*refused.values(), *lost.values()])
    if bad > left:
        raise Diverged(
            f"round {number}: the model is no longer finite for {bad} of its {left + len(refused) + len(lost)} "
            "clients; start again with lower learning rates (local.lr, outer.lr); what came before is intact"
        )
    if refused and not left:
        said = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        raise InputError(f"round {number}: {said}: no message is left; what came before is intact")


def by_client_name(prefix: str, tree_: Tree) -> dict[str, Tensor]:
    """A tree's leaves for `Round.rest`, under the prefix."""
    return {f"{prefix}.{name}": leaf for name, leaf in tree.named_leaves(tree_).items()}


def by_client_id(prefix: str, like: Tree, rest: Rest) -> Tree:
    """The tree that `named` took apart, of the same structure as another."""
    return tree.with_leaves(like, [rest[f"{prefix}.{name}"] for name in tree.named_leaves(like)])
