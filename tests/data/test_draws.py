"""Many generators at once are those that NumPy makes one at a time."""

import numpy as np
import pytest

from seedbed.randomness import generator, generators


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 2**40 + 5, 2**70])
@pytest.mark.parametrize("key", [(), (3,), (2**33,), (1, 2, 3)])
def test_they_are_numpys(seed, key):
    each = [0, 2**32 - 1, *np.random.default_rng(seed).integers(0, 2**32, 20).tolist()]
    for one, found in zip(each, generators(seed, "train", *key, each=each), strict=True):
        assert found.bit_generator.state == generator(seed, "train", *key, one).bit_generator.state


@pytest.mark.parametrize("each", [[], [2**32], [5, 2**40]])
def test_what_has_more_words_is_made_one_at_a_time(each):
    found = [g.random() for g in generators(0, "train", each=each)]
    assert found == [generator(0, "train", one).random() for one in each]


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match="non-negative"):
        list(generators(-1, "train", each=[0]))
