"""Writes docs/algorithms.md from the code: run it after adding an algorithm; a test holds the page to the code.

.venv/bin/python docs/generate_algorithms.py
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from seedbed.algorithms.catalogue import FAMILIES, Axes, CatalogueEntry
from seedbed.experiments.costs import Costs
from seedbed.experiments.launch import plan_run
from seedbed.experiments.run_plan import RunPlan

PAGE = Path(__file__).with_name("algorithms.md")
MODEL = ["model.name=mlp", "model.hidden=32"]  # what is sent and kept is measured on: 64-32-5, or 64-32-10 classes

INTRO = """# Algorithms

Made from the code by `docs/generate_algorithms.py`; do not edit this page. `seedbed algorithms` lists them,
`seedbed algorithms NAME` shows one with its settings; [settings](settings.md) has those of all.

**Measured** by running each algorithm's client once on a multilayer perceptron of one hidden layer and the set
`digits`, with the defaults:

- *down, up*: what a client is sent and sends in a round to and from a server, in sizes of the client's own model (its
  bytes; a model in float32 has four for each parameter), and in bytes. Where an upload grows with the client's
  examples, the bytes are for each example of its task.
- *link*: what a peer sends along each link in a round of gossip: its whole state but for whole numbers, the server's
  optimiser included, for that is what is mixed. – where the algorithm does not run on gossip.
- *kept*: what a client keeps for its next round; it never leaves the client.
- *passes*: how many examples pass forward through the model for each example of a task's items. The budget of
  `seedbed compare` is counted so: a method with two passes gets half as many items.

**Reducer**: how messages become one. Under a linear one they may be summed in parts, over machines, and under secure
aggregation.

**Oracle**: the test file in `tests/oracles` that holds the algorithm to a closed form. **Number**: where in the
[results](results.md) a published figure is reproduced.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([INTRO, *(section(*family) for family in families())])


def families() -> Iterator[tuple[str, Mapping[str, CatalogueEntry]]]:
    """Each family's title, from the docstring of its file, and its entries."""
    for family in FAMILIES:
        yield (family.__doc__ or "").strip().rstrip("."), family.ENTRIES


def section(title: str, entries: Mapping[str, CatalogueEntry]) -> str:
    """A family: what each computes, what it costs, where it stands."""
    return "\n".join(
        [
            f"## {title}\n",
            table(("algorithm", "equation", "paper"), (equation(n, e) for n, e in entries.items())),
            table(
                (
                    "algorithm",
                    "clients work on",
                    "down",
                    "up",
                    "link",
                    "kept",
                    "passes",
                    "rounds",
                    "reducer",
                    "oracle",
                    "number",
                ),
                (measured(n, e) for n, e in entries.items()),
            ),
            table(("algorithm", *Axes._fields), ((f"`{n}`", *e.axes) for n, e in entries.items())),
        ]
    )


def equation(name: str, entry: CatalogueEntry) -> tuple[str, ...]:
    return f"[`{name}`](settings.md#{name})", entry.equation, entry.paper


def measured(name: str, entry: CatalogueEntry) -> tuple[str, ...]:
    """What a run of the command line does with it."""
    experiment = plan_run({"algorithm": name, "data": "digits"}, MODEL, None, specific=False)
    learner, cost = experiment.learner, experiment.costs(name, experiment.settings.options)
    if entry.takes("teacher"):
        learner = learner.with_teacher(learner.initial_teacher(entry))
    reduce = learner.algorithm(name, learner.model(entry)).reduce
    # Only a server that needs each message can take messages of unlike sizes.
    short = cost if reduce.linear else experiment.costs(name, experiment.settings.options, items=1)
    return (
        f"`{name}`",
        entry.items.replace("_", " "),
        sized(cost.down, cost),
        sized(cost.up, cost) if short.up == cost.up else per_example(experiment, cost),
        sized(cost.link, cost) if "gossip" in entry.rounds else "–",
        f"{cost.kept:.2f}",
        f"{cost.passes:g}",
        ", ".join(entry.rounds),
        f"{reduce}{' (linear)' if reduce.linear else ''}",
        f"[{entry.oracle}](../tests/oracles/{entry.oracle})",
        "" if entry.number is None else f"[{entry.number}](results.md#{entry.number.lower().replace(' ', '-')})",
    )


def sized(size: float, cost: Costs) -> str:
    """In sizes of the model, and in bytes."""
    return f"{size:.2f} ({round(size * cost.model):,} B)"


def per_example(experiment: RunPlan, cost: Costs) -> str:
    """Of an upload that grows with the client's examples: bytes for each."""
    task = experiment.source(experiment.settings.algorithm, experiment.train, experiment.settings.options).tasks([0], 0)
    return f"{round(cost.up * cost.model / task.items.mask[0].numel()):,} B an example"


def table(titles: Iterable[str], rows: Iterable[tuple[str, ...]]) -> str:
    titles = list(titles)
    lines = [titles, ["---"] * len(titles), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
