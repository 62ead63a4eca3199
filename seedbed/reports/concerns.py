"""Concerns that a verdict states first: useless models, diverging clients, and clients that adapting harms."""

from collections.abc import Mapping, Sequence
from typing import Any

from seedbed.evaluation import summarise
from seedbed.experiments.table_scores import WORST
from seedbed.reports.page import shots_of

MAX_NAMED_CLIENTS = 5  # clients named in a line
Record = Mapping[str, Any]


def failures(result: Record) -> list[str]:
    """Why the adapted model is useless: its loss is not finite, or above the trivial predictor's beyond the interval.
    Empty if it is not useless."""
    lines = []
    for row, cells in _rows(result).items():
        if any(score >= WORST for score in cells["adapted"]["scores"]):
            lines.append(f"With {shots_of([row])} the adapted model of some clients is not finite.")
        elif _over_trivial(cells)[0] > 0:
            lines.append(f"With {shots_of([row])} adapting is WORSE than the trivial predictor, beyond the interval.")
    return lines


def concerns(result: Record) -> list[str]:
    """Other concerns: clients that diverge or that adapting harms, and a loss near the trivial predictor's."""
    lines = []
    for row, cells in _rows(result).items():
        adapted, shots = cells["adapted"], shots_of([row])
        if adapted.get("diverged"):
            many = len(adapted["diverged"])
            lines.append(
                f"With {shots} {many} client{'s' * (many > 1)} of {adapted['clients']} diverge{'s' * (many == 1)}, to "
                f"more than ten times the trivial predictor's loss: {_list_names(adapted['diverged'])}."
            )
        hurt = (adapted.get("harm") or {}).get("clients")
        if hurt:
            low, high = adapted["harm"]["interval"]
            lines.append(
                f"With {shots} adapting harms {len(hurt)} of {adapted['harm']['tested']} clients (95 % interval "
                f"{low:.1%} to {high:.1%}; 2.5 % expected by chance): {_list_names(hurt)}."
            )
        low, high = _over_trivial(cells)
        if adapted["clients"] == 1 and adapted["mean"] > cells["trivial"]["mean"]:
            lines.append(f"With {shots} the adapted loss of the one unseen client is above the trivial predictor's.")
        elif adapted["clients"] > 1 and low <= 0 <= high:
            lines.append(f"With {shots} the adapted loss cannot be distinguished from the trivial predictor's.")
    base = (result.get("choice") or {}).get("base") or {}
    return lines + ([base["warning"]] if base.get("warning") else [])


def _rows(result: Record) -> Record:
    return {row: cells for row, cells in result["unseen"].items() if {"adapted", "trivial"} <= cells.keys()}


def _over_trivial(cells: Record) -> tuple[float, float]:
    """The 95 % interval of adapted minus trivial, client by client; infinite for one client."""
    pairs = zip(cells["adapted"]["scores"], cells["trivial"]["scores"], strict=True)
    summary = summarise([a - b for a, b in pairs], higher_is_better=False)
    half = summary.ci95 if summary.clients > 1 else float("inf")
    return summary.mean - half, summary.mean + half


def _list_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMED_CLIENTS} more" if len(names) > MAX_NAMED_CLIENTS else ""
    return ", ".join(names[:MAX_NAMED_CLIENTS]) + more
