"""200 seeds of a transport that drops, doubles, delays, reorders, cuts and flips, each p = 0.2 (about 3 minutes)"""

import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from federation.storms import weathered

SEEDS = 200
MEMORY = Path("/dev/shm")


def main(seeds: int = SEEDS) -> int:
    equal = corrupt = doubled = whole = 0
    happened: Counter[str] = Counter()
    for seed in range(seeds):
        left_behind = {"quorum": 2, "deadline": 25.0} if seed % 2 else {"quorum": None}
        name = ("fedavg", "scaffold")[seed // 2 % 2]
        with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
            storm = weathered(name, Path(folder), seed, rounds=2, **left_behind)
        equal, whole = equal + storm.equal, whole + storm.whole
        corrupt, doubled = corrupt + storm.corrupt, doubled + storm.doubled
        happened += Counter(storm.happened)
    print(", ".join(f"{count} times {fault}" for fault, count in happened.items()))
    print(f"{whole} of {seeds} with all clients in every round, {seeds - whole} with those whom the deadline left")
    print(f"{equal} of {seeds} models are those of the same clients without faults; {corrupt} corrupt letters "
          f"accepted, {doubled} counted twice")  # fmt: skip
    return 0 if (equal, corrupt, doubled) == (seeds, 0, 0) else 1


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
