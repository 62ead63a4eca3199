"""Big-number references for what samplers draw, by other formulas than the library's."""

import math

import mpmath


def skellam_log_ratio(k: int, variance: float) -> mpmath.mpf:
    """log I_k(μ)/I_0(μ): by the power series for small μ, by Hankel's expansion in 1/μ for large ones."""
    with mpmath.workdps(250):
        mu = mpmath.mpf(variance)
        if variance < 1e4:
            return mpmath.log(mpmath.besseli(k, mu, maxterms=10**6) / mpmath.besseli(0, mu, maxterms=10**6))
        return mpmath.log(_hankel(k, mu) / _hankel(0, mu))


def _hankel(k: int, mu: mpmath.mpf) -> mpmath.mpf:
    """e^−μ·I_k(μ)·√(2πμ) = Σ_n (−1)^n·Π_{j ≤ n} (4k² − (2j − 1)²) / (n!·(8μ)^n)."""
    term = total = mpmath.mpf(1)
    for n in range(1, 4000):
        term *= -(4 * mpmath.mpf(k) ** 2 - (2 * n - 1) ** 2) / (8 * mu * n)
        total += term
        if abs(term) < mpmath.mpf(10) ** -200 * abs(total):
            return total
    raise ValueError(f"the expansion does not settle at k={k}, μ={mu}")


def skellam_below(edge: int, variance: float) -> float:
    """P(X < edge), from the probabilities for few values, else by the normal law with its fourth cumulant (whose error
    is of the order 1/μ²)."""
    if variance < 300:
        with mpmath.workdps(40):
            at = [mpmath.besseli(k, mpmath.mpf(variance)) for k in range(math.ceil(14 * variance**0.5) + 60)]
            inner = mpmath.fsum(at[abs(k)] for k in range(-len(at) + 1, edge) if abs(k) < len(at))
            return float(inner / mpmath.exp(variance))
    x = mpmath.mpf(edge - 0.5) / mpmath.sqrt(variance)
    # Edgeworth: κ4/σ⁴ = 1/μ, and Sheppard's correction of a grid of step 1, that adds 1/12 to the variance.
    x *= 1 / mpmath.sqrt(1 + mpmath.mpf(1) / (12 * variance))
    return float(mpmath.ncdf(x) - mpmath.npdf(x) * (x**3 - 3 * x) / (24 * variance))


def normal_below(edge: float) -> float:
    """Φ to 40 digits."""
    with mpmath.workdps(40):
        return float(mpmath.ncdf(mpmath.mpf(edge)))
