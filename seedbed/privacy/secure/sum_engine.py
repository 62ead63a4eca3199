"""Engine wrapper that returns only securely aggregated sums: all that the server sees."""

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
    """Engine wrapper that sums its clients' messages by secure aggregation and returns only the sums.

    A schedule gets one message: the weighted mean over the clients that were not lost, or with `groups` one mean per
    group. A sum that cannot be computed is missing, and its clients are reported as lost. The round continues with the
    other groups; without any, the model stays unchanged.

    Args:
        engine: the engine that trains the clients.
        encoding: how messages become words.
        form: how words are summed.
        groups: the number of groups into which a round's clients are split, by (seed, round); a robust rule then
            reduces the groups' means.
        losing: the simulated losses of the network.
        seed: for the groups.
    Raises:
        InputError: (in rounds) the algorithm's server needs each message, or messages differ in structure.
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
        reasons = {
            c: LOSS_REASONS[stage] for stage in reversed(range(STAGES - 1)) for c in lost[stage] if c in messages
        }
        for client, message in messages.items():
            try:
                words[client] = self.encoding.words(message, client, round)
            except NotEncodable as error:
                reasons[client] = str(error)
        first = next(iter(messages.values()))
        try:
            total, clients = self.form.sum(words, self.encoding.grid, round, lost)
        except RoundAborted as error:
            no_messages: Message = tree.index(tree.stack([first]), [])
            return MessageBatch([], no_messages, [], {c: str(error) if c in words else reasons[c] for c in messages})
        few = "too few of its neighbours were left"
        missing = {c: reasons.get(c, few) for c in messages if c not in clients}
        mean = self.encoding.message(total, first, len(clients))
        return MessageBatch([min(clients)], tree.stack([mean]), [sorted(clients)], missing)


def refuse_unsummable(algorithm: Algorithm, groups: int = 1) -> None:
    """Refuse an algorithm whose messages cannot be summed, or whose reducer needs single messages.

    Raises:
        InputError: the reason and the way out.
    """
    rule = algorithm.reduce
    if isinstance(rule, Robust) and groups < 2:
        raise InputError(
            f"secure aggregation cannot compute reduce={rule}: it only sees sums, and this rule needs each message. "
            "Split the clients into groups (secure.groups=5), whose means it can reduce, or use reduce=mean"
        )
    if not rule.linear and not isinstance(rule, Robust):
        raise InputError(
            f"secure aggregation cannot compute reduce={rule}: it only sees sums, and this algorithm's server needs "
            "each message. Use another algorithm, or leave secure aggregation out"
        )
    if rule.linear and groups > 1:
        raise InputError(
            f"secure.groups={groups} shows the server {groups} sums instead of one, without any benefit for the mean: "
            "choose a robust rule (reduce=median), or leave secure.groups out"
        )


def _refuse_unlike(messages: Mapping[ClientId, Message]) -> None:
    """Refuse messages that differ in structure, shapes or types."""
    kinds = [tree.kind((m.value, dict(m.info))) for m in messages.values()]
    if any(kind != kinds[0] for kind in kinds):
        raise InputError(
            "secure aggregation cannot sum messages of different structure, such as from clients with different model "
            "architectures: give all clients one model, or turn secure aggregation off"
        )
