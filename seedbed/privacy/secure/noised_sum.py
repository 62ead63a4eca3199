"""What clients of a private algorithm send under secure aggregation: whole numbers with noise of their own."""

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
    """An encoding for `private(algorithm, mechanism, clip=mechanism.clip)`: W = P + 1 words.

    Modulo 2³² or 2⁶⁴ nothing wraps around: words are as wide as the largest sum needs. (It would not touch the promise,
    which holds for the sum of whole numbers and all that is made of it; only the result.)
    """

    mechanism: DistributedNoise

    @property
    def grid(self) -> FixedPointGrid:
        """Of whole numbers: its step is 1."""
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
        made = Contribution(unflatten(mean, value), tree.zeros_like(within), noised.new_ones(()))
        return Message(made, like.weight.new_tensor(float(clients)), {})
