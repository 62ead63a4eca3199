"""A workload's table, for the terminal and for a page."""

import statistics
from pathlib import Path

from entrants import AIMS, COST, COSTS, ENTRANTS, FIRST, LETTERS, LIMITS, LOOP, OURS
from figures import Figure
from race import Race

from seedbed.bench.workloads import WORKLOADS
from seedbed.errors import InputError

MARK = "<!-- peers {}: begin -->\n{}\n<!-- peers {}: end -->"


def heads(found: Race) -> tuple[str, ...]:
    unit = "tasks/s" if WORKLOADS[LETTERS[found.workload]].meta else "steps/s"
    ours = f"{best_of_ours(found) or 'Seedbed'} is faster, times"
    return ("", "cores", unit, "× plain loop", ours, "% of one core's limit", "MB", "first round, s", "apart")


def rows(found: Race) -> list[tuple[str, ...]]:
    """Of the table, by `heads`."""
    best, made = best_of_ours(found), []
    for entrant in ENTRANTS:
        name = entrant.name
        if name not in found.seconds:
            continue
        low, middle, high = found.ratio(name, best) if best else (0, 0, 0)
        over = "1" if name == best else f"{middle:.3g} ({low:.3g}–{high:.3g})" if best else ""
        memory = found.memory.get(name)
        made.append(
            (
                name,
                str(entrant.cores),
                f"{found.rate(name):,.0f}" if found.rate(name) >= 100 else f"{found.rate(name):.3g}",
                f"{found.ratio(LOOP, name)[1]:.3g}" if LOOP in found.seconds else "",
                over,
                f"{found.percent(name, 1):.3g}",
                "" if memory is None else f"{memory:,.0f}",
                f"{found.first[name]:.1f}",
                f"{found.apart[name]:.0e}",
            )
        )
    return made


def best_of_ours(found: Race) -> str | None:
    """Our fastest with all features on."""
    ours = [name for name in found.seconds if name.startswith(OURS) and not name.endswith("bare")]
    return max(ours, key=found.rate, default=None)


def markdown(found: Race) -> str:
    """The table, who is left out, and when it was measured by what."""
    lines = [heads(found), tuple("---" for _ in heads(found)), *rows(found)]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    left = "".join(f"\n\nLeft out: {name}: {reason}." for name, reason in found.left.items())
    return f"\n{table}{left}\n\n{measured(found)}\n"


def measured(found: Race) -> str:
    """When, by what command, on what: short lines."""
    limit = statistics.median(found.gemm) / 1e9
    versions = dict.fromkeys(found.versions[name] for name in found.seconds if name in found.versions)
    text = f"Measured {found.when} by `{found.command}`: {found.machine}; one core's limit {limit:.0f} GFLOP/s."
    return _wrapped(f"{text} With {'; '.join(versions)}." if versions else text)


def figures(found: Race) -> list[Figure]:
    """The aims of this workload whose contestants took part."""
    letter, made = found.workload, []
    for aim in AIMS:
        if aim.workload == letter and {aim.ours, aim.rival} <= found.seconds.keys():
            low, middle, high = found.ratio(aim.rival, aim.ours)
            name = f"({letter}) {aim.ours} × {aim.rival}"
            made.append(Figure(name, middle, (high - low) / 2, at_least=aim.times))
    for workload, name, cores, percent in LIMITS:
        if workload == letter and name in found.seconds:
            what = f"({letter}) {name}, % of the limit of {cores} core(s)"
            made.append(Figure(what, found.percent(name, cores), at_least=percent))
    for workload, name in COSTS:
        if workload == letter and {name, f"{name}, bare"} <= found.seconds.keys():
            low, middle, high = found.ratio(name, f"{name}, bare")
            made.append(Figure(f"({letter}) {name}, time over bare's", middle, (high - low) / 2, at_most=COST))
    workload, name, seconds = FIRST
    if workload == letter and name in found.seconds:
        made.append(Figure(f"({letter}) {name}, first round after, s", found.first[name], at_most=seconds))
    return made


def place(page: Path, letter: str) -> tuple[str, str]:
    """What is on the page before and after this workload's table.

    Raises:
        InputError: the page has no place for it.
    """
    text = page.read_text()
    begin, _, end = MARK.format(letter, "\0", letter).partition("\0")
    if begin not in text or end not in text:
        lines = f"{begin.strip()} and {end.strip()}"
        raise InputError(f"{page} has no place for workload {letter}: put the lines {lines} where its table belongs")
    return text.partition(begin)[0] + begin, end + text.partition(end)[2]


def put(page: Path, found: Race) -> None:
    """Write the table between its marks in this page."""
    before, after = place(page, found.workload)
    page.write_text(before + markdown(found) + after)


def _wrapped(text: str, width: int = 120) -> str:
    """In lines that do not split what stands in backticks."""
    lines, line = [], ""
    for part in _parts(text):
        if line and len(line) + 1 + len(part) > width:
            lines.append(line)
            line = part
        else:
            line = f"{line} {part}".strip()
    return "\n".join([*lines, line])


def _parts(text: str) -> list[str]:
    """Words; what stands in backticks is one of them."""
    parts: list[str] = []
    for word in text.split(" "):
        if parts and parts[-1].count("`") % 2:
            parts[-1] += f" {word}"
        else:
            parts.append(word)
    return parts
