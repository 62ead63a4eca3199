"""Secure aggregation in a run: from settings to the engine out of which only sums come, and to what that protects."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from seedbed import tree
from seedbed.data.sampling import TaskSource
from seedbed.errors import InputError
from seedbed.experiments.config import SecureSettings, Settings
from seedbed.federated import Algorithm, Engine, Message, Params

if TYPE_CHECKING:  # the extra [privacy] is needed by those alone who ask for it
    from seedbed.privacy.differential.distributed_noise import DistributedNoise
    from seedbed.privacy.secure.encoding import MessageEncoding
    from seedbed.privacy.secure.mechanisms import SumMechanism

MIN_SUM_CLIENTS = 3  # clients of a sum: of a sum of two, each knows the other's


@dataclass(frozen=True)
class SecurePlan:
    """What a run lets its server see.

    Attributes:
        cohort: clients of a round.
        choosing: validation clients, whose mean scores choose how clients adapt; 0: nothing is chosen.
        honest: clients that a sum is taken over at least.
        private: with a budget ε, so that clients add noise to what they send.
    """

    settings: SecureSettings
    seed: int
    cohort: int
    clients: int
    choosing: int = 0
    honest: int = MIN_SUM_CLIENTS
    private: bool = False

    @classmethod
    def of(cls, settings: Settings, clients: int, choosing: int) -> "SecurePlan | None":
        """The plan for so many known clients; None: no secure aggregation is asked for.

        Raises:
            InputError: it cannot be had with what else is asked for.
        """
        asked, cohort = settings.secure, min(settings.cohort or clients, clients)
        if asked.form == "none":
            return None
        _require_library()
        honest = settings.privacy.honest
        counted = honest if isinstance(honest, int) else max(MIN_SUM_CLIENTS, math.ceil(honest * cohort - 1e-9))
        private = settings.privacy.epsilon is not None
        plan = cls(asked, settings.seed, cohort, clients, choosing, counted if private else MIN_SUM_CLIENTS, private)
        plan._refuse_small(min(cohort, clients - choosing))
        return plan

    @property
    def messages(self) -> int:
        """How many messages of a round the server sees."""
        return self.settings.groups or 1

    def engine(
        self,
        engine: Engine,
        algorithm: Algorithm,
        source: TaskSource,
        params: Params,
        mechanism: "DistributedNoise | None" = None,
    ) -> Engine:
        """The engine with only sums coming out of it.

        Args:
            mechanism: whose noise the clients add; None: none.
        """
        from seedbed.privacy.secure.groups import lose_at_random
        from seedbed.privacy.secure.sum_engine import SecureSumEngine, refuse_unsummable

        refuse_unsummable(algorithm, self.messages)
        return SecureSumEngine(
            engine,
            self._encoding(engine, algorithm, source, params, mechanism),
            self.form,
            groups=self.messages,
            losing=lose_at_random(self.settings.dropout, self.seed),
            seed=self.seed,
        )

    def _encoding(
        self,
        engine: Engine,
        algorithm: Algorithm,
        source: TaskSource,
        params: Params,
        mechanism: "DistributedNoise | None",
    ) -> "MessageEncoding":
        from seedbed.privacy.secure.encoding import WeightedEncoding
        from seedbed.privacy.secure.fixed_point import FixedPointGrid
        from seedbed.privacy.secure.noised_sum import NoisedEncoding

        if mechanism is not None:
            return NoisedEncoding(mechanism)
        cap = self.settings.cap
        if cap is None and float(one_message(engine, algorithm, params).weight) > 1:
            cap = max(float(source.tasks([c], 0).examples) for c in source.clients)
        return WeightedEncoding(FixedPointGrid(self.settings.clip, self.settings.bits, self.cohort, cap))

    @property
    def form(self) -> "SumMechanism":
        from seedbed.privacy.secure.mechanisms import MaskedSums, SharedSums

        asked = self.settings
        if asked.form == "shares":
            return SharedSums(asked.servers, self.honest)
        return MaskedSums(
            asked.neighbours,
            asked.threshold,
            self.honest,
            asked.malicious,
            colluding=asked.colluding,
            lost=asked.lost,
        )

    def _refuse_small(self, clients: int) -> None:
        """Sums over too few, or masks that protect nobody, in the smallest rounds that there will be."""
        from seedbed.privacy.secure.fixed_point import FixedPointGrid
        from seedbed.privacy.secure.mechanisms import MaskedSums

        smallest, form = clients // self.messages, self.form
        largest = -(-self.cohort // self.messages)
        if smallest < MIN_SUM_CLIENTS:
            of = f"secure.groups={self.messages} of {clients} clients" if self.messages > 1 else f"{clients} clients"
            fewer = ", or fewer groups" if self.messages > 1 else ""
            if clients < self.cohort:
                of += f" ({self.choosing} of the {self.clients} known ones choose how clients adapt)"
            raise InputError(
                f"{of} a round would be sums over {smallest}, but the least is {MIN_SUM_CLIENTS}: of a sum over two, "
                f"each knows the other's update; ask more clients (cohort){fewer}"
            )
        if self.honest > clients:
            raise InputError(f"privacy.honest={self.honest} of {clients} clients a round: name fewer")
        if isinstance(form, MaskedSums):
            for size in {smallest, largest}:
                form.plan(size, 2, FixedPointGrid(clients=largest), 0)

    def table(self, metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """For result.json.

        Args:
            metrics: what was logged of the rounds.
        """
        lost = int(sum(record.get("lost", 0) for record in metrics))
        given_up = int(sum(record.get("abandoned", 0) for record in metrics))
        return {
            "form": self.settings.form,
            "groups": self.settings.groups,
            "least_of_a_sum": self.honest,
            "lost": lost,
            "given_up": given_up,
            "said": self._lines(lost, given_up, len(metrics)),
        }

    def _lines(self, lost: int, given_up: int, rounds: int) -> list[str]:
        """What the server sees, what protects the rest, and what does not."""
        lines = [f"Secure aggregation: {self._seen()} Nothing else of any client's message.", self._model()]
        if self.settings.dropout or lost:
            lines.append(
                f"Lost on the way, in all training: {lost} messages in {rounds} rounds; {given_up} rounds were given "
                "up, for too few were left to unmask a sum: the model stayed as it was, and nothing was revealed."
            )
        bounded = " (--epsilon bounds that)" if not self.private else ", but as ε says"
        withheld = "Withheld: losses of single clients, and scores on known clients."
        if self.choosing:
            withheld += (
                f" How clients adapt was chosen by the mean score of {self.choosing} validation clients for each way "
                "tried, which is a sum too."
            )
        return [
            *lines,
            withheld,
            f"Not covered: what a sum itself tells{bounded}; false updates; who took part, and when; a client's own "
            "machine.",
            "A run is a simulation: all of the protocol is computed, keys and masks too, but in one process, whose "
            "owner sees everything; checkpoints/ hold what simulated clients keep.",
        ]

    def _seen(self) -> str:
        of, groups = f"{self.cohort} of {self.clients} known clients a round", self.settings.groups
        if self.private:
            return f"of {of} the server sees the noisy sum over those whose message arrived, and who they are."
        what = "weighted mean, the sum of weights and the mean loss"
        if groups is None:
            return f"of {of} the server sees the {what} over those whose update arrived, and who they are."
        low, high = self.cohort // groups, -(-self.cohort // groups)
        size = f"{low}" if low == high else f"{low} to {high}"
        return (
            f"of {of}, dealt afresh into {groups} groups of {size}, the server sees each group's {what}, and who is in "
            f"it: a client hides among {low}, not among {self.cohort}. The robust rule reduces the {groups} means; "
            "one client that lies spoils its group's, and its f counts groups."
        )

    def _model(self) -> str:
        from seedbed.privacy.secure.mechanisms import MaskedSums

        asked, form = self.settings, self.form
        if not isinstance(form, MaskedSums):
            return (
                f"Against: {asked.servers} servers that follow the protocol, as long as one of them does not collude "
                "with the others (additive shares)."
            )
        from seedbed.privacy.secure.odds import cheapest, in_words, odds

        size = self.cohort // self.messages
        assumed = form.assumed(size)
        k, t = cheapest(assumed, form.neighbours, form.threshold)
        exposed, given_up = odds(assumed, k, t)
        of = f"{size} clients of a {'group' if self.messages > 1 else 'round'}"
        together = f"together with up to {assumed.colluding} of the {of}"
        how = f"{t} of {k} neighbours unmask. Odds a {'sum' if self.messages > 1 else 'round'}"
        sure = (
            f"{how} that an update is exposed beyond its sum: {in_words(exposed)}; that the sum is given up while at "
            f"most {assumed.lost} are lost: {in_words(given_up)}."
        )
        if asked.malicious:
            return (
                f"Against: a server that deviates from the protocol as it likes, {together}, as long as clients know "
                "each other's identity keys from elsewhere (SecAgg+ with signatures). Each sum that it can get holds "
                f"at least {assumed.least_honest} honest clients. {sure}"
            )
        return (
            f"Against: a server that follows the protocol and reads all it gets, {together} (SecAgg+). Not against one "
            f"that deviates: secure.malicious=true does that. {sure}"
        )


def one_message(engine: Engine, algorithm: Algorithm, params: Params) -> Message:
    """What messages are like: the first client's of round 0; what clients keep is put back."""
    before, state, client = dict(engine.memory()), algorithm.init(params), engine.population[0]
    groups = list(engine.ask(algorithm, {client: algorithm.send(state, client)}, 0))
    engine.recall(before)
    message: Message = tree.index(groups[0].messages, 0)
    return message


def _require_library() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise InputError("secure aggregation needs the package cryptography: pip install 'seedbed[privacy]'") from error
