"""A run killed at every operation on the disk in turn, and resumed, ends bit for bit like one never stopped (8 minutes)

Opening, writing (half of the bytes), flushing, moving, removing, cutting: the k-th of them, for every k; then the k-th
of the resume after a kill in the middle; then of an algorithm whose clients keep something on disk; then a disk that is
full from the k-th operation on. At last a mutant that does not rewrite metrics.jsonl when it resumes: unless it is
caught, these kills show nothing.
"""

import os
import subprocess
import sys
from pathlib import Path

EVERYWHERE = Path(__file__).parents[1] / "tests" / "faults" / "everywhere.py"


def killed(*words: str) -> tuple[int, str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    said = subprocess.run(
        [sys.executable, str(EVERYWHERE), "1", "1", *words], capture_output=True, text=True, env=environment
    )
    print(f"{' '.join(words) or 'once'}: {said.stdout.strip()}", flush=True)
    return said.returncode, said.stdout.strip().splitlines()[0] if said.stdout else said.stderr


def main() -> int:
    found = [killed(), killed("again"), killed("disk"), killed("full")]
    caught, _ = killed("forgets")
    print(f"{'; '.join(line for _, line in found)}; the mutant is {'caught' if caught else 'NOT CAUGHT'}")
    return 0 if caught and not any(status for status, _ in found) else 1


if __name__ == "__main__":
    sys.exit(main())
