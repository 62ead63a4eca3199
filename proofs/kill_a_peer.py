"""One of four peers killed at 15 random instants, and at 15 more started again; 60 storms (about 9 minutes)"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

KILLING = Path(__file__).parents[1] / "tests" / "peers" / "killing.py"


def runs(kind: str, count: int) -> list[dict[str, Any]]:
    said = subprocess.run([sys.executable, str(KILLING), kind, str(count)], stdout=subprocess.PIPE, text=True)
    return [json.loads(line) for line in said.stdout.splitlines()]


def main(kills: int = 15, storms: int = 60) -> int:
    killed, again, found, careless = (
        runs(kind, count)
        for kind, count in (("killed", kills), ("again", kills), ("storm", storms), ("careless", storms // 5))
    )
    alone = [r for r in killed if len(r["ended"]) == 3 and r["error"] < 1e-12 and r["worst"] <= r["lambda2"] + 1e-6]
    back = [r for r in again if len(r["ended"]) == 4 and (r["made_up"] or r["error"] < 1e-12)]
    kept = [s for s in found if s["kept"] < 1e-12 and s["even"]]
    print(
        f"a peer killed: the other three finish as simulated and agree by λ₂ in {len(alone)} of {kills} runs (by a "
        f"factor of {max(r['shrinks'] for r in killed):.6f} a round, λ₂ = {killed[0]['lambda2']:.6f})"
    )
    print(
        f"started again: all four finish as simulated in {len(back)} of {kills} runs, after "
        f"{min(r['missed'] for r in again)} to {max(r['missed'] for r in again)} rounds missed"
    )
    print(
        f"by counting what comes instead, {sum(s['kept'] > 1e-6 for s in careless)} of {len(careless)} storms move the "
        f"sum over peers, by up to {max(s['kept'] for s in careless):.2g}"
    )
    print(
        f"{len(kept)} of {storms} storms keep the sum to 1e-12: {sum(s['kills'] for s in found)} kills, "
        f"{sum(s['lost'] for s in found)} exchanges lost, {sum(s['made_up'] for s in found)} made up for"
    )
    return 0 if (len(alone), len(back), len(kept)) == (kills, kills, storms) else 1


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
