"""Noise from a key: its distribution, that streams are apart, and that the same is drawn again."""

import os
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from seedbed import InputError
from seedbed.privacy.differential import Banded, Independent, LocalPrivacy, Noise, TreeAggregation, new_key
from seedbed.privacy.differential.noise import key_file

KEY = Noise(bytes(range(32)))
MILLION = 1_000_000


def test_words_are_those_of_the_cipher() -> None:
    """HKDF-SHA256 (RFC 5869) written out with hmac, then AES-256 of the counters 0 and 1."""
    import hmac

    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    info = b"sum\0" + (7).to_bytes(8, "big")
    pseudo = hmac.digest(bytes(32), bytes(range(32)), "sha256")
    derived = hmac.digest(pseudo, info + b"\1", "sha256")
    block = Cipher(algorithms.AES(derived), modes.ECB()).encryptor()
    want = block.update((0).to_bytes(16, "big") + (1).to_bytes(16, "big"))
    assert KEY.words(4, "sum", 7).tobytes() == want


def test_words_are_uniform() -> None:
    """Chi-square of all bytes of a million words, and of each bit's mean."""
    words = KEY.words(MILLION, "test")
    counts = np.bincount(words.view(np.uint8), minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-3
    bits = [float(((words >> np.uint64(b)) & np.uint64(1)).mean()) for b in range(64)]
    assert np.abs(np.array(bits) - 0.5).max() < 5 * 0.5 / MILLION**0.5


def test_numbers_are_normal() -> None:
    """A million: Kolmogorov–Smirnov, standard deviation within 1 %, tails as they should be, halves uncorrelated."""
    drawn = KEY.normal(MILLION, "test")
    assert stats.kstest(drawn, "norm").pvalue > 1e-3
    assert abs(drawn.std() - 1) < 0.01
    beyond = (np.abs(drawn) > 4).sum()
    assert abs(beyond - MILLION * 2 * stats.norm.sf(4)) < 5 * (MILLION * 2 * stats.norm.sf(4)) ** 0.5
    half = MILLION // 2
    assert abs(np.corrcoef(drawn[:half], drawn[half:])[0, 1]) < 5 / half**0.5


def test_the_same_is_drawn_again_and_other_purposes_are_others() -> None:
    drawn = {
        "again": KEY.normal(1000, "sum", 3),
        "round": KEY.normal(1000, "sum", 4),
        "purpose": KEY.normal(1000, "within", 3),
        "key": Noise(new_key()).normal(1000, "sum", 3),
        "more numbers": KEY.normal(1000, "sum", 3, 0),
        "client": KEY.of("client", 1).normal(1000, "sum", 3),
    }
    first = KEY.normal(1000, "sum", 3)
    assert (drawn.pop("again") == first).all()
    for what, other in drawn.items():
        assert abs(np.corrcoef(first, other)[0, 1]) < 0.16, what  # five deviations of 1000^-1/2


def test_numbers_start_alike_however_many_are_drawn() -> None:
    assert KEY.normal(0, "sum").shape == (0,)
    assert (KEY.words(3, "sum") == KEY.words(5, "sum")[:3]).all()


def test_released_noise_of_a_round() -> None:
    """What a mechanism adds to a sum of a million numbers: N(0, z²), another each round, the same when asked again."""
    like = {"a": torch.zeros(MILLION // 2), "b": torch.zeros(500, 1000)}
    mechanism = Independent(KEY, 1.7, 5, 50)

    def flat(round: int) -> np.ndarray:  # type: ignore[type-arg]
        noise = mechanism.noise(like, round)
        assert noise["b"].shape == (500, 1000)
        return torch.cat([noise["a"], noise["b"].reshape(-1)]).numpy()

    one, two = flat(0), flat(1)
    assert stats.kstest(one / 1.7, "norm").pvalue > 1e-3
    assert abs(one.std() / 1.7 - 1) < 0.01
    assert abs(np.corrcoef(one, two)[0, 1]) < 5e-3
    assert (flat(0) == one).all()


@pytest.mark.parametrize("rounds", [1, 2, 5, 7, 8, 13])
def test_the_tree(rounds: int) -> None:
    """What was added up to round t is the sum of the nodes that t + 1 is made of in binary; a pass begins anew."""
    like = torch.zeros(4)
    mechanism = TreeAggregation(KEY, 2.0, 3, 3 * rounds)
    scale = 2.0 * mechanism.levels**0.5
    assert mechanism.levels == int(np.floor(np.log2(rounds))) + 1
    for pass_ in (0, 1):
        total = torch.zeros(4, dtype=torch.float64)
        for t in range(rounds):
            total = total + mechanism.noise(like, pass_ * rounds + t)
            n, nodes = t + 1, []
            for level in range(n.bit_length()):
                if n >> level & 1:
                    nodes.append(torch.as_tensor(KEY.normal(4, "sum", pass_, level, (n >> level) - 1)))
            assert len(nodes) <= mechanism.levels
            assert torch.allclose(total, scale * torch.stack(nodes).sum(0), atol=1e-12)


def test_a_round_is_in_as_many_nodes_as_the_tree_has_levels_at_most() -> None:
    """All whole subtrees of 13 rounds that hold each one: what z√levels is sized for."""
    rounds = 13
    nodes = [range(p << k, (p + 1) << k) for k in range(5) for p in range(rounds) if (p + 1) << k <= rounds]
    most = max(sum(t in node for node in nodes) for t in range(rounds))
    assert most == TreeAggregation(KEY, 1.0, 1, rounds).levels == 4


@pytest.mark.parametrize(("pass_rounds", "passes"), [(1, 4), (4, 1), (5, 3)])
def test_banded_factors(pass_rounds: int, passes: int) -> None:
    """Noise = z·‖c‖·C⁻¹Z with C written out as a matrix, and a client's columns of C orthogonal: its contributions of
    length 1 change the whitened sums by √passes·‖c‖ at most, which is what `passes` Gaussians of z cost."""
    rounds = pass_rounds * passes
    mechanism = Banded(KEY, 1.5, 2, 2 * pass_rounds)
    c = np.zeros(rounds)
    c[:pass_rounds] = [np.prod([(2 * j - 1) / (2 * j) for j in range(1, k + 1)]) for k in range(pass_rounds)]
    matrix = np.array([[c[i - j] if i >= j else 0.0 for j in range(rounds)] for i in range(rounds)])
    like = torch.zeros(3)
    z = np.stack([KEY.normal(3, "sum", t) for t in range(rounds)])
    want = 1.5 * np.linalg.norm(c) * np.linalg.solve(matrix, z)
    got = np.stack([mechanism.noise(like, t).numpy() for t in range(rounds)])
    assert np.abs(got - want).max() < 1e-10
    assert np.abs(mechanism.noise(like, 0).numpy() - want[0]).max() < 1e-12  # a round asked again, after later ones
    mine = matrix[:, ::pass_rounds]
    gram = mine.T @ mine
    assert np.abs(gram - np.diag(np.diag(gram))).max() < 1e-12
    assert np.linalg.norm(mine, 2) <= np.linalg.norm(c) + 1e-12


def test_factors_add_less_to_partial_sums_than_fresh_noise() -> None:
    """Mean squared error of the sums over 64 rounds at equal cost for one pass: banded < tree < fresh noise.

    Fresh noise of z costs z⁻² once a client here too (each takes part once): its sum over t rounds has variance z²t.
    """
    rounds, like = 64, torch.zeros(4000)
    errors = []
    for mechanism in (Banded(KEY, 1.0, 1, rounds), TreeAggregation(KEY, 1.0, 1, rounds)):
        sums = torch.cumsum(torch.stack([mechanism.noise(like, t) for t in range(rounds)]), 0)
        errors.append(float((sums**2).mean()))
    fresh = (rounds + 1) / 2
    assert errors[0] < errors[1] < fresh


def test_clients_noise_is_their_own() -> None:
    mechanism = LocalPrivacy(KEY, 1.5, 2, 10)
    like = torch.zeros(100_000)
    a, b = (mechanism.own_noise(like, client, 0) for client in (1, 2))
    assert abs(float(a.std()) / 3 - 1) < 0.02
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.02
    assert (mechanism.noise(like, 0) == 0).all()


# ---- the key's file -------------------------------------------------------------------------------------------------


def test_the_key_is_made_once_and_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "noise.key"
    made = key_file(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert key_file(path).fingerprint == made.fingerprint != key_file(tmp_path / "another").fingerprint
    assert path.read_text().strip() not in (made.fingerprint, "")


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "noise.key"
    key_file(path)
    os.chmod(path, 0o644)
    with pytest.raises(InputError, match="chmod 600"):
        key_file(path)


@pytest.mark.parametrize("text", ["", "zz", "00" * 31])
def test_what_is_no_key_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "noise.key"
    path.write_text(text)
    os.chmod(path, 0o600)
    with pytest.raises(InputError, match="key"):
        key_file(path)
