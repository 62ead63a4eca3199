"""ε against figures by other programs, an exact formula, and bounds on both sides. All 200 settings: scripts/prove."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from seedbed import InputError
from seedbed.experiments.config import Settings
from seedbed.experiments.privacy_plan import PrivacyPromise
from seedbed.privacy.differential import Gaussian, accountant, epsilon, noise_for
from seedbed.privacy.differential.accountant import gaussian_epsilon

# (q, z, T, δ) -> dp-accounting's PLD, and lower and upper bound of prv-accountant 0.2.0
TABLE = {
    (0.01, 1.0, 1000, 1e-5): (1.82824, 1.81811, 1.83837),
    (0.01, 1.0, 10000, 1e-5): (6.18774, 6.17739, 6.19804),
    (0.02, 0.8, 500, 1e-5): (4.66801, 4.65767, 4.67835),
    (0.1, 2.0, 100, 1e-5): (2.33740, 2.32725, 2.34756),
    (1.0, 4.0, 10, 1e-5): (3.34141, 3.33123, 3.35160),
    (0.001, 0.6, 1000, 1e-6): (2.10667, 2.09637, 2.11697),
    (0.05, 5.0, 200, 1e-6): (0.59799, 0.58796, 0.60803),
    (256 / 60000, 1.1, 14062, 1e-5): (2.38169, 2.37146, 2.39174),
}
CENTRAL_LIMIT = {(0.01, 1.0, 1000, 1e-5): 1.61771, (0.001, 0.6, 1000, 1e-6): 0.49443}  # by opacus 1.6.0: no bound

# Balle and Wang's equation solved for (z, T, δ), μ = √T/z, with no library.
EXACT = {
    (4.0, 10, 1e-5): 3.341409,
    (1.0, 1, 1e-5): 4.377178,
    (10.0, 100, 1e-6): 4.886554,
    (20.0, 1000, 1e-6): 8.306225,
    (1.0, 1000, 1e-5): 633.929851,
}
ROWS: list[dict[str, Any]] = json.loads(Path(__file__).with_name("prv_bounds.json").read_text())


def rdp(q: float, z: float, times: int, delta: float) -> float:
    """The looser bound by Rényi divergences, from dp-accounting."""
    import dp_accounting
    from dp_accounting.rdp import rdp_privacy_accountant

    accountant = rdp_privacy_accountant.RdpAccountant()
    event = dp_accounting.GaussianDpEvent(z)
    accountant.compose(event if q == 1 else dp_accounting.PoissonSampledDpEvent(q, event), times)
    return float(accountant.get_epsilon(delta))


def between(row: dict[str, Any]) -> None:
    q, z, times, delta = (row[k] for k in ("q", "z", "times", "delta"))
    got = epsilon({Gaussian(z, q): times}, delta)
    lower, estimate, upper = row["bounds"]
    assert lower <= got <= rdp(q, z, times, delta) + 1e-9, row
    assert got == pytest.approx(estimate, rel=2e-3, abs=2e-3), row
    assert got <= upper + 2e-3 * estimate, row


@pytest.mark.parametrize("setting", TABLE)
def test_the_table(setting: tuple[float, float, int, float]) -> None:
    q, z, times, delta = setting
    expected, lower, upper = TABLE[setting]
    got = epsilon({Gaussian(z, q): times}, delta)
    assert got == pytest.approx(expected, abs=2e-5)
    assert lower <= got <= upper


def test_the_settings_made_at_random_are_two_hundred() -> None:
    assert len(ROWS) == 200
    assert len({(r["q"], r["z"], r["times"], r["delta"]) for r in ROWS}) == 200


@pytest.mark.parametrize("row", ROWS[::20], ids=lambda r: f"{r['q']}-{r['z']}-{r['times']}")
def test_between_another_accountant_and_renyi(row: dict[str, Any]) -> None:
    """Within [the lower bound of prv-accountant, Rényi]: every twentieth of those in prv_bounds.json."""
    between(row)


@pytest.mark.slow
def test_between_another_accountant_and_renyi_always() -> None:
    for row in ROWS:
        between(row)


@pytest.mark.parametrize("setting", EXACT)
def test_the_exact_value_where_everybody_takes_part(setting: tuple[float, int, float]) -> None:
    z, times, delta = setting
    assert epsilon({Gaussian(z): times}, delta) == pytest.approx(EXACT[setting], abs=1e-4)
    assert gaussian_epsilon(math.sqrt(times) / z, delta) == pytest.approx(EXACT[setting], abs=1e-6)


def test_loss_distributions_tend_to_the_exact_value() -> None:
    """At a rate of all but one the library composes; at 1 the formula answers: they meet."""
    assert epsilon({Gaussian(4.0, 1 - 1e-9): 10}, 1e-5) == pytest.approx(3.341409, abs=1e-4)


def test_releases_of_several_kinds() -> None:
    """Gaussians compose to one of z⁻² = Σz_i⁻², also beside sampled ones."""
    both = epsilon({Gaussian(3.0): 1, Gaussian(4.0): 1, Gaussian(1.0, 0.01): 500}, 1e-5)
    one = epsilon({Gaussian(2.4): 1, Gaussian(1.0, 0.01): 500}, 1e-5)
    assert both == pytest.approx(one, rel=1e-6)
    assert epsilon({Gaussian(3.0): 1, Gaussian(4.0): 1}, 1e-5) == pytest.approx(gaussian_epsilon(1 / 2.4, 1e-5))


def test_nothing_costs_nothing() -> None:
    assert epsilon({}, 1e-5) == 0
    assert epsilon({Gaussian(1.0): 0}, 1e-5) == 0


@pytest.mark.parametrize(("target", "z"), [(1.0, 1.4146), (2.0, 0.9591), (4.0, 0.7348), (8.0, 0.5863)])
def test_noise_found_for_an_epsilon(target: float, z: float) -> None:
    """dp-accounting's own calibration gives z; back again it is ε to a thousandth, and never more."""
    found = noise_for(target, 1e-5, rate=0.01, times=1000)
    assert found == pytest.approx(z, rel=2e-4)
    back = epsilon({Gaussian(found, 0.01): 1000}, 1e-5)
    assert target * (1 - 1e-3) <= back <= target


@pytest.mark.parametrize("target", [0.01, 0.5, 3.0, 50.0])
def test_noise_found_where_everybody_takes_part(target: float) -> None:
    back = epsilon({Gaussian(noise_for(target, 1e-6, times=40)): 40}, 1e-6)
    assert target * (1 - 1e-3) <= back <= target


def test_the_central_limit_estimate_is_not_offered() -> None:
    """It lies under the truth, by four times in one row: a bound that is not one."""
    for (q, z, times, delta), estimate in CENTRAL_LIMIT.items():
        assert estimate < TABLE[q, z, times, delta][1] < epsilon({Gaussian(z, q): times}, delta)


@pytest.mark.parametrize(
    ("target", "delta", "said"),
    [(0.0, 1e-5, "epsilon=0.0"), (math.inf, 1e-5, "epsilon=inf"), (1.0, 0.0, "delta=0.0"), (1.0, 1.0, "delta=1.0")],
)
def test_budgets_that_cannot_be(target: float, delta: float, said: str) -> None:
    with pytest.raises(InputError, match=said):
        noise_for(target, delta, times=10)


def test_no_noise_is_little_enough() -> None:
    with pytest.raises(InputError, match="fewer rounds"):
        noise_for(1e-7, 1e-9, times=100_000)


def test_a_huge_budget_takes_no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above `WEAK` no privacy loss distribution is made, which takes longer the less noise there is. What is found
    keeps the budget by Rényi's bound or that of everybody's taking part, or is refused by the least noise."""

    def never() -> Any:
        raise AssertionError("a privacy loss distribution was made")

    monkeypatch.setattr(accountant, "_library", never)
    for target in (101.0, 1e3, 1e4):
        z = accountant.noise_for(target, 1e-5, rate=0.1, times=100)
        bounds = (accountant._renyi_epsilon([(Gaussian(z, 0.1), 100)], 1e-5), gaussian_epsilon(10 / z, 1e-5))
        assert min(bounds) <= target * (1 + 1e-6)
    for rate, huge in [(rate, huge) for rate in (0.1, 1.0) for huge in (1e9, 1e18, 1e300)]:
        with pytest.raises(InputError, match=r"outside 0\.02"):
            accountant.noise_for(huge, 1e-5, rate=rate, times=100)


@pytest.mark.parametrize(("z", "rate"), [(1.0, 0.1), (0.6, 0.01), (5.0, 0.5), (0.3, 0.9)])
def test_renyis_bound_is_above_the_exact_value_and_near_it(z: float, rate: float) -> None:
    spent = {accountant.Gaussian(z, rate): 20}
    exact = accountant.epsilon(spent, 1e-5)
    assert exact <= accountant._renyi_epsilon(list(spent.items()), 1e-5) <= 1.6 * exact + 0.3


@pytest.mark.parametrize("mu", [1e-300, 1e-17, 1e-9, 1e3])
def test_no_scale_of_a_gaussian_is_too_small_or_too_large(mu: float) -> None:
    found = accountant.gaussian_epsilon(mu, 1e-5)
    assert found == 0 if mu < 1e-8 else found > mu * mu / 2


def test_noise_that_leaves_nothing_is_refused_while_planning() -> None:
    """Instead of a model that is infinite after a round."""
    settings = Settings.model_validate({"rounds": 3, "cohort": 6, "privacy": {"epsilon": 1e-6}})
    with pytest.raises(InputError, match=r"epsilon=1e-06 asks for noise of 6\.\d+e\+04 clips .* over 6 clients"):
        PrivacyPromise.of(settings, 6)
