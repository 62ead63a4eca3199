"""Was a client in the training? Models trained on random halves of the clients, by the run's own algorithm, cohorts and
noise; each is attacked with the others as shadows (LiRA: see `privacy.audit.membership`).

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
AT = 0.01  # the share of others that are taken for members
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class MembershipResult(NamedTuple):
    """A membership attack's yield.

    Attributes:
        rate: of members found.  mistaken: the most that the share of others taken for members can be (97.5 %).
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
        "sees": f"the model after {rounds} rounds, a client's data, and {shadows - 1} more models, of which it knows "
        "who took part",
        "obtains": f"the share of members that are found where {AT:.0%} of the others are taken for members",
        "unit": "found",
    }
    entry, promise = subject.entry, subject.reference
    if "synchronous" not in entry.rounds:
        return Finding(**named, missing=f"{subject.settings.algorithm} has no synchronous rounds to train shadows in")
    if len(subject.experiment.train) < 4:
        return Finding(**named, missing="fewer than four clients are known: no halves can be drawn")
    if promise is not None and isinstance(promise.mechanism(Noise(bytes(32))), LocalPrivacy):
        promise = None
    own = subject.own is not None and promise is not None
    tick = show.stage("membership", shadows * (1 if promise is None else 2))
    notes = [] if subject.own is None or own else [LOCAL_REASON]
    try:
        bare = attack_trainings(subject, None, rounds, tick)
    except (InputError, KeyError) as error:
        return Finding(**named, missing=f"shadows cannot be trained: {error}")
    figures = {"plain": membership_figure(bare), "guess": Figure(AT)}
    claim = None
    if promise is not None:
        try:
            hidden = attack_trainings(subject, promise, rounds, tick)
        except InputError as error:
            notes.append(f"Under privacy shadows cannot be trained: {error}.")
        else:
            spent = spent_by(promise, rounds)
            most = dp_ceiling(hidden.mistaken, spent, promise.delta)
            figures |= {"private": membership_figure(hidden), "ceiling": Figure(most)}
            said = (
                f"{hidden.rate.rate:.1%} of members found (at least {hidden.rate.low:.1%}); ε = {spent:.3g} after "
                f"{rounds} rounds allows {most:.1%} at the {hidden.mistaken:.1%} false alarms that are possible"
            )
            claim = Claim(said, hidden.rate.low > most) if own else None
            notes.append(
                f"After {rounds} rounds ε = {spent:.3g}; e^ε·{AT:g} + δ = {dp_ceiling(AT, spent, promise.delta):.2%}."
            )
    rows = [AttackRow(f"{subject.settings.algorithm}, {bare.pairs} guesses", figures)]
    return Finding(**named, rows=[*rows, *beside(subject, rounds, notes)], claim=claim, notes=notes)


def beside(subject: Subject, rounds: int, notes: list[str]) -> list[AttackRow]:
    """The same attack on a meta-gradient, or on FedAvg's update where the run sends a meta-gradient."""
    name = "fedavg" if subject.settings.algorithm in META_GRADIENTS else META_GRADIENTS[0]
    try:
        found = attack_trainings(with_algorithm(subject, name), None, rounds, lambda _: None)
    except (InputError, KeyError) as error:
        notes.append(f"{name} beside it cannot be trained on these data: {error}.")
        return []
    return [AttackRow(f"{name}, {found.pairs} guesses", {"plain": membership_figure(found), "guess": Figure(AT)})]


LOCAL_REASON = (
    "privacy.mechanism=local protects what a client's data are, not whether it takes part: only the undefended figure "
    "is given."
)


def spent_by(promise: PrivacyPromise, rounds: int) -> float:
    """ε of so many rounds."""
    return epsilon(promise.mechanism(Noise(bytes(32))).spent(rounds), promise.delta)


def membership_figure(found: MembershipResult) -> Figure:
    return Figure(found.rate.rate, found.rate.low, found.rate.high)


def attack_trainings(subject: Subject, promise: PrivacyPromise | None, rounds: int, tick: Any) -> MembershipResult:
    """Each of the trainings attacked with all others as shadows."""
    shadows, clients = subject.asked.shadows, len(subject.experiment.train)
    rng = randomness.generator(subject.settings.seed, "shadows")
    included = np.stack([random_halves(rng, clients) for _ in range(shadows)])
    scores = []
    for present in included:
        scores.append(-losses(subject, train_on_half(subject, promise, present, rounds)))
        tick("")
    return lira(np.stack(scores), included)


def lira(scores: Floats, included: Bools) -> MembershipResult:
    """What the attack yields from scores [S, N], high for members."""
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
    """A coin for each client; thrown again if all agree, for nobody could be told from anybody."""
    while True:
        coins = rng.random(clients) < 0.5
        if coins.any() and not coins.all():
            return coins


def train_on_half(subject: Subject, promise: PrivacyPromise | None, present: Bools, rounds: int) -> ServerState:
    """The state after so many rounds in which only those present take part; noise under a key of its own."""
    experiment, algorithm = subject.experiment, subject.algorithm
    source = experiment.source(subject.settings.algorithm, experiment.train, subject.options)
    engine: Engine = experiment.engine(source, subject.model)
    cohort: int | None = subject.cohort
    silent = False
    if promise is not None:
        mechanism = promise.mechanism(Noise(new_key()))
        algorithm = with_privacy(algorithm, mechanism, clip=promise.clip)
        cohort, silent = None, isinstance(mechanism, DistributedNoise)
        if silent:  # an absent client sends zero, with its noise
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
    """An engine whose absent clients contribute zero."""

    def __init__(self, engine: Engine, present: Bools):
        super().__init__(engine)
        self.present = present

    def ask(self, algorithm: Algorithm, sent: Mapping[ClientId, Tree], round: int) -> Iterator[MessageBatch]:
        for group in self.engine.ask(algorithm, sent, round):
            made = group.messages.value
            each = [
                tree.index(made.value, i) if self.present[c] else tree.zeros_like(tree.index(made.value, i))
                for i, c in enumerate(group.clients)
            ]
            value = made._replace(value=tree.stack(each))
            yield group._replace(messages=group.messages._replace(value=value))


def losses(subject: Subject, state: ServerState) -> Floats:
    """[N] each client's training loss under this state, on a task of its data."""
    experiment = subject.experiment
    source: Sampled = subject.sampled(experiment.train, "membership")
    algorithm: Algorithm = subject.algorithm
    sent = {c: algorithm.send(state, c) for c in source.clients}
    said = one_by_one(experiment.engine(source, subject.model).ask(algorithm, sent, 0))
    return np.array([float(said[c].info["loss"]) for c in source.clients])
