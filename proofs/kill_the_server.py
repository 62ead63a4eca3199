"""A federation's server killed at 50 random instants, nodes at 20: bit for bit as if never stopped (about 4 minutes)"""

import json
import subprocess
import sys
from pathlib import Path

KILLING = Path(__file__).parents[1] / "tests" / "federation" / "killing.py"


def main() -> int:
    bad = 0
    for what, kills, each in (("server", 50, 5), ("node", 20, 5)):
        said = subprocess.run(
            [sys.executable, str(KILLING), what, str(kills), "1", str(each)], stdout=subprocess.PIPE, text=True
        )
        bad += said.returncode != 0
        found = json.loads(said.stdout or '{"kills": 0, "same": 0}')
        print(f"{what}: {found['same']} of {found['kills']} kills left model, metrics and memories as they would be")
    return bad


if __name__ == "__main__":
    sys.exit(main())
