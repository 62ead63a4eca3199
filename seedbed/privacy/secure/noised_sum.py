"""Messages of a private algorithm under secure aggregation: integers that carry the client's own noise."""

import math
from dataclasses import dataclass

from seedbed import tree
from seedbed.errors import InputError
from seedbed.federated import Message
from seedbed.privacy.differential.central import Contribution
from seedbed.privacy.differential.distributed_noise import DistributedNoise
from seedbed.privacy.secure.encoding import flatten, unflatten
from seedbed.privacy.secure.fixed_point import FixedPointGrid, GridWords, NotEncodable
from seedbed.privacy.secure.groups import ClientId


@dataclass(frozen=True)
class NoisedEncoding:
    """Encoding for `with_privacy(algorithm, mechanism, clip=mechanism.clip)`: W = P + 1 words.

    No sum wraps around modulo 2³² or 2⁶⁴: words are as wide as the largest sum needs. Wrapping would distort the result
    but not weaken privacy, which holds for the sum of integers and all that is computed from it.
    """

    mechanism: DistributedNoise

    @property
    def grid(self) -> FixedPointGrid:
        """A grid of integers: its step is 1."""
        bits = math.ceil(math.log2(self.mechanism.largest + 1)) + 1
        return FixedPointGrid(clip=float(2 ** (bits - 1) - 1), bits=bits, clients=self.mechanism.expected)

    def words(self, message: Message, client: ClientId, round: int) -> GridWords:
        assert isinstance(message.value, Contribution)
        try:
            whole = self.mechanism.whole(flatten(message.value.value), client, round)
        except InputError as error:
            raise NotEncodable(str(error)) from error
        return self.grid.encode(whole.astype(float))

    def message(self, total: GridWords, like: Message, clients: int) -> Message:
        mean = self.grid.signed(total)[:-1] / (self.mechanism.grid.scale * clients)
        value, within, noised = like.value
        contribution = Contribution(unflatten(mean, value), tree.zeros_like(within), noised.new_ones(()))
        return Message(contribution, like.weight.new_tensor(float(clients)), {})
