"""Membership inference: was a client in the training? Models are trained on random halves of the clients, with the
run's own algorithm, cohorts and noise; each is attacked with the others as shadow models (LiRA: see
`audit.attacks.membership_inference`).

Shapes: S trainings, N known clients.
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from seedbed import randomness, tree
from seedbed.audit.attacks.membership_inference import RateInterval, dp_ceiling, likelihood_ratio, true_positive_rate
from seedbed.audit.findings import AttackRow, Claim, Figure, Finding
from seedbed.audit.subject import Subject, with_algorithm
from seedbed.audit.views import private_engine
from seedbed.data.sampling import Sampled
from seedbed.errors import InputError
from seedbed.experiments.privacy_plan import PrivacyPromise
from seedbed.experiments.stages import Show
from seedbed.federated import Algorithm, ClientId, Engine, EngineWrapper, MessageBatch, ServerState
from seedbed.privacy.differential import DistributedNoise, LocalPrivacy, Noise, epsilon, new_key, with_privacy
from seedbed.privacy.differential.central import public_info
from seedbed.rounds import synchronous
from seedbed.rounds.round import one_by_one
from seedbed.tree import Tree

META_GRADIENTS = ("fedmeta", "per_fedavg")  # algorithms whose clients send the gradient of a loss after adaptation
AT = 0.01  # false-positive rate at which members are counted
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class MembershipResult(NamedTuple):
    """The result of a membership attack.

    Attributes:
        rate: true-positive rate with its interval.
        mistaken: upper bound (97.5 %) on the actual false-positive rate.
        pairs: the number of guesses.
    """

    rate: RateInterval
    mistaken: float
    pairs: int


def probe_membership(subject: Subject, show: Show) -> Finding:
    """Membership of clients, undefended and under the promise of the run or the reference."""
    rounds = min(subject.asked.rounds, subject.settings.rounds or 1)
    shadows = subject.asked.shadows
    named: dict[str, Any] = {
        "name": "membership",
        "title": "Membership: was a client in the training?",
        "sees": f"the model after {rounds} rounds, a client's data, and {shadows - 1} more models with known "
        "participants",
        "obtains": f"the true-positive rate at a false-positive rate of {AT:.0%}",
        "unit": "found",
    }
    entry, promise = subject.entry, subject.reference
    if "synchronous" not in entry.rounds:
        return Finding(**named, missing=f"{subject.settings.algorithm} has no synchronous rounds for shadow models")
    if len(subject.experiment.train) < 4:
        return Finding(**named, missing="fewer than four clients are known: no halves can be drawn")
    if promise is not None and isinstance(promise.mechanism(Noise(bytes(32))), LocalPrivacy):
        promise = None
    own = subject.own is not None and promise is not None
    tick = show.stage("membership", shadows * (1 if promise is None else 2))
    notes = [] if subject.own is None or own else [LOCAL_REASON]
    try:
        undefended = attack_trainings(subject, None, rounds, tick)
    except (InputError, KeyError) as error:
        return Finding(**named, missing=f"shadow models cannot be trained: {error}")
    figures = {"plain": membership_figure(undefended), "guess": Figure(AT)}
    claim = None
    if promise is not None:
        try:
            defended = attack_trainings(subject, promise, rounds, tick)
        except InputError as error:
            notes.append(f"Under privacy, shadow models cannot be trained: {error}.")
        else:
            spent = spent_by(promise, rounds)
            allowed = dp_ceiling(defended.mistaken, spent, promise.delta)
            figures |= {"private": membership_figure(defended), "ceiling": Figure(allowed)}
            text = (
                f"{defended.rate.rate:.1%} of members found (at least {defended.rate.low:.1%}); ε = {spent:.3g} after "
                f"{rounds} rounds allows {allowed:.1%} at a false-positive rate of up to {defended.mistaken:.1%}"
            )
            claim = Claim(text, defended.rate.low > allowed) if own else None
            notes.append(
                f"After {rounds} rounds ε = {spent:.3g}; e^ε·{AT:g} + δ = {dp_ceiling(AT, spent, promise.delta):.2%}."
            )
    rows = [AttackRow(f"{subject.settings.algorithm}, {undefended.pairs} guesses", figures)]
    return Finding(**named, rows=[*rows, *compare_messages(subject, rounds, notes)], claim=claim, notes=notes)


def compare_messages(subject: Subject, rounds: int, notes: list[str]) -> list[AttackRow]:
    """The same attack on a meta-gradient, or on FedAvg's update if the run sends a meta-gradient."""
    name = "fedavg" if subject.settings.algorithm in META_GRADIENTS else META_GRADIENTS[0]
    try:
        result = attack_trainings(with_algorithm(subject, name), None, rounds, lambda _: None)
    except (InputError, KeyError) as error:
        notes.append(f"The comparison with {name} cannot be trained on these data: {error}.")
        return []
    return [AttackRow(f"{name}, {result.pairs} guesses", {"plain": membership_figure(result), "guess": Figure(AT)})]


LOCAL_REASON = (
    "privacy.mechanism=local protects a client's data, not whether it takes part: only the undefended figure is given."
)


def spent_by(promise: PrivacyPromise, rounds: int) -> float:
    """ε after this number of rounds."""
    return epsilon(promise.mechanism(Noise(bytes(32))).spent(rounds), promise.delta)


def membership_figure(result: MembershipResult) -> Figure:
    return Figure(result.rate.rate, result.rate.low, result.rate.high)


def attack_trainings(subject: Subject, promise: PrivacyPromise | None, rounds: int, tick: Any) -> MembershipResult:
    """Attack each of the trainings, with all others as shadow models."""
    shadows, clients = subject.asked.shadows, len(subject.experiment.train)
    rng = randomness.generator(subject.settings.seed, "shadows")
    included = np.stack([random_halves(rng, clients) for _ in range(shadows)])
    scores = []
    for present in included:
        scores.append(-losses(subject, train_on_half(subject, promise, present, rounds)))
        tick("")
    return lira(np.stack(scores), included)


def lira(scores: Floats, included: Bools) -> MembershipResult:
    """The result of the attack from scores [S, N], which are high for members."""
    ratios = np.stack(
        [likelihood_ratio(scores[i], np.delete(scores, i, 0), np.delete(included, i, 0)) for i in range(len(scores))]
    )
    flat, member = ratios.ravel(), included.ravel()
    rate = true_positive_rate(flat, member, at=AT)
    others = int((~member).sum())
    allowed = int(np.floor(AT * others))
    most = float(stats.beta.ppf(0.975, allowed + 1, max(1, others - allowed)))
    return MembershipResult(rate, most, len(flat))


def random_halves(rng: np.random.Generator, clients: int) -> Bools:
    """Random split of the clients; redrawn if one side is empty."""
    while True:
        coins = rng.random(clients) < 0.5
        if coins.any() and not coins.all():
            return coins


def train_on_half(subject: Subject, promise: PrivacyPromise | None, present: Bools, rounds: int) -> ServerState:
    """Train on the clients in `present`; noise, if any, with a new key."""
    experiment, algorithm = subject.experiment, subject.algorithm
    source = experiment.source(subject.settings.algorithm, experiment.train, subject.options)
    engine: Engine = experiment.engine(source, subject.model)
    cohort: int | None = subject.cohort
    silent = False
    if promise is not None:
        mechanism = promise.mechanism(Noise(new_key()))
        algorithm = with_privacy(algorithm, mechanism, clip=promise.clip)
        cohort, silent = None, isinstance(mechanism, DistributedNoise)
        if silent:  # an absent client sends zero, plus its noise
            engine = private_engine(SilentWhereAbsent(engine, present), mechanism, promise.clip)
    schedule = synchronous(
        algorithm,
        engine,
        algorithm.init(subject.model.params),
        cohort=cohort,
        seed=subject.settings.seed,
        answering=None if silent else lambda chosen, round: [c for c in chosen if present[c]],
    )
    *_, last = islice(schedule, rounds)
    return last.state if promise is None else public_info(last.state)


class SilentWhereAbsent(EngineWrapper):
    """Engine wrapper whose absent clients contribute zero."""

    def __init__(self, engine: Engine, present: Bools):
        super().__init__(engine)
        self.present = present

    def ask(self, algorithm: Algorithm, sent: Mapping[ClientId, Tree], round: int) -> Iterator[MessageBatch]:
        for group in self.engine.ask(algorithm, sent, round):
            contribution = group.messages.value
            singles = [tree.index(contribution.value, i) for i in range(len(group.clients))]
            values = [
                value if self.present[c] else tree.zeros_like(value)
                for c, value in zip(group.clients, singles, strict=True)
            ]
            value = contribution._replace(value=tree.stack(values))
            yield group._replace(messages=group.messages._replace(value=value))


def losses(subject: Subject, state: ServerState) -> Floats:
    """[N]: each client's training loss under this state, on a task of its data."""
    experiment = subject.experiment
    source: Sampled = subject.sampled(experiment.train, "membership")
    algorithm: Algorithm = subject.algorithm
    sent = {c: algorithm.send(state, c) for c in source.clients}
    answers = one_by_one(experiment.engine(source, subject.model).ask(algorithm, sent, 0))
    return np.array([float(answers[c].info["loss"]) for c in source.clients])
