"""The agreement of a real federation: one file, from which each member builds the same algorithm.

`agreement.json` contains the complete settings, the members' names, and the structure of their data: columns and
classes, never a row. From this file only, every member builds the same algorithm, the same start and the same message
structure (`Agreement.plan`). With its own data file it builds its own client's tasks (`Agreement.own`).
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from seedbed import tree
from seedbed.algorithms import catalogue
from seedbed.data import readers
from seedbed.data.population import Population
from seedbed.data.sampling import Sampled, Sampler
from seedbed.data.types import Task
from seedbed.deployment.federation.protocol import FederationProtocol, cap_weights
from seedbed.deployment.federation.round_policy import RoundPolicy
from seedbed.errors import InputError
from seedbed.experiments import byzantine
from seedbed.experiments.builder import AnyModel, Learner, Shape
from seedbed.experiments.compatibility import Command, Facts, case_of, check
from seedbed.experiments.compatibility_rows import ROWS
from seedbed.experiments.config import Settings, settings_from
from seedbed.experiments.presets import complete_settings
from seedbed.experiments.setting_names import with_new_names, with_old_names
from seedbed.federated import Algorithm, ClientId
from seedbed.limits import from_json
from seedbed.rounds.message_validation import MessageValidator
from seedbed.serialization import write_atomically

AGREEMENT_FILE = "agreement.json"
MEMBER_SETTINGS = (  # settings that each member chooses itself, or that do not affect what is computed
    *(
        "data",
        "root",
        "data_dir",
        "engine",
        "executor",
        "workers",
        "processes",
        "device",
        "precision",
        "kept",
        "client_state",
    ),
    *("audit", "evaluation", "rival", "baseline", "federation", "reader"),
)
MEMBER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


@dataclass(frozen=True)
class Agreement:
    """The agreement of one federation.

    Attributes:
        name: unique to the run: letters of another run are refused.
        members: names; a member's number is its place here.
        settings: complete.
        shape: of every member's data, and the number of members.
        encoding: how members read their files (`Population.encoding`).
        classes: names of the labels, the same for all; empty for episodic data.
        cap: the largest weight of a member's message. None: an agreement from before caps existed; then weights are
            not limited, and the default quorum is the whole cohort.
        written: the settings as in the file. Settings that a later version adds were not agreed on.
    """

    name: str
    members: tuple[str, ...]
    settings: Settings
    shape: Shape
    encoding: Mapping[str, Any]
    classes: tuple[str, ...]
    cap: float | None = None
    written: Mapping[str, Any] | None = None

    @classmethod
    def make(
        cls,
        name: str,
        members: Sequence[str],
        like: str,
        given: Mapping[str, Any],
        *,
        schedule: Literal["synchronous", "gossip"] = "synchronous",
    ) -> "Agreement":
        """Make an agreement.

        Args:
            name: of the run.
            members: their names, two or more.
            like: a file or folder that looks like the members' own; agreement-up rows suffice. Only columns, classes
                and categories are read from it. Numbers of a table are standardised by each member's own statistics.
            given: settings, as nested tables; missing ones get the preset's or the default value.
            schedule: "synchronous" with a server, "gossip" between peers.
        Raises:
            InputError: a member's name is invalid or repeated; the algorithm or a setting is not supported.
        """
        _refuse_members(members)
        asked = settings_from(given)
        sample = readers.read(like, root=asked.data_dir, partition="iid", clients=1, **_as_own(like, asked))
        place: Command = "server" if schedule == "synchronous" else "peers"

        def complete(given: Mapping[str, Any]) -> Settings:
            named = {"schedule": {**given.get("schedule", {}), "name": schedule}}
            return complete_settings({**given, "cohort": asked.cohort or len(members), **named}, sample, specific=False)

        case = case_of(_without_nones(given), Facts.of(sample, place), complete)
        check(case, ROWS)
        settings = case.settings
        entry = catalogue.entry(settings.algorithm)
        if entry.same_labels and sample.episodic:
            raise InputError(
                f"{settings.algorithm} needs labels with the same meaning on all clients, but in {like} labels have a "
                "meaning only within a member: use another algorithm"
            )
        targets = 1 if sample.y.ndim == 1 else int(sample.y[0].numel())
        shape = Shape(tuple(sample.x.shape[1:]), len(sample.classes), targets, sample.episodic, len(members))
        classes = () if sample.episodic else sample.classes
        cap = settings.federation.cap if schedule == "synchronous" else None  # gossip uses the links' mixing weights
        agreement = cls(name, tuple(members), settings, shape, sample.encoding, classes, cap)
        _ = agreement.plan.message  # find what cannot be computed before anything is written
        return agreement

    # ---- file ---------------------------------------------------------------------------------------------------

    def write(self, folder: Path) -> None:
        table = {
            "kind": "seedbed agreement",
            "name": self.name,
            "members": list(self.members),
            "settings": self._agreed,
            "shape": asdict(self.shape),
            "encoding": dict(self.encoding),
            "classes": list(self.classes),
            **({} if self.cap is None else {"cap": self.cap}),
        }
        write_atomically(folder / AGREEMENT_FILE, (json.dumps(table, indent=2, allow_nan=False) + "\n").encode())

    @classmethod
    def read(cls, folder: Path) -> "Agreement":
        """Read the agreement in a folder.

        Raises:
            InputError: the file is missing or damaged.
        """
        path = folder / AGREEMENT_FILE
        try:
            table = from_json(path.read_text(encoding="utf-8"))
            if table["kind"] != "seedbed agreement":
                raise ValueError(f"its kind is {table['kind']!r}")
            refuse_names(table["members"])  # they become names of files and folders
            return cls(
                str(table["name"]),
                tuple(table["members"]),
                settings_from(table["settings"]),
                Shape.of(table["shape"]),
                table["encoding"],
                tuple(table["classes"]),
                None if table.get("cap") is None else float(table["cap"]),
                table["settings"],
            )
        except FileNotFoundError as error:
            raise InputError(
                f"{folder} has no {AGREEMENT_FILE}: name a folder that `seedbed federation init` made"
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is damaged ({error}): copy it again from the coordinator") from error

    # ---- what a member builds from it -----------------------------------------------------------------------------

    @cached_property
    def learner(self) -> Learner:
        return Learner(self.settings, self.shape)

    @cached_property
    def model(self) -> AnyModel:
        """The initial model, a function of the seed."""
        return self.learner.model(catalogue.entry(self.settings.algorithm))

    @cached_property
    def algorithm(self) -> Algorithm:
        """The algorithm with the agreed robust rule and cap on weights."""
        capped = cap_weights(self.learner.algorithm(self.settings.algorithm, self.model), self.cap)
        return byzantine.with_robust_rule(capped, self.settings, _no_root, self.settings.cohort or len(self.members))

    @cached_property
    def plan(self) -> FederationProtocol:
        """The protocol: what is computed, and what is sent."""
        own = {name: value for name, value in self._agreed.items() if name not in MEMBER_SETTINGS}
        agreed = {
            "members": list(self.members),
            "settings": own,
            "shape": asdict(self.shape),
            "encoding": dict(self.encoding),
            "classes": list(self.classes),
        }
        start = self.algorithm.init(self.model.params)
        return FederationProtocol(self.name, self.algorithm, start, self._example, agreed, self.cap)

    @property
    def _agreed(self) -> dict[str, Any]:
        """The settings that were agreed on."""
        own = self.settings.model_dump(mode="json")
        if self.written is None:
            return own
        old = with_new_names(self.written) != self.written  # written by a version with other names
        return _only(with_old_names(own) if old else own, self.written)

    @property
    def terms(self) -> RoundPolicy:
        """The server's round policy for all members."""
        asked, settings = self.settings.federation, self.settings
        assert settings.rounds is not None  # complete_settings() has filled it in
        return RoundPolicy(
            rounds=settings.rounds,
            clients=range(len(self.members)),
            cohort=settings.cohort,
            over=asked.over,
            quorum=asked.quorum or (None if self.cap else "all"),
            deadline=asked.deadline,
            again=asked.again,
            seed=settings.seed,
            gate=MessageValidator(
                norm=settings.gate.norm, norm_cap=settings.gate.norm_cap, weight_cap=settings.gate.weight_cap
            ),
            explosion=asked.explosion,
            patience=asked.patience,
        )

    def number(self, member: str) -> ClientId:
        """A member's number.

        Raises:
            InputError: there is no such member.
        """
        if member not in self.members:
            raise InputError(f"{member!r} is not a member of {self.name}: choose one of {', '.join(self.members)}")
        return self.members.index(member)

    def terms_for(self, clients: Sequence[ClientId]) -> RoundPolicy:
        """The server's round policy for these members; a cohort of all members stays a cohort of all."""
        terms = self.terms
        if sorted(clients) == sorted(terms.clients):
            return terms
        cohort = None if terms.cohort in (None, len(self.members)) else min(terms.cohort or 0, len(clients))
        quorum = min(terms.quorum, cohort or len(clients)) if isinstance(terms.quorum, int) else terms.quorum
        return replace(terms, clients=sorted(clients), cohort=cohort, quorum=quorum)

    def own(
        self, member: str, data: Path, *, client: str | None = None, number: ClientId | None = None
    ) -> tuple[Sampled, Population | None]:
        """A member's training tasks from its own file, and the held-out rows (None for episodic data).

        Args:
            data: a file or folder with the agreed structure.
            client: the client whose rows to use, if the file has several.
            number: the member's number, if it joined later.
        Raises:
            InputError: the file does not have the agreed structure, or is too small for the tasks.
        """
        settings = self.settings
        number = self.number(member) if number is None else number
        rows = readers.read_like(data, dict(self.encoding), client=client)
        if not self.shape.episodic and rows.classes != self.classes:
            raise InputError(f"{data} has the classes {rows.classes}, but the agreement has {self.classes}")
        train, held_out = rows, None
        if not self.shape.episodic and settings.hold_out:
            train, held_out = rows.hold_out(settings.hold_out, seed=settings.seed, first=number)
        source = Sampled(train, self.sampler, seed=settings.seed, first=number)
        source.draw(number, 0)  # fail now if the data are too small
        return source, held_out

    @property
    def sampler(self) -> Sampler:
        """How a member's tasks are sampled from its rows."""
        return self.learner.sampler(catalogue.entry(self.settings.algorithm).items_for(self.settings.options))

    @cached_property
    def _example(self) -> Task:
        """A task of zeros with the shapes of members' tasks."""
        task, shape = self.settings.task, self.shape
        labels = max(1, shape.classes, *((task.ways, self.settings.evaluation.ways) if shape.episodic else ()))
        per_label = (max(task.shots) + task.queries + 1) if shape.episodic else max(20, 3 * (task.batch_size or 1))
        n = labels * per_label
        if shape.classes:
            y = torch.as_tensor(np.arange(n) % labels)
        else:
            y = torch.zeros((n,) if shape.targets == 1 else (n, shape.targets))
        names = tuple(map(str, range(labels))) if shape.classes else ()
        rows = Population.from_arrays(
            torch.zeros(n, *shape.inputs), y, ["example"] * n, classes=names, episodic=shape.episodic
        )
        example: Task = tree.index(Sampled(rows, self.sampler, seed=self.settings.seed).tasks([0], 0), 0)
        return example


def refuse_names(members: Sequence[str]) -> None:
    """Refuse names that are not safe as file names.

    Raises:
        InputError: names the first invalid one.
    """
    for name in members:
        if not isinstance(name, str) or not MEMBER_NAME.fullmatch(name):
            raise InputError(f"{name!r} is not a valid member name: use letters, digits, dots, dashes and underscores")


def _only(own: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a table that another table also has, recursively."""
    both = {name: (value, names[name]) for name, value in own.items() if name in names}
    return {n: _only(v, of) if isinstance(v, dict) and isinstance(of, dict) else v for n, (v, of) in both.items()}


def _refuse_members(members: Sequence[str]) -> None:
    refuse_names(members)
    twice = sorted({name for name in members if members.count(name) > 1})
    if twice:
        raise InputError(f"the member {twice[0]!r} is listed twice: give each a different name")
    if len(members) < 2:
        raise InputError(f"a federation of {len(members)} cannot train: name at least two members")


def _as_own(like: str, settings: Settings) -> dict[str, Any]:
    """Reader options for the sample: a table's numbers are standardised per member, unless set otherwise."""
    tables = "standardise" in readers.options_of(like, root=settings.data_dir)
    return ({"standardise": "own"} if tables else {}) | settings.reader


def _without_nones(given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if value is not None}


def _no_root() -> Any:
    raise InputError("reduce=fltrust needs examples on the server, and a real server has none: choose another rule")
