"""What the members of a real federation agree on, as one file, and what each member makes of it.

`agreement.json` holds the settings with nothing left open, the members' names, and the form of their data: columns and
classes, never a row. From it and nothing else every member builds the same algorithm, the same start and the same form
of messages (`Agreement.plan`), and with a file of its own its own client's tasks (`Agreement.own`).
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
from seedbed.federated import Algorithm, ClientId
from seedbed.limits import from_json
from seedbed.rounds.message_validation import MessageValidator
from seedbed.serialization import write_atomically

AGREEMENT_FILE = "agreement.json"
MEMBER_SETTINGS = (  # each member's own affair, or nothing that is computed
    *("data", "root", "engine", "executor", "workers", "processes", "device", "precision", "kept"),
    *("audit", "evaluation", "rival", "federation", "reader"),
)
MEMBER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


@dataclass(frozen=True)
class Agreement:
    """One federation's.

    Attributes:
        name: of the run, another for each: letters of one are refused by another.
        members: names; a member's number is its place here.
        settings: complete.
        shape: of every member's data, and how many members there are.
        encoding: how members read their files (`Population.encoding`).
        classes: the labels' names, the same for all; of episodic data none.
        cap: the largest weight of a member's message, fixed when the federation is made. None: an agreement from before
            there was one. Weights are then not limited, and the default quorum is the whole cohort.
        written: settings as they are in the file. What a later version adds to them was not agreed on.
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
        """
        Args:
            like: a file or folder that looks like the members' own: made-up rows will do. Columns, classes and texts'
                levels are read from it, and nothing else: numbers of a table are standardised by each member's own.
            given: settings, as tables; what is left open gets a recipe's or the default.
            schedule: with a server, or between peers.
        Raises:
            InputError: a member's name is unfit or there twice; the algorithm or a setting cannot be followed.
        """
        _refuse_members(members)
        asked = settings_from(given)
        form = readers.read(like, root=asked.root, partition="iid", clients=1, **_as_own(like, asked))
        place: Command = "server" if schedule == "synchronous" else "peers"

        def complete(given: Mapping[str, Any]) -> Settings:
            held = {"cohort": asked.cohort or len(members), "schedule": {**given.get("schedule", {}), "name": schedule}}
            return complete_settings({**given, **held}, form, specific=False)

        case = case_of(_without_nones(given), Facts.of(form, place), complete)
        check(case, ROWS)
        whole = case.settings
        entry = catalogue.entry(whole.algorithm)
        if entry.same_labels and form.episodic:
            raise InputError(
                f"{whole.algorithm} teaches label by label, but in {like} labels mean something only inside a member"
            )
        targets = 1 if form.y.ndim == 1 else int(form.y[0].numel())
        shape = Shape(tuple(form.x.shape[1:]), len(form.classes), targets, form.episodic, len(members))
        classes = () if form.episodic else form.classes
        cap = whole.federation.cap if schedule == "synchronous" else None  # peers mix by the links' weights
        made = cls(name, tuple(members), whole, shape, form.encoding, classes, cap)
        _ = made.plan.message  # what cannot be computed is found before anything is written
        return made

    # ---- as a file ----------------------------------------------------------------------------------------------

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
        """
        Raises:
            InputError: there is none, or it was altered so that it is none any more.
        """
        path = folder / AGREEMENT_FILE
        try:
            table = from_json(path.read_text(encoding="utf-8"))
            if table["kind"] != "seedbed agreement":
                raise ValueError(f"its kind is {table['kind']!r}")
            refuse_names(table["members"])  # they name files: of keys, of folders
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
                f"{folder} holds no {AGREEMENT_FILE}: name a folder that `seedbed federation init` made"
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} is no agreement any more ({error}): copy it again from the coordinator"
            ) from error

    # ---- what each member makes of it ---------------------------------------------------------------------------

    @cached_property
    def learner(self) -> Learner:
        return Learner(self.settings, self.shape)

    @cached_property
    def model(self) -> AnyModel:
        """The initial model, a function of the seed."""
        return self.learner.model(catalogue.entry(self.settings.algorithm))

    @cached_property
    def algorithm(self) -> Algorithm:
        """As it is trained, with the rule for messages and the cap on weights that were agreed on."""
        made = cap_weights(self.learner.algorithm(self.settings.algorithm, self.model), self.cap)
        return byzantine.with_robust_rule(made, self.settings, _no_root, self.settings.cohort or len(self.members))

    @cached_property
    def plan(self) -> FederationProtocol:
        """What is computed, and what travels."""
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
        return own if self.written is None else _only(own, self.written)

    @property
    def terms(self) -> RoundPolicy:
        """How the server holds rounds."""
        asked, settings = self.settings.federation, self.settings
        assert settings.rounds is not None  # complete() has filled it in
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
        """
        Raises:
            InputError: there is no such member.
        """
        if member not in self.members:
            raise InputError(f"{member!r} is no member of {self.name}: they are {', '.join(self.members)}")
        return self.members.index(member)

    def terms_for(self, clients: Sequence[ClientId]) -> RoundPolicy:
        """How the server holds rounds with these members; a cohort of all stays one of all."""
        terms = self.terms
        if sorted(clients) == sorted(terms.clients):
            return terms
        cohort = None if terms.cohort in (None, len(self.members)) else min(terms.cohort or 0, len(clients))
        quorum = min(terms.quorum, cohort or len(clients)) if isinstance(terms.quorum, int) else terms.quorum
        return replace(terms, clients=sorted(clients), cohort=cohort, quorum=quorum)

    def own(
        self, member: str, data: Path, *, client: str | None = None, number: ClientId | None = None
    ) -> tuple[Sampled, Population | None]:
        """A member's training tasks from its own file, and the rows that are kept for testing (none of episodic data).

        Args:
            client: whose rows, where the file holds several clients'.
            number: the member's, where it came later.
        Raises:
            InputError: the file is not of the form agreed on, or too small for the tasks.
        """
        settings = self.settings
        number = self.number(member) if number is None else number
        rows = readers.read_like(data, dict(self.encoding), client=client)
        if not self.shape.episodic and rows.classes != self.classes:
            raise InputError(f"{data} has the classes {rows.classes}, agreed were {self.classes}")
        train, held_out = rows, None
        if not self.shape.episodic and settings.hold_out:
            train, held_out = rows.hold_out(settings.hold_out, seed=settings.seed, first=number)
        source = Sampled(train, self.sampler, seed=settings.seed, first=number)
        source.draw(number, 0)  # who is too small is told so now
        return source, held_out

    @property
    def sampler(self) -> Sampler:
        """How a member's tasks are drawn from its rows."""
        return self.learner.sampler(catalogue.entry(self.settings.algorithm).items_for(self.settings.options))

    @cached_property
    def _example(self) -> Task:
        """A task of zeros, of the form that members' tasks have."""
        task, shape = self.settings.task, self.shape
        labels = max(1, shape.classes, *((task.ways, self.settings.evaluation.ways) if shape.episodic else ()))
        each = (max(task.shots) + task.queries + 1) if shape.episodic else max(20, 3 * (task.size or 1))
        n = labels * each
        if shape.classes:
            y = torch.as_tensor(np.arange(n) % labels)
        else:
            y = torch.zeros((n,) if shape.targets == 1 else (n, shape.targets))
        names = tuple(map(str, range(labels))) if shape.classes else ()
        rows = Population.from_arrays(
            torch.zeros(n, *shape.inputs), y, ["nobody"] * n, classes=names, episodic=shape.episodic
        )
        made: Task = tree.index(Sampled(rows, self.sampler, seed=self.settings.seed).tasks([0], 0), 0)
        return made


def refuse_names(members: Sequence[str]) -> None:
    """
    Raises:
        InputError: a name is not fit for a member's, and so for a file's.
    """
    for name in members:
        if not isinstance(name, str) or not MEMBER_NAME.fullmatch(name):
            raise InputError(f"{name!r} cannot be a member's name: use letters, digits, dots, dashes and underscores")


def _only(own: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    """A table's entries that another one names, in tables within it too."""
    both = {name: (value, names[name]) for name, value in own.items() if name in names}
    return {n: _only(v, of) if isinstance(v, dict) and isinstance(of, dict) else v for n, (v, of) in both.items()}


def _refuse_members(members: Sequence[str]) -> None:
    refuse_names(members)
    twice = sorted({name for name in members if members.count(name) > 1})
    if twice:
        raise InputError(f"the member {twice[0]!r} is there twice: give each a name of its own")
    if len(members) < 2:
        raise InputError(f"a federation of {len(members)} learns from nobody: name two members at least")


def _as_own(like: str, settings: Settings) -> dict[str, Any]:
    """How the sample is read: numbers of a table by each member's own mean and deviation, unless asked otherwise."""
    tables = "standardise" in readers.options_of(like, root=settings.root)
    return ({"standardise": "own"} if tables else {}) | settings.reader


def _without_nones(given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if value is not None}


def _no_root() -> Any:
    raise InputError("reduce=fltrust needs examples of the server's own, and a real server has none here: use another")
