"""Hostile clients and what is done against them in a run: the rule that reduces messages, the gate, the attack."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from seedbed import aggregation, attacks, tree
from seedbed.algorithms.fltrust import fltrust
from seedbed.algorithms.momentum import with_momentum
from seedbed.attacks import Attack, AttackedEngine, PoisonedTasks, choose_attackers
from seedbed.data.population import Population
from seedbed.data.sampling import Sampled, Sampler, TaskSource
from seedbed.errors import InputError, closest_name
from seedbed.experiments.config import Settings
from seedbed.experiments.factories import build_from_settings, settable_parameters
from seedbed.federated import Algorithm, ClientId, Engine, ServerState
from seedbed.rounds.message_validation import MessageValidator
from seedbed.tree import Tree


def with_robust_rule(
    algorithm: Algorithm, settings: Settings, root: Callable[[], TaskSource], clients: int
) -> Algorithm:
    """The algorithm with the run's rule for its messages, and momentum on its clients.

    Args:
        root: makes a source of one client, the server's, for fltrust.
        clients: of a round.
    Raises:
        InputError: there is no such rule, or it cannot work with so few clients.
    """
    name, beta = settings.reduce.name, settings.reduce.momentum
    algorithm = with_momentum(algorithm, beta=beta) if beta else algorithm
    if name is None or name == "mean":
        return algorithm
    own = dict(settings.reduce.model_extra or {})
    if name == "fltrust":
        if own:
            raise InputError(f"unknown setting 'reduce.{next(iter(own))}' of fltrust: {closest_name('', ['root'])}")
        return fltrust(algorithm, tree.index(root().tasks([0], 0), 0))
    rule = _rule(name, own)
    rule({"x": torch.zeros(clients, 1)}, torch.ones(clients))  # too few clients are found before any work is done
    return replace(algorithm, reduce=rule)


def rule_of_algorithm(kept: Tree, settings: Settings) -> Tree:
    """What a client keeps, without the momentum around it."""
    return kept["kept"] if settings.reduce.momentum else kept


def _rule(name: str, own: Mapping[str, Any]) -> aggregation.Robust:
    """Settings that several parts of a rule have (f) go to all of them; those that none has, to the last to refuse."""
    if name.split("+")[-1] not in aggregation.RULES:
        raise InputError(f"unknown rule reduce={name!r}: {closest_name(name, ['mean', 'fltrust', *aggregation.RULES])}")
    parts = {part: settable_parameters(part) for part in aggregation.rule_factories(name)}
    strange = own.keys() - {key for keys in parts.values() for key in keys}
    return aggregation.chain_rules(
        *(
            build_from_settings(part, {k: v for k, v in own.items() if k in keys or k in strange}, {}, where="reduce.")
            for part, keys in parts.items()
        )
    )


def root_of(population: Population, sampler: Sampler, settings: Settings) -> Sampled:
    """The server's own client: as many examples as the settings say, drawn from those of all known clients.

    In a simulation they are copies of clients' examples; a real server must have collected its own.
    """
    everyone = population.pooled()
    part = settings.reduce.root / len(everyone.rows)
    if part >= 1:
        raise InputError(f"reduce.root={settings.reduce.root} of {len(everyone.rows)} examples: name fewer")
    return Sampled(everyone.hold_out(part, seed=settings.seed)[1], sampler, seed=settings.seed, purpose="root")


def attack_of(settings: Settings, context: Mapping[str, Any]) -> Attack | None:
    """The run's attack, or None.

    Args:
        context: classes, shape and episodic of the data, and the model's loss.
    """
    if settings.attack.name is None:
        return None
    if settings.attack.name not in attacks.ATTACKS:
        raise InputError(
            f"unknown attack {settings.attack.name!r}: {closest_name(settings.attack.name, attacks.ATTACKS)}"
        )
    factory, also = attacks.ATTACKS[settings.attack.name], ("attack.name", "attack.fraction")
    made: Attack = build_from_settings(factory, settings.attack.model_extra or {}, context, where="attack.", also=also)
    return made


def attackers_of(settings: Settings, source: TaskSource) -> frozenset[ClientId]:
    """Which of these clients attack."""
    return choose_attackers(source.clients, settings.attack.fraction, settings.seed)


def with_poison(source: TaskSource, attack: Attack | None, attackers: frozenset[ClientId]) -> TaskSource:
    """The source with the attackers' data poisoned, where the attack does that."""
    return source if attack is None or attack.poison is None else PoisonedTasks(source, attack.poison, attackers)


def with_attack(
    engine: Engine, attack: Attack | None, attackers: frozenset[ClientId], start: ServerState, settings: Settings
) -> Engine:
    """The engine with the attackers' messages as the attack has them."""
    gate = MessageValidator(**settings.gate.model_dump())
    return engine if attack is None else AttackedEngine(engine, attack, attackers, start, seed=settings.seed, gate=gate)
