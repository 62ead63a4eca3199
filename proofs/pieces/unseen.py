"""What the proofs on unseen clients share: run the command, read its result, hold it to figures."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path


def judged(arguments: Sequence[str], *, least: Mapping[str, float], rivals: bool = True) -> int:
    """Run `seedbed run` with these arguments; 0 if `adapted` reaches `least` for each number of shots.

    Args:
        least: the least accuracy, by number of shots.
        rivals: it must also be above FedAvg + fine-tuning and local only.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        subprocess.run([sys.executable, "-m", "seedbed", "run", *arguments, "--out", str(out)], check=True)
        table = json.loads((out / "result.json").read_text())["unseen"]
    good, words = True, []
    for shots, floor in least.items():
        means = {column: cell["mean"] for column, cell in table[shots].items()}
        others = [means[column] for column in ("fedavg_finetuned", "local")] if rivals else []
        good &= means["adapted"] >= floor and all(means["adapted"] > other for other in others)
        beside = f" (FedAvg + fine-tuning {others[0]:.1%}, local only {others[1]:.1%})" if rivals else ""
        words.append(f"{shots} shots: {means['adapted']:.1%}{beside}")
    print("; ".join(words) + ("" if good else ": FALLS SHORT"))
    return 0 if good else 1
