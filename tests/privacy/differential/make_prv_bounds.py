"""Writes prv_bounds.json: lower bounds, estimates and upper bounds of ε by another accountant, for 200 random settings.

Gopi, Lee and Wutschitz, "Numerical composition of differential privacy", NeurIPS 2021: Microsoft's prv-accountant,
which nothing else here needs. In an environment of its own:

python -m venv prv && prv/bin/pip install prv-accountant==0.2.0
prv/bin/python tests/privacy/differential/make_prv_bounds.py
"""

import json
from pathlib import Path

import numpy as np

COUNT = 200


def main() -> None:
    from prv_accountant import GaussianMechanism, PoissonSubsampledGaussianMechanism, PRVAccountant

    rng, rows = np.random.default_rng(7), []
    while len(rows) < COUNT:
        q = 1.0 if rng.random() < 0.1 else float(f"{10 ** rng.uniform(-3, -0.3):.3g}")
        z = float(f"{10 ** rng.uniform(-0.2, 1):.3g}")
        times = int(10 ** rng.uniform(0.7, 3.5))
        delta = float(rng.choice([1e-5, 1e-6, 1e-3]))
        if not 0.02 < q * times**0.5 / z < 6:
            continue  # ε from about 0.1 to about 40
        mechanism = GaussianMechanism(z) if q == 1 else PoissonSubsampledGaussianMechanism(q, z)
        try:
            accountant = PRVAccountant(mechanism, eps_error=0.01, delta_error=delta / 1000, max_self_compositions=times)
            bounds = [float(b) for b in accountant.compute_epsilon(delta, [times])]
        except RuntimeError as error:  # "Discrete mean differs from continuous mean significantly": it gives up
            print(q, z, times, delta, error)
            continue
        rows.append({"q": q, "z": z, "times": times, "delta": delta, "bounds": bounds})
        print(len(rows), rows[-1], flush=True)
    lines = ",\n".join(json.dumps(row) for row in rows)
    Path(__file__).with_name("prv_bounds.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
