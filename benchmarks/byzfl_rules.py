"""Our robust rules beside ByzFL's of the same name on random messages in single precision: equal to 1e-5.

Needs `byzfl` 0.0.11 (pip install byzfl --no-deps, in an environment of your own, for it pins others): this file reads
its rules' modules alone, without what its package imports. `--byzfl PATH` names the folder `byzfl` if it is not
installed. ByzFL has no Bulyan and no norm bounding by the median; those have slow twins in tests/oracles.
"""

import importlib
import importlib.util
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from figures import Figure, arguments, report
from torch import Tensor

from seedbed.aggregation import make_rule

SIZES = ((11, 3, 50), (20, 5, 1000), (25, 5, 333))  # messages, hostile ones, numbers of a message
MOST_APART = 1e-5


def byzfl(where: Path | None) -> Any:
    """(rules, steps before them) of ByzFL, or exit with 2."""
    if where is None:
        found = importlib.util.find_spec("byzfl")
        where = Path(found.origin).parent if found and found.origin else None
    if where is None or not (where / "aggregators").is_dir():
        print("byzfl is missing: pip install byzfl==0.0.11 --no-deps, or name its folder with --byzfl PATH")
        sys.exit(2)
    for name in ("byzfl", "byzfl.utils", "byzfl.aggregators"):  # the packages without what they import
        package = types.ModuleType(name)
        package.__path__ = [str(where.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = package
    return importlib.import_module("byzfl.aggregators.aggregators"), importlib.import_module(
        "byzfl.aggregators.preaggregators"
    )


def pairs(rules: Any, steps: Any, n: int, f: int) -> dict[str, tuple[Callable[[Tensor], Tensor], Any]]:
    """Ours and theirs, by name, with settings that mean the same."""

    def ours(name: str, **settings: Any) -> Callable[[Tensor], Tensor]:
        return lambda x: make_rule(name, **settings)({"x": x}, torch.ones(n))["x"]

    def after_mixing(rule: Any) -> Callable[[Tensor], Tensor]:
        return lambda x: rule(steps.NNM(f)(x))

    others = n - f - 1  # ByzFL's Krum scores by so many neighbours
    return {
        "median": (ours("median"), rules.Median()),
        "trimmed_mean": (ours("trimmed_mean", f=f), rules.TrMean(f)),
        "geometric_median": (ours("geometric_median", iterations=300), rules.GeometricMedian(nu=1e-6, T=300)),
        "krum": (ours("krum", f=f, neighbours=others), rules.Krum(f)),
        "multi_krum": (ours("multi_krum", f=f, neighbours=others), rules.MultiKrum(f)),
        "centered_clipping": (
            ours("centered_clipping", tau=3.0, iterations=4, start="zero"),
            rules.CenteredClipping(L=4, tau=3.0),
        ),
        "norm_bounding": (ours("norm_bounding", bound=2.0), lambda x: steps.Clipping(2.0)(x.clone()).mean(0)),
        "nnm+trimmed_mean": (ours("nnm+trimmed_mean", f=f), after_mixing(rules.TrMean(f))),
        "nnm+median": (ours("nnm+median", f=f), after_mixing(rules.Median())),
        "nnm+krum": (ours("nnm+krum", f=f, neighbours=others), after_mixing(rules.Krum(f))),
        "nnm+geometric_median": (
            ours("nnm+geometric_median", f=f, iterations=300),
            after_mixing(rules.GeometricMedian(nu=1e-6, T=300)),
        ),
    }


def drawn(n: int, f: int, size: int, seed: int, scale: float) -> Tensor:
    """n messages, the last f of them `scale` times as long."""
    x = torch.randn(n, size, generator=torch.Generator().manual_seed(seed))
    x[n - f :] *= scale
    return x


def main() -> int:
    parser = arguments(__doc__ or "")
    parser.add_argument("--byzfl", type=Path, help="the folder of the package, if it is not installed")
    parser.add_argument("--draws", type=int, default=10, help="random messages of each size")
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    began, (rules, steps) = time.perf_counter(), byzfl(settings.byzfl)
    apart: dict[str, float] = {}
    for n, f, size in SIZES:
        for seed in range(settings.draws):
            x = drawn(n, f, size, seed, scale=(1.0, 10.0)[seed % 2])
            for name, (ours, theirs) in pairs(rules, steps, n, f).items():
                apart[name] = max(apart.get(name, 0.0), float((ours(x) - theirs(x)).abs().max()))
    rows = [Figure(name, value, at_most=MOST_APART) for name, value in apart.items()]
    title = f"largest difference to ByzFL over {len(SIZES) * settings.draws} sets of messages"
    return report(title, rows, settings=settings, began=began)


if __name__ == "__main__":
    sys.exit(main())
