"""ε within another accountant's bounds in 200 settings; 10,000 hostile clients within the clip (about 10 minutes)"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> int:
    said = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "slow", "tests/privacy/differential"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    print(said.stdout)
    good = said.returncode == 0
    print(f"200 of 200 settings within bounds, 10,000 of 10,000 sums within the clip: {'holds' if good else 'FAILED'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
