"""A run from Python: what `seedbed run` does, on data in a file or in memory.

run = seedbed.run(frame, client="hospital", target="outcome")
own = run.adapt(rows_of_one_hospital)
own.predict(new_rows)
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seedbed.data.population import Population
from seedbed.data.readers.alike import one_client
from seedbed.data.readers.extras import require
from seedbed.data.readers.frames import Named, frame_columns, name_of, read_memory
from seedbed.data.readers.new_rows import OwnScales, rows_of_table
from seedbed.data.readers.table import columns_like
from seedbed.errors import InputError
from seedbed.experiments.adapt import Grower, start_model, start_of_run
from seedbed.experiments.config import settings_from, table_from
from seedbed.experiments.launch import MEMORY, begin_run, plan_run, resume_run
from seedbed.experiments.personal_model import PersonalModel, build_personal, personal_bytes
from seedbed.experiments.predict import predicted_columns
from seedbed.experiments.run_directory import RunDirectory
from seedbed.experiments.stages import Show
from seedbed.reports.run_report import write_run_report
from seedbed.serialization import write_atomically


class WithReport(Show):
    """Silent; a finished run gets its report, as on the command line."""

    def finished(self, run: RunDirectory) -> None:
        write_run_report(run)


@dataclass(frozen=True)
class ClientModel:
    """A model that predicts rows of a table: a client's own, or the start."""

    model: PersonalModel

    def predict(self, rows: Any) -> Any:
        """Predictions of a data frame's rows, as a pandas frame: see `seedbed predict`."""
        new = rows_of_table(frame_columns(rows), self.model.encoding)
        return require("pandas", "predicting").DataFrame(predicted_columns(self.model, new.x))

    def save(self, path: str | Path) -> None:
        """Write it as `seedbed adapt` does."""
        write_atomically(Path(path), personal_bytes(self.model.params, self.model.metadata))


@dataclass(frozen=True, repr=False)
class FinishedRun:
    """A run that is done.

    Attributes:
        path: its directory, as of the command line.
        result: what result.json holds.
    """

    path: Path
    result: Mapping[str, Any]

    def __repr__(self) -> str:
        rows = (f"{row}: {cells['adapted']['mean']:.4g}" for row, cells in self.result["unseen"].items())
        return f"FinishedRun({self.path}, {self.result['algorithm']}, {self.result['metric']} {', '.join(rows)})"

    @property
    def start(self) -> ClientModel:
        """The start as it is."""
        return ClientModel(start_model(self.path))

    def adapt(self, rows: Any, *, client: str | None = None, steps: int | None = None) -> ClientModel:
        """A client's own model from its labelled rows of a table.

        Args:
            client: whose rows, where there are several clients'.
            steps: adaptation steps; None: the algorithm's own.
        """
        start = start_of_run(self.path)
        if start.encoding.get("format") != "table":
            raise InputError("the run was trained on no table: use `seedbed adapt` with a file of its kind")
        raw = frame_columns(rows)
        x, target = columns_like(raw, start.encoding, client)
        examples = one_client(x, target, start.encoding, client or "rows", str(raw.path))
        own = OwnScales(raw, start.encoding).of(client)
        return ClientModel(build_personal(*Grower(start, steps).grow(examples, client or "", own)))


def run(
    data: Any = None,
    *,
    client: Named = None,
    target: Named = None,
    out: str | Path | None = None,
    config: str | Path | None = None,
    settings: Iterable[str] = (),
    show: Show | None = None,
    **asked: Any,
) -> FinishedRun:
    """Train, adapt to clients never seen, and judge it: `seedbed run` from Python.

    Args:
        data: a path or a set's name, as `--data`; or a data frame (pandas, polars, pyarrow, ...), {column: values}, an
            array, a dataset of torch, a `Population`.
        client: the column that says whose row it is; of data in memory also each row's client.
        target: the column to predict; of data in memory also the values.
        out: the run's directory; None: runs/DATA-ALGORITHM-SEED.
        config: a TOML file or a manifest.json of settings.
        settings: words key=value, as `--set`.
        show: what is told while it works; None: nothing.
        asked: settings by name: algorithm="fedavg", rounds=100, evaluation={"shots": (5,)}, ...
    Raises:
        InputError: before anything is written, whatever the command line would refuse.
    """
    words, place = list(settings), None if config is None else Path(config)
    if data is None or isinstance(data, str | Path):
        if any(not isinstance(name, str | None) for name in (client, target)):
            raise InputError("of data in a file client= and target= are names of columns")
        asked = _with_data(asked, None if data is None else str(data), {"client": client, "target": target})
        experiment = plan_run(asked, words, place)
    else:
        asked = _with_data(asked, MEMORY + name_of(data), {})
        population = _population(data, client, target, table_from(asked, assignments=words).get("reader", {}))
        experiment = plan_run(asked, words, place, population=population)
    path, result = begin_run(experiment, None if out is None else Path(out), show or WithReport())
    return FinishedRun(path, result)


def resume(
    path: str | Path, data: Any = None, *, client: Named = None, target: Named = None, show: Show | None = None
) -> FinishedRun:
    """Resume a stopped run, or read a finished one: `seedbed resume` from Python.

    Args:
        data: what the run was started on, where that lay in memory; with its client and target.
    """
    population = None
    if data is not None:
        settings = settings_from(RunDirectory.open(Path(path)).manifest["settings"])
        population = _population(data, client, target, settings.reader)
    return FinishedRun(Path(path), resume_run(Path(path), show or WithReport(), population))


def _population(data: Any, client: Named, target: Named, reader: Mapping[str, Any]) -> Population:
    named = {"client": client, "target": target}
    return read_memory(data, **{**reader, **{key: value for key, value in named.items() if value is not None}})


def _with_data(asked: Mapping[str, Any], data: str | None, reader: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with the data's name and how it is read."""
    given = {key: value for key, value in reader.items() if value is not None}
    merged = {**asked, "reader": {**asked.get("reader", {}), **given}}
    return merged if data is None else {**merged, "data": data}
