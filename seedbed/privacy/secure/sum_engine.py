"""An engine of whose clients' messages only sums come out: all that the server sees under secure aggregation."""

from collections.abc import Iterator, Mapping

from seedbed import tree
from seedbed.aggregation.robust import Robust
from seedbed.errors import InputError
from seedbed.federated import Algorithm, ClientId, Engine, EngineWrapper, Message, MessageBatch
from seedbed.privacy.secure.encoding import MessageEncoding, WeightedEncoding
from seedbed.privacy.secure.fixed_point import GridWords, NotEncodable
from seedbed.privacy.secure.groups import STAGES, Losing, Lost, assign_groups, no_losses
from seedbed.privacy.secure.mechanisms import MaskedSums, SumMechanism
from seedbed.privacy.secure.secagg_protocol import RoundAborted
from seedbed.tree import Tree

LOSS_REASONS = ("lost before it sent its keys", "lost before it shared its secrets", "lost before it sent its update")


class SecureSumEngine(EngineWrapper):
    """An engine that sums its clients' messages by secure aggregation and lets out the sums.

    Schedules get one message, the weighted mean over those who were not lost, or with `groups` one of each group. A
    sum that cannot be taken is missing, and its clients are named as lost; the round goes on with the others, and
    without any the model is as it was.

    Args:
        encoding: how messages become words.
        form: how words are summed.
        groups: into so many the clients of a round are dealt, by (seed, round); a robust rule then runs over the
            groups' means.
        losing: whom the network loses, in a simulation.
        seed: of the groups.
    Raises:
        InputError: (in rounds) the algorithm's server needs each message, or messages are unlike.
    """

    def __init__(
        self,
        engine: Engine,
        encoding: MessageEncoding = WeightedEncoding(),
        form: SumMechanism = MaskedSums(),
        *,
        groups: int = 1,
        losing: Losing = no_losses,
        seed: int = 0,
    ):
        super().__init__(engine)
        self.encoding, self.form, self.groups = encoding, form, groups
        self.losing, self.seed = losing, seed

    def ask(self, algorithm: Algorithm, sent: Mapping[ClientId, Tree], round: int) -> Iterator[MessageBatch]:
        refuse_unsummable(algorithm, self.groups)
        messages: dict[ClientId, Message] = {}
        for group in self.engine.ask(algorithm, sent, round):
            for place, client in enumerate(group.clients):
                if client in sent and client not in messages:
                    messages[client] = tree.index(group.messages, place)
        _refuse_unlike(messages)
        lost = self.losing(sorted(sent), round)
        for members in assign_groups(sorted(messages), self.groups, self.seed, round):
            yield self._sum({c: messages[c] for c in members}, round, lost)

    def _sum(self, messages: Mapping[ClientId, Message], round: int, lost: Lost) -> MessageBatch:
        words: dict[ClientId, GridWords] = {}
        why = {c: LOSS_REASONS[stage] for stage in reversed(range(STAGES - 1)) for c in lost[stage] if c in messages}
        for client, message in messages.items():
            try:
                words[client] = self.encoding.words(message, client, round)
            except NotEncodable as error:
                why[client] = str(error)
        first = next(iter(messages.values()))
        try:
            total, clients = self.form.sum(words, self.encoding.grid, round, lost)
        except RoundAborted as error:
            nothing: Message = tree.index(tree.stack([first]), [])
            return MessageBatch([], nothing, [], {c: str(error) if c in words else why[c] for c in messages})
        few = "too few of its neighbours were left"
        missing = {c: why.get(c, few) for c in messages if c not in clients}
        mean = self.encoding.message(total, first, len(clients))
        return MessageBatch([min(clients)], tree.stack([mean]), [sorted(clients)], missing)


def refuse_unsummable(algorithm: Algorithm, groups: int = 1) -> None:
    """An algorithm whose messages cannot be summed, or whose rule cannot see what it needs.

    Raises:
        InputError: which, and the way out.
    """
    rule = algorithm.reduce
    if isinstance(rule, Robust) and groups < 2:
        raise InputError(
            f"secure aggregation cannot compute reduce={rule}: it only sees sums, and that rule needs each message. "
            "Deal the clients into groups (secure.groups=5), whose means it can reduce; or take the mean"
        )
    if not rule.linear and not isinstance(rule, Robust):
        raise InputError(
            f"secure aggregation cannot compute reduce={rule}: it only sees sums, and this algorithm's server needs "
            "each message. Use another algorithm, or leave secure aggregation out"
        )
    if rule.linear and groups > 1:
        raise InputError(
            f"secure.groups={groups} shows the server {groups} sums instead of one, and the mean gains nothing from "
            "that: name a robust rule (reduce=median), or leave groups out"
        )


def _refuse_unlike(messages: Mapping[ClientId, Message]) -> None:
    """Messages that cannot be added word by word."""
    kinds = [tree.kind((m.value, dict(m.info))) for m in messages.values()]
    if any(kind != kinds[0] for kind in kinds):
        raise InputError(
            "secure aggregation cannot sum messages of unlike structure, as those of clients with models of different "
            "architectures: give all clients one model, or leave secure aggregation out"
        )
