"""The costs on docs/algorithms.md are the bytes of real messages, of every algorithm on every schedule that it has."""

from typing import Any

import pytest

from seedbed import tree
from seedbed.algorithms.catalogue import CATALOGUE
from seedbed.deployment.peers.messages import mixed_part
from seedbed.experiments.launch import plan_run
from seedbed.experiments.scheduling import schedule_for
from seedbed.federated import EngineWrapper

from .loading import ROOT, loaded

ALL = [(name, schedule) for name, entry in CATALOGUE.items() for schedule in entry.rounds]
QUICK = (("fedadam", "gossip"), ("meta_sgd", "gossip"), ("fd", "asynchronous"), ("fedgkt", "synchronous"))


class Counting(EngineWrapper):
    """Counts what client 0 is sent and sends."""

    def ask(self, algorithm: Any, sent: Any, round: int) -> Any:
        for group in self.engine.ask(algorithm, sent, round):
            if 0 in group.clients:
                message = tree.index(group.messages, list(group.clients).index(0))
                self.down, self.up = tree.nbytes(sent[0]), tree.nbytes(message.value)
            yield group


def cells(name: str) -> dict[str, str]:
    """A row of the table of costs, by its titles."""
    lines = (ROOT / "docs" / "algorithms.md").read_text().splitlines()
    titles = next(line for line in lines if line.startswith("| algorithm | clients work on"))
    row = next(line for line in lines if line.startswith(f"| `{name}` | ") and "oracles/" in line)
    return dict(zip(titles.split(" | "), row.split(" | "), strict=True))


def told(cell: str) -> int:
    """The bytes in a cell."""
    return int(cell.rpartition("(")[2].split(" B")[0].replace(",", ""))


@pytest.mark.parametrize(
    ("name", "schedule"), [pytest.param(*c, marks=() if c in QUICK else pytest.mark.slow) for c in ALL]
)
def test_the_page_tells_the_bytes_of_real_messages(name: str, schedule: str) -> None:
    """One round of all clients, as the command line makes it."""
    page = loaded(ROOT / "docs" / "generate_algorithms.py")
    settings = [*page.MODEL, "cohort=12", f"schedule.name={schedule}"]
    experiment = plan_run({"algorithm": name, "data": "digits"}, settings, None, specific=False)
    learner, entry = experiment.learner, CATALOGUE[name]
    model = learner.model(entry)
    if entry.takes("teacher"):
        learner.teacher = learner.initial_teacher(entry)
    algorithm = learner.algorithm(name, model)
    source = experiment.source(name, experiment.train, experiment.settings.options)
    engine = Counting(experiment.engine(source, model))
    clients = len(source.clients)
    settled = experiment.settings.model_copy(update={"cohort": clients})
    run = schedule_for(settled, settled.schedule, clients)
    round = next(run(algorithm, engine, algorithm.init(model.params), 0, None))
    row = cells(name)
    assert engine.down == told(row["down"])
    if "an example" in row["up"]:
        batch = source.tasks([0], 0).items
        assert engine.up == pytest.approx(told(row["up"]) * batch.mask[0].numel(), rel=0.01)
    else:
        assert engine.up == told(row["up"])
    if schedule == "gossip":
        assert tree.nbytes(mixed_part(round.state)) == told(row["link"])
