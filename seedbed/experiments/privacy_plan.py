"""A run's differential privacy: from settings to noise, key and ledger, and to the words that say what is promised."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seedbed.errors import InputError
from seedbed.experiments.config import PrivacySettings, Settings
from seedbed.experiments.run_directory import versions
from seedbed.experiments.setting_names import with_old_names
from seedbed.federated import Algorithm, Engine
from seedbed.privacy.differential.accountant import (
    LEAST,
    Gaussian,
    Release,
    epsilon,
    gaussian_epsilon,
    noise_for,
    skellam_for,
)
from seedbed.privacy.differential.binding import digest_of
from seedbed.privacy.differential.central import Adaptive, with_privacy
from seedbed.privacy.differential.distributed_noise import DistributedNoise
from seedbed.privacy.differential.joint_ledger import OFF, Joint, JointLedger, default_folder
from seedbed.privacy.differential.ledger import Ledger, Releases, charge_rounds
from seedbed.privacy.differential.local_noise import LocallyNoised
from seedbed.privacy.differential.mechanisms import (
    Banded,
    Independent,
    InTurn,
    LocalPrivacy,
    Mechanism,
    TreeAggregation,
)
from seedbed.privacy.differential.noise import Noise, key_file
from seedbed.rounds import Round

KEY, LEDGER, RELEASES = "noise.key", "ledger.jsonl", "releases.jsonl"
HOPELESS = 1000.0  # noise in a number of the mean, in clips, above which nothing of the clients is left
RARE = 1e-3  # the chance that some client takes part more often than is said
LATER_SETTINGS = ("own.", "weights", "cohort_by", "replacement", "schedule.updates", "loss", "metric")  # since 0.1.0
PLACE_SETTINGS = ("data", "data_dir")  # settings that say where the data lie
ALIKE = ("seedbed", "python", "torch", "numpy")  # versions that a private run keeps
IN_TURN: dict[str, type[TreeAggregation] | type[Banded] | type[LocalPrivacy]] = {
    "tree": TreeAggregation,
    "banded": Banded,
    "local": LocalPrivacy,
}


@dataclass(frozen=True)
class PrivacyPromise:
    """What a run promises, known before it begins.

    Attributes:
        epsilon, delta: the budget.
        noise_multiplier: z, found for it.
        expected, population, rounds: m, N, T.
    """

    settings: PrivacySettings
    epsilon: float
    delta: float
    noise_multiplier: float
    expected: int
    population: int
    rounds: int
    seed: int
    size: int = 1
    honest: int = 1

    @classmethod
    def of(cls, settings: Settings, clients: int, *, size: int = 1, honest: int = 1) -> "PrivacyPromise | None":
        """The plan for so many known clients; None: no privacy is asked for.

        Args:
            size, honest: as of `Distributed`.
        Raises:
            InputError: what is asked for cannot be had.
        """
        asked = settings.privacy
        if asked.epsilon is None:
            return None
        rounds, cohort = settings.rounds or 1, settings.cohort or clients  # complete() has filled them in
        delta = min(1e-5, clients**-1.1) if asked.delta is None else asked.delta
        if delta >= 1 / clients:
            raise InputError(
                f"delta={delta:g} with {clients} clients would allow one of them to be published whole: choose it well "
                f"below 1/{clients}, or leave it out"
            )
        plan = cls(
            asked, asked.epsilon, delta, LEAST, min(cohort, clients), clients, rounds, settings.seed, size, honest
        )
        found = plan._with_noise()
        if asked.mechanism == "distributed":
            found = found._with_noise()  # on the grid that so much noise takes
        found._refuse_hopeless()
        return found

    def _with_noise(self) -> "PrivacyPromise":
        """The noise for the budget, on the grid that this plan's noise takes."""
        mechanism = self.mechanism(Noise(bytes(32)))
        [(release, times)] = mechanism.spent(self.rounds).items()
        if isinstance(release, Gaussian):
            z = noise_for(self.epsilon, self.delta, rate=release.rate, times=times)
            return replace(self, noise_multiplier=z)
        steps = math.sqrt(release.variance) / self.noise_multiplier  # a clip
        z = skellam_for(self.epsilon, self.delta, longest=release.longest, steps=steps, size=self.size, times=times)
        return replace(self, noise_multiplier=z)

    def _refuse_hopeless(self) -> None:
        """Noise so large that nothing is left of what clients send, and that no model survives."""
        noise, clients = self._loudest(self.mechanism(Noise(bytes(32)))), self.expected
        if noise > HOPELESS * clients:
            raise InputError(
                f"epsilon={self.epsilon:g} asks for noise of {noise:.3g} clips in every number of a sum over "
                f"{clients} clients: nothing of what they send would be left; choose a larger epsilon (1 is strong), "
                "fewer rounds, or more clients a round (cohort)"
            )

    def mechanism(self, key: Noise) -> Mechanism:
        args = (key, self.noise_multiplier, self.expected, self.population)
        name = self.settings.mechanism or "gaussian"
        if name == "distributed":
            assert self.settings.clip is not None  # Promise.of refuses it
            return DistributedNoise(*args, self.seed, self.size, self.honest, self.settings.clip)
        return Independent(*args) if name == "gaussian" else IN_TURN[name](*args, self.seed)

    @property
    def spent(self) -> dict[Release, int]:
        """The releases of all rounds."""
        return self.mechanism(Noise(bytes(32))).spent(self.rounds)

    @property
    def clip(self) -> float | Adaptive:
        return Adaptive(quantile=self.settings.quantile) if self.settings.clip is None else self.settings.clip

    @property
    def often(self) -> int:
        """In so many rounds each client takes part at most; in Poisson cohorts, but for a chance of RARE."""
        from scipy.stats import binom

        mechanism = self.mechanism(Noise(bytes(32)))
        if isinstance(mechanism, InTurn):
            return next(iter(mechanism.spent(self.rounds).values()))
        return int(binom.isf(RARE / self.population, self.rounds, self.expected / self.population))

    @property
    def _if_seen(self) -> float:
        """ε against those who see who takes part."""
        mechanism = self.mechanism(Noise(bytes(32)))
        if isinstance(mechanism, InTurn):
            return epsilon(mechanism.spent(self.rounds), self.delta)
        return gaussian_epsilon(math.sqrt(self.often) / self.noise_multiplier, self.delta)

    def table(self, joint: Joint | str | None = None) -> dict[str, Any]:
        """For result.json.

        Args:
            joint: what all private runs on the data cost together, or why that is not counted; None: not asked for.
        """
        mechanism, z = self.mechanism(Noise(bytes(32))), self.noise_multiplier
        return {
            "epsilon": epsilon(mechanism.spent(self.rounds), self.delta),
            "delta": self.delta,
            "epsilon_if_cohorts_are_seen": self._if_seen,
            "takes_part_at_most": self.often,
            "mechanism": self.settings.mechanism,
            "noise_multiplier": z,
            "clip": self.settings.clip,
            "clients": self.population,
            "expected_cohort": self.expected,
            "rounds": self.rounds,
            "unit": "client",
            "joint": joint._asdict() | {"path": str(joint.path)} if isinstance(joint, Joint) else None,
            "said": self.lines(joint),
        }

    def lines(self, joint: Joint | str | None = None) -> list[str]:
        """What is protected, against whom, at what ε, and what is not."""
        mechanism, z = self.mechanism(Noise(bytes(32))), self.noise_multiplier
        spent = epsilon(mechanism.spent(self.rounds), self.delta)
        budget, local = f"ε = {spent:.3g} at δ = {self.delta:.2g}", self.settings.mechanism == "local"
        times = f"{self.often} of {self.rounds} rounds"
        lines = [
            "Protected: the whole data of every known client (a client is a task), by differential privacy with "
            f"{budget}: "
            + self._neighbours()
            + f", no outcome becomes more likely by more than a factor {_factor(spent)}, but for δ.",
        ]
        if local:
            lines.append(
                f"Against: everybody, the server too, who sees each client's noised message in at most {times}."
            )
        elif isinstance(mechanism, DistributedNoise):
            lines.append(
                f"Against: everybody, the server too, who sees noisy sums alone, and who takes part. Each client adds "
                f"a share of the noise, sized so that {self.honest} of a round's {self.expected} suffice: a sum over "
                "fewer is not unmasked. Clients in league with the server, or that leave their noise out, must be "
                f"counted off: at least {self.honest} honest ones must be in every sum."
            )
            lines.append(f"Each client takes part in at most {times}; nothing is gained from chance.")
        else:
            lines.append(
                "Against: whoever sees the trained model, and the model after every round; not the server itself, "
                "which sees each client's clipped message (privacy.mechanism=local protects from it too)."
            )
            if isinstance(mechanism, Independent) and mechanism.rate < 1:
                lines.append(
                    "That counts on nobody seeing who takes part in which round. Whoever does: ε = "
                    f"{self._if_seen:.3g} for a client in {times}, which is as often as any will be, but for "
                    "a chance of one in a thousand."
                )
            else:
                lines.append(f"It holds whoever sees who takes part: nothing is gained from chance ({times} each).")
        few = ", of too few clients for the model to learn much" if self.expected < 10 * z else ""
        lines += [
            f"Price: noise of {self._loudest(mechanism):.3g} clips in every number of a sum over about {self.expected} "
            f"clients{few}.",
            "Withheld, as ε does not cover them: losses, "
            + ("" if isinstance(mechanism, DistributedNoise) else "who and how many took part, ")
            + "scores on known clients, and fine-tuning chosen on them.",
            "Not covered: scores on unseen clients, who only judge; the number of clients; what reading the data made "
            "of all rows (means of columns, names of classes); manifest.json and checkpoints/, the operator's own.",
            "A client that adapts uses its own data without noise, and its model stays with it.",
            "Another run on the same clients is another release: the ε of all of them add up.",
            *([] if joint is None else [str(joint)]),
        ]
        return lines

    def _neighbours(self) -> str:
        """What two data sets that cannot be told apart differ in."""
        if self.settings.mechanism == "local":
            return "whatever its data are"
        if self.settings.mechanism == "distributed":
            return "whether or not its contribution was in the sums"
        return "whether it took part at all"

    def _loudest(self, mechanism: Mechanism) -> float:
        """The noise in a sum, in clips: of distributed noise when nobody is lost, of local noise of all clients."""
        if isinstance(mechanism, LocalPrivacy):
            return self.noise_multiplier * 2 * math.sqrt(self.expected)
        more = self.expected / self.honest if isinstance(mechanism, DistributedNoise) else 1.0
        return self.noise_multiplier * math.sqrt(more)


def _factor(epsilon: float) -> str:
    return f"e^{epsilon:.3g} = {math.exp(epsilon):.3g}" if epsilon < 20 else f"e^{epsilon:.3g}: no protection"


def noise_terms(settings: Settings, fingerprint: str) -> dict[str, Any]:
    """What a private run's releases depend on beside its key and state: every setting, the data and the versions.

    Where the data lie is left out: their fingerprint says what they are. So that a run that an older version began can
    be resumed, settings have the names that they had then, and those that came later are left out at their defaults.
    """
    usual, table = (dict(_flat("", _dumped(s))) for s in (Settings(), settings))
    later = {key for key in table if key.startswith(LATER_SETTINGS) and table[key] == usual.get(key)}
    used = {f"version of {name}": version for name, version in versions().items() if name in ALIKE}
    return {"data": fingerprint, **used, **{key: value for key, value in table.items() if key not in later}}


def _dumped(settings: Settings) -> dict[str, Any]:
    return with_old_names(settings.model_dump(mode="json", exclude=set(PLACE_SETTINGS)))


def joint_of(folder: Path, plan: PrivacyPromise, fingerprint: str) -> Joint | str | None:
    """What all private runs on the data with this fingerprint cost together, this one charged first; or, where the
    default ledger cannot be written, why that is not counted; None: it was opted out of.

    Raises:
        InputError: a ledger that was asked for by name cannot be read or written.
    """
    asked, path = plan.settings.joint_ledger, folder / LEDGER
    if asked == OFF or not path.exists():
        return None
    run = json.loads(path.read_text().split("\t", 1)[0])["key"]
    ledger = JointLedger(default_folder() if asked is None else Path(asked).expanduser(), fingerprint)
    try:
        return ledger.charge(run, plan.spent, plan.delta)
    except InputError as error:
        if asked is not None:
            raise
        return f"No ledger adds up ε over runs on these data: {error}."


def _flat(prefix: str, table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Leaves of nested tables by dotted name."""
    for name, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", value


class PrivacyPlan:
    """A plan at work in a run's directory: its key, its ledger, and what they are wrapped around.

    noise.key is secret: whoever has it can take the noise off. It is there while rounds may have to be computed again,
    and removed after the last. ledger.jsonl tells what was spent.

    Args:
        terms: what the releases depend on beside the state, by name (`terms_of`). Noise and cohorts are derived from
            the key and these, so that nothing else is released with the same noise; the ledger holds them, and a run
            that goes on with others is refused.
    """

    def __init__(self, folder: Path, plan: PrivacyPromise, terms: Mapping[str, Any]):
        self.plan, self._key_path, ledger = plan, folder / KEY, folder / LEDGER
        self._has_key = self._key_path.exists() or not ledger.exists()
        key = key_file(self._key_path) if self._has_key else Noise(bytes(32))
        self.context = digest_of(terms)
        self.mechanism = plan.mechanism(key.bound(self.context))
        what: dict[str, Any] = {
            "mechanism": plan.settings.mechanism,
            "noise_multiplier": plan.noise_multiplier,
            "expected": plan.expected,
            "population": plan.population,
        }
        if isinstance(self.mechanism, DistributedNoise):
            what |= {"honest": plan.honest, "size": plan.size, "clip": plan.settings.clip}
        if self._has_key:
            what["key"] = key.fingerprint
        what["terms"] = dict(terms)
        self.ledger = Ledger(ledger, epsilon=plan.epsilon, delta=plan.delta, plan=what, rounds=plan.rounds)
        self.releases = Releases(folder / RELEASES)
        if self._has_key:
            joint_of(folder, plan, str(terms["data"]))

    def algorithm(self, algorithm: Algorithm) -> Algorithm:
        return with_privacy(algorithm, self.mechanism, clip=self.plan.clip, context=self.context)

    def engine(self, engine: Engine) -> Engine:
        if not isinstance(self.mechanism, LocalPrivacy):
            return engine
        assert self.plan.settings.clip is not None  # Promise.of refuses it
        return LocallyNoised(engine, self.mechanism, clip=self.plan.settings.clip)

    @property
    def distributed(self) -> DistributedNoise | None:
        """The mechanism whose noise clients add to what is summed securely."""
        return self.mechanism if isinstance(self.mechanism, DistributedNoise) else None

    def rounds(self, rounds: Iterator[Round], done: int) -> Iterator[Round]:
        """The rounds after so many, each charged first."""
        if not self._has_key:
            raise InputError(
                f"{self._key_path} is gone, but rounds are left: with another key they would be second releases of "
                "what the ledger counts once; restore the file, or start another run"
            )
        return charge_rounds(rounds, self.ledger, self.mechanism, done=done, releases=self.releases)

    def finish(self) -> None:
        """After the last round: nothing is left to compute again, so that nobody needs the key."""
        self._key_path.unlink(missing_ok=True)
