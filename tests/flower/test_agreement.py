"""From the agreement's file alone, each member's own file and nothing else: the simulation that has all of them."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import seedbed as sb
from seedbed.data import readers
from seedbed.deployment.adapt import start_of
from seedbed.deployment.agreement import Agreement
from seedbed.deployment.federation.transport import InProcess
from seedbed.deployment.server_folder import open_node, open_server
from seedbed.errors import InputError
from seedbed.experiments.adapt import adapt_client, load_personal
from seedbed.tree import Tree

from ..federation.bench import same
from .hospitals import NAMES, federation


def simulated(folder: Path, agreement: Agreement, rounds: int) -> tuple[sb.ServerState, dict[int, Tree]]:
    """By the ordinary reader on all rows in one table, and the ordinary rounds."""
    whole = pd.concat([pd.read_csv(folder / f"{name}.csv").assign(hospital=name) for name in NAMES])
    whole.to_csv(folder / "all.csv", index=False)
    population = readers.read(str(folder / "all.csv"), target="ill", client="hospital", standardise="own")
    assert population.names == NAMES
    train, _ = population.hold_out(agreement.settings.hold_out, seed=agreement.settings.seed)
    algorithm = replace(agreement.algorithm, reduce=agreement.terms.reduce(agreement.algorithm))
    engine = sb.OneByOne(sb.Sampled(train, agreement.sampler, seed=agreement.settings.seed))
    schedule = sb.synchronous(algorithm, engine, algorithm.init(agreement.model.params), seed=agreement.settings.seed)
    last = [next(schedule) for _ in range(rounds)][-1]
    return last.state, dict(engine.memory())


@pytest.mark.parametrize("algorithm", ["fedavg", "per_fedavg", "scaffold", "fedper"])
def test_a_federation_of_files_is_the_simulation_of_the_table_of_all(algorithm: str, tmp_path: Path) -> None:
    """Bit for bit: the model, and what each member keeps; though no member sees another's numbers."""
    model = {"name": "mlp", "hidden": [8]}
    directory, files, agreement = federation(tmp_path, algorithm=algorithm, model=model)
    nodes = {i: open_node(directory / "nodes" / name, files[name]) for i, name in enumerate(NAMES)}
    server = open_server(directory, InProcess(nodes))
    last = list(server.rounds())[-1]
    server.close()
    state, memory = simulated(tmp_path, agreement, 3)
    assert same(last.state, state)
    for i, node in nodes.items():
        assert (node.memory.kept is None) == (i not in memory)
        assert node.memory.kept is None or same(node.memory.kept, memory[i])


def test_a_member_adapts_from_what_it_was_sent_and_what_it_kept(tmp_path: Path) -> None:
    """FedPer without further steps: the shared layers are the server's, the head is the member's own."""
    model = {"name": "mlp", "hidden": [8]}
    directory, files, _ = federation(tmp_path, algorithm="fedper", model=model, options={"test_steps": 0})
    nodes = {i: open_node(directory / "nodes" / name, files[name]) for i, name in enumerate(NAMES)}
    with pytest.raises(InputError, match="no model yet"):
        adapt_client(start_of(directory / "nodes" / "basel"), files["basel"], tmp_path / "too-early")
    server = open_server(directory, InProcess(nodes))
    last = list(server.rounds())[-1]
    server.close()
    heads = []
    for name in ("basel", "bern"):
        made = adapt_client(
            start_of(directory / "nodes" / name), files[name], tmp_path / f"{name}.st", query=files[name]
        )
        assert made.scores["the query set"] > 0.5
        own = load_personal(made.out).params
        assert all(same(own[n], p) for n, p in last.state.params.items() if not n.startswith("head"))
        heads.append(own["head.weight"])
    assert not same(*heads)


def test_what_is_agreed_on_is_read_back_the_same(tmp_path: Path) -> None:
    directory, _, made = federation(tmp_path)
    for folder in ("server", *(f"nodes/{name}" for name in NAMES)):
        assert Agreement.read(directory / folder).plan.fingerprint == made.plan.fingerprint
    other = replace(made, settings=made.settings.model_copy(update={"seed": 1}))
    assert other.plan.fingerprint != made.plan.fingerprint
    terms = made.settings.federation.model_copy(update={"deadline": 1.0})
    same_plan = replace(made, settings=made.settings.model_copy(update={"federation": terms}))
    assert same_plan.plan.fingerprint == made.plan.fingerprint  # how rounds are held is for the server to say


def test_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    directory, files, agreement = federation(tmp_path)
    table = pd.read_csv(files["basel"])
    for change, why in (
        (table.drop(columns="age"), "no column 'age'"),
        (table.assign(ill="maybe"), "maybe"),
        (table.iloc[:0], "basel.csv"),
    ):
        change.to_csv(files["basel"], index=False)
        with pytest.raises(InputError, match=why):
            agreement.own("basel", files["basel"])
    with pytest.raises(InputError, match="'zug' is not a member"):
        agreement.own("zug", files["bern"])
    (directory / "server" / "agreement.json").write_text("{}")
    with pytest.raises(InputError, match=r"agreement\.json is damaged"):
        Agreement.read(directory / "server")
    with pytest.raises(InputError, match=r"has no agreement\.json"):
        Agreement.read(tmp_path)


def test_an_agreement_from_before_caps_keeps_its_meaning(tmp_path: Path) -> None:
    """Its plan's fingerprint and its terms are those of the version that wrote it: a run under way goes on.

    Settings that came later are not part of it, nor of the copy that a later member gets.
    """
    old = Agreement.read(Path(__file__).parent / "golden")
    assert old.cap is None
    assert old.plan.fingerprint.hex() == "5b881ff60731844ae6de6ecc504e71c4839175dc572a464973c6b81512f946de"
    old.write(tmp_path)
    assert Agreement.read(tmp_path).plan.fingerprint == old.plan.fingerprint
    assert old.terms.enough() == 3
    assert old.terms.binding == {
        "clients": [0, 1, 2], "seed": 0, "cohort": "3", "over": "1.0", "quorum": "None", "explosion": "100.0",
        "gate": "Gate(norm=None, norm_cap=None, weight_cap=None)",
        "grid": "Grid(clip=64.0, bits=44, clients=4096, cap=None)",
    }  # fmt: skip


def test_a_new_agreement_fixes_the_cap(tmp_path: Path) -> None:
    directory, _, made = federation(tmp_path)
    assert json.loads((directory / "server" / "agreement.json").read_text())["cap"] == made.cap == 1
    assert made.terms.enough() == 2
    (tmp_path / "other").mkdir()
    assert federation(tmp_path / "other", federation={"cap": 500})[2].cap == 500
