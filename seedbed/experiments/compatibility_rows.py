"""The table of choices that do not work together: see `compatibility`."""

from collections.abc import Mapping
from typing import Any

from seedbed.engines import ALONE, EXECUTORS
from seedbed.experiments.compatibility import Case, Condition, Row, value_of
from seedbed.experiments.config import GateSettings, PrivacySettings, SecureSettings, Settings
from seedbed.experiments.named_code import KEYS, LOSSES, METRICS, is_code
from seedbed.rounds.mixing import DIRECTED, TOPOLOGIES

AVERAGING = {"algorithm": "fedavg"}
SCHEDULE_SETTINGS = {  # settings of one schedule
    "asynchronous": ("concurrency", "buffer", "updates", "latency", "spread", "jitter"),
    "gossip": ("topology", "density", "order", "link_failure", "peer_failure"),
}
SECURE_SETTINGS = {  # settings of one form of secure aggregation
    "masks": ("neighbours", "threshold", "malicious", "colluding", "lost"),
    "shares": ("servers",),
}
SERVERLESS = "it is for peers without a server"
SCHEDULE_REASONS = {  # an algorithm's own schedule, or any (None); the one asked for
    (None, "gossip"): "there each peer steps on its own message only",
    (None, "asynchronous"): "its server steps on the whole cohort at once",
    ("asynchronous", "synchronous"): "it weighs late replies, and in these rounds none is late",
    ("gossip", "synchronous"): SERVERLESS,
    ("gossip", "asynchronous"): SERVERLESS,
}
READS_MESSAGES = ("alie", "ipm", "mimic", "min_max", "min_sum", "tailored", "after_adaptation")
TRIES_THE_RULE = ("tailored", "after_adaptation")
ELSEWHERE = {  # what a real federation does not have
    "unseen": "every member is known",
    "public": "no member gives rows away",
    "budget": "it compares algorithms in a simulation",
    "tune": "each factor would need a training of its own",
    "own.steps": "each member would have to read one table",
    "own.lr": "each member would have to read one table",
    "own.size": "each member would have to read one table",
    "cohort_by": "the server does not know how many examples a member has",
    "replacement": "a member answers a round once",
    "loss": "a member imports no code that an agreement names",
    "metric": "a member imports no code that an agreement names",
    "model.name": "a member imports no code that an agreement names",
    "stragglers.fraction": "members are as fast as they are",
    "attack.name": "attacks are for simulations",
    "privacy.epsilon": "its accounting needs cohorts that are drawn by chance and all answer",
    "secure.form": "masks work in simulation only so far",
}


def _all(*conditions: Condition) -> Condition:
    return lambda case: all(condition(case) for condition in conditions)


def _is_set(key: str) -> Condition:
    """The setting differs from its default."""
    usual = value_of(Settings(), key)
    return lambda case: bool(case.value(key) != usual)


def _names_code(key: str) -> Condition:
    return lambda case: is_code(case.value(key))


def _takes(name: str) -> Condition:
    return lambda case: case.entry.takes(name)


def _other(key: str, usual: str) -> Condition:
    return lambda case: bool(case.value(key) != usual)


def _private(case: Case) -> bool:
    return case.private


def _secure(case: Case) -> bool:
    return case.secure


def _open(case: Case) -> bool:
    return not case.secure


def _unbudgeted(case: Case) -> bool:
    return not case.private


def _elsewhere(case: Case) -> bool:
    return case.facts.command in ("server", "peers")


def _between_peers(case: Case) -> bool:
    return case.facts.command == "peers"


def _for_target(key: str, target: str) -> Condition:
    """The loss or metric is for another kind of target than the data's."""
    known: Mapping[str, Any] = LOSSES if key == "loss" else METRICS

    def clashes(case: Case) -> bool:
        entry, given = known.get(case.value(key)), "classes" if case.facts.classes else "numbers"
        return entry is not None and entry.target == target != given

    return clashes


_unsynchronised = _other("schedule.name", "synchronous")


def _schedule_reason(case: Case) -> str:
    entry, asked = case.entry, str(case.settings.schedule.name)
    why = "a baseline exchanges nothing" if entry.paper.startswith("baseline") else None
    why = why or SCHEDULE_REASONS.get((entry.rounds[0], asked)) or SCHEDULE_REASONS[None, asked]
    return f"{why}; {case.settings.algorithm} runs on {' or '.join(entry.rounds)}"


# ---- where a run is computed --------------------------------------------------------------------------------------

RANKS_ROWS = (
    Row("privacy.epsilon", "several ranks", lambda c: c.private and c.facts.ranks > 1,
        "the secret behind the noise would have to be on all of them", ("run it in one process",)),
    Row("client_state", "several ranks", lambda c: c.settings.client_state == "disk" and c.facts.ranks > 1,
        "each rank would hold a part, and the run's directory only that of rank 0", ("run it in one process",)),
    Row("executor", "precision", lambda c: c.settings.executor == "factored" and c.settings.precision == "bf16",
        "it multiplies in float32"),
    Row("executor", "engine",
        lambda c: c.settings.engine in ("one_by_one", "vectorised") and c.settings.executor in EXECUTORS
        and EXECUTORS[c.settings.executor] != c.settings.engine,
        lambda c: f"the executor {c.settings.executor} is one of the engine {EXECUTORS[c.settings.executor]}"),
    Row("processes", "executor",
        lambda c: c.settings.processes and c.settings.executor in EXECUTORS and c.settings.executor not in ALONE,
        f"it computes many clients at once, in one process; {' and '.join(ALONE)} have worker processes"),
    Row("processes", "engine", lambda c: c.settings.processes and c.settings.engine == "vectorised",
        "it computes many clients at once, in one process"),
)  # fmt: skip

# ---- an exact start -----------------------------------------------------------------------------------------------

EXACT_ROWS = tuple(
    Row("start", second, _all(lambda c: c.exact, clashes), reason, ({"start": "rounds"},))
    for second, clashes, reason in (
        ("algorithm", lambda c: c.settings.algorithm not in ("auto", "fed_eb"), "it is the start of fed_eb"),
        ("data that are no table", lambda c: not c.facts.table, "it fits a linear model to columns"),
        ("N-way episodes", lambda c: c.facts.episodic,
         "it needs classes that mean the same for all clients (reader.episodic=false)"),
        ("several targets", lambda c: c.facts.targets > 1, "it needs one number, or classes, as the target"),
        ("privacy.epsilon", lambda c: c.private, "the ledger of --epsilon counts rounds, and its steps are none"),
        ("secure.form", lambda c: c.secure, "its clients do not mask their sums"),
        ("attack.name", lambda c: c.settings.attack.name, "attacks are on rounds"),
        ("reduce.name", lambda c: c.settings.reduce.name, "rules reduce the messages of rounds"),
        ("stragglers.fraction", lambda c: c.settings.stragglers.fraction, "stragglers miss rounds"),
        ("public", lambda c: c.settings.public, "it trains on no public rows"),
        ("schedule.name", lambda c: c.settings.schedule.name not in (None, "synchronous"), "it has no rounds"),
        ("torchrun", lambda c: c.facts.torchrun, "it runs in one process"),
        ("`seedbed compare`", lambda c: c.facts.command == "compare", "only a run fits it"),
        ("`seedbed audit`", lambda c: c.facts.command == "audit", "it has no messages that an audit could attack"),
        ("a real federation", _elsewhere, "only a run fits it"),
    )
)  # fmt: skip

# ---- schedules ----------------------------------------------------------------------------------------------------

SCHEDULES_ROWS = (
    Row("algorithm", "schedule.name", lambda c: c.settings.schedule.name not in c.entry.rounds, _schedule_reason,
        (AVERAGING,)),
    *(
        Row(f"schedule.{name}", "schedule.name",
            _all(_other("schedule.name", owner), _is_set(f"schedule.{name}")),
            f"it is a setting of {owner} rounds", ({"schedule.name": owner},))
        for owner, names in SCHEDULE_SETTINGS.items()
        for name in names
    ),
    Row("algorithm", "schedule.topology",
        lambda c: c.settings.schedule.name == "gossip" and c.settings.schedule.topology in DIRECTED
        and not c.entry.pushes,
        lambda c: f"along its links of one direction {c.settings.algorithm} loses the mean; "
        f"{', '.join(t for t in TOPOLOGIES if t not in DIRECTED)} have links of both", ({"algorithm": "push_sum"},)),
    Row("stragglers.work", "schedule.name",
        lambda c: c.settings.schedule.name != "synchronous" and c.settings.stragglers.fraction
        and c.settings.stragglers.work == "dropped",
        "only rounds that wait for a cohort can drop a client; others have schedule.latency or schedule.peer_failure",
        ({"stragglers.work": "partial"}, {"stragglers.fraction": "drop"})),
)  # fmt: skip

COHORTS_ROWS = (
    *(
        Row(key, second, _all(_is_set(key), clashes), reason, ways)
        for key in ("cohort_by", "replacement")
        for second, clashes, reason, ways in (
            ("schedule.name", _unsynchronised, "these rounds draw no cohorts", (AVERAGING,)),
            ("algorithm", lambda c: c.entry.pooled, "it trains on pooled data", (AVERAGING,)),
            ("privacy.epsilon", _private, "its accounting is for cohorts that it draws itself", ()),
        )
    ),
    *(
        Row("replacement", second, _all(_is_set("replacement"), clashes), reason, ways)
        for second, clashes, reason, ways in (
            ("secure.form", _secure, "it sums each message once", ()),
            ("reduce.name", lambda c: c.robust, "this rule counts each message once", ({"reduce.name": "mean"},)),
            ("algorithm", lambda c: c.entry.needs_mean, "it counts each message once", (AVERAGING,)),
        )
    ),
    Row("weights", "algorithm", lambda c: c.settings.weights and c.entry.needs_mean, lambda c: c.entry.needs_mean,
        (AVERAGING,)),
    Row("weights", "algorithm", lambda c: c.settings.weights and c.entry.pooled, "one client has all data",
        (AVERAGING,)),
    Row("own.lr", "algorithm", lambda c: c.settings.own.lr and "local" not in c.entry.settings,
        "its clients have no local.lr", (AVERAGING,)),
    *(
        Row(f"own.{key}", "algorithm", _all(_is_set(f"own.{key}"), lambda c: c.entry.items != "batches"),
            "its clients work on no mini-batches", (AVERAGING,))
        for key in ("steps", "size")
    ),
    *(
        Row(f"own.{key}", "algorithm", _all(_is_set(f"own.{key}"), lambda c: c.entry.pooled),
            "it trains on pooled data, without clients", (AVERAGING,))
        for key in ("steps", "size", "lr")
    ),
)  # fmt: skip

# ---- differential privacy -----------------------------------------------------------------------------------------

PRIVACY_ROWS = (
    *(
        Row(f"privacy.{key}", "without --epsilon",
            _all(_unbudgeted, _is_set(f"privacy.{key}")),
            "there is no budget to keep", ({"privacy.epsilon": 4.0},))
        for key in PrivacySettings.model_fields if key != "epsilon"
    ),
    *(
        Row("privacy.epsilon", second, _all(_private, clashes), reason, ways)
        for second, clashes, reason, ways in (
            ("algorithm", lambda c: c.entry.pooled,
             "it pools the data of all clients in one place, where none is protected from it", (AVERAGING,)),
            ("algorithm", lambda c: c.entry.takes("teacher"),
             "a teacher that was trained on clients shows their data", (AVERAGING,)),
            ("algorithm", lambda c: c.entry.takes("public"), "public rows show clients' data", (AVERAGING,)),
            ("public", lambda c: c.settings.public, "public rows show clients' data", ()),
            ("algorithm", lambda c: c.entry.takes("assign"),
             "its messages differ in structure, so that no clip bounds a client's part of their sum", (AVERAGING,)),
            ("model.several", lambda c: c.settings.model.several,
             "messages then differ in structure, so that no clip bounds a client's part of their sum", ()),
            ("algorithm", lambda c: c.entry.each_message,
             "its server needs each message, and noise is sized for a sum", (AVERAGING,)),
            ("reduce.name", lambda c: c.robust,
             "under this rule a client can change the result by more than its clip", ({"reduce.name": "mean"},)),
            ("gate.norm", lambda c: c.settings.gate.norm is not None,
             "one client's message decides whether another's counts", ()),
            ("attack.name", lambda c: c.settings.attack.name == "after_adaptation",
             "it computes on the model only, and private clients are sent a clip beside it",
             ({"attack.name": "tailored"},)),
            ("tune", lambda c: c.settings.tune, "learning rates chosen on known clients show something of them", ()),
            ("schedule.name", lambda c: c.settings.schedule.name != "synchronous",
             "its accounting needs cohorts that are drawn by chance", (AVERAGING, {"schedule.name": "synchronous"})),
        )
    ),
    Row("privacy.mechanism", "without --secure",
        lambda c: c.private and c.settings.privacy.mechanism == "distributed" and not c.secure,
        "each client adds only a share of the noise, too little for its message to be seen",
        ({"secure.form": "masks"},)),
)  # fmt: skip

# ---- secure aggregation -------------------------------------------------------------------------------------------

SECURE_ROWS = (
    *(
        Row(f"secure.{key}", "without --secure",
            _all(_open, _is_set(f"secure.{key}")),
            "messages are sent in the open", ({"secure.form": "masks"},))
        for key in SecureSettings.model_fields if key != "form"
    ),
    *(
        Row("secure.form", second, _all(_secure, clashes), reason, ways)
        for second, clashes, reason, ways in (
            ("schedule.name", lambda c: c.settings.schedule.name != "synchronous",
             "these rounds have no cohort whose messages are summed at once",
             (AVERAGING, {"schedule.name": "synchronous"})),
            ("algorithm", lambda c: c.entry.pooled,
             "it pools the data of all clients in one place, where there is nothing to sum", (AVERAGING,)),
            ("algorithm", lambda c: c.entry.takes("assign"),
             "its clients send messages of different structure, which have no one sum", (AVERAGING,)),
            ("model.several", lambda c: c.settings.model.several,
             "clients then send messages of different structure, which have no one sum", ()),
            ("algorithm", lambda c: c.entry.each_message,
             "the server only sees sums, and this algorithm's server needs each message", (AVERAGING,)),
            ("reduce.name", lambda c: c.settings.reduce.name == "fltrust",
             "the server only sees sums, and this rule compares each message with the server's own",
             ({"reduce.name": "mean"}, {"secure.groups": 5, "reduce.name": "median"})),
            ("reduce.name", lambda c: c.robust and c.settings.secure.groups is None,
             "the server only sees sums, and this rule needs each message, or the means of groups",
             ({"secure.groups": 5}, {"reduce.name": "mean"})),
            ("secure.groups", lambda c: not c.robust and c.settings.secure.groups is not None,
             "it shows the server several sums instead of one, and the mean gains nothing from that",
             ({"reduce.name": "median"},)),
            ("attack.name", lambda c: c.settings.attack.name in READS_MESSAGES,
             "it needs each other client's message, and only their sum is seen", ({"attack.name": "sign_flip"},)),
            *(
                (f"gate.{key}", _is_set(f"gate.{key}"),
                 "it judges each message, and only their sum is seen; a robust rule can reduce the means of groups", ())
                for key in GateSettings.model_fields
            ),
            ("privacy.mechanism", lambda c: c.private and c.settings.privacy.mechanism == "local",
             "it hides each message by noise of its own already, far more than a sum needs",
             ({"privacy.mechanism": "distributed"}, {"privacy.mechanism": "distributed", "privacy.clip": 0.5})),
            ("privacy.mechanism", lambda c: c.private and c.settings.privacy.mechanism == "gaussian",
             "its accounting hides the cohort of a round, but the server of secure aggregation knows it",
             ({"privacy.mechanism": "distributed"}, {"privacy.mechanism": "distributed", "privacy.clip": 0.5})),
            ("privacy.mechanism", lambda c: c.private and c.settings.privacy.mechanism in ("tree", "banded"),
             "its noise spans rounds, and secure aggregation may have to give up some of them",
             ({"privacy.mechanism": "distributed"}, {"privacy.mechanism": "distributed", "privacy.clip": 0.5})),
        )
    ),
    *(
        Row("privacy.epsilon", f"secure.{key}",
            _all(_private, _secure, _is_set(f"secure.{key}")),
            "with a budget the grid follows from privacy.clip")
        for key in ("clip", "bits", "cap")
    ),
    *(
        Row(f"secure.{key}", "secure.form",
            _all(_secure, _other("secure.form", owner), _is_set(f"secure.{key}")),
            f"it is a setting of secure.form={owner}", ({"secure.form": owner},))
        for owner, keys in SECURE_SETTINGS.items() for key in keys
    ),
)  # fmt: skip

CLIP_ROWS = (
    Row("privacy.mechanism", "a clip that follows the clients' norms",
        lambda c: c.private and c.settings.privacy.mechanism not in (None, "gaussian")
        and c.settings.privacy.clip is None,
        lambda c: "its noise is sized for one clip" if c.settings.privacy.mechanism == "distributed"
        else "its noise spans rounds", ({"privacy.clip": 0.5},)),
)  # fmt: skip

# ---- robust rules and attacks -------------------------------------------------------------------------------------

HOSTILE_ROWS = (
    Row("reduce.name", "algorithm", lambda c: c.robust and c.entry.each_message,
        "its server reduces messages by a rule of its own", ({"reduce.name": "mean"}, AVERAGING)),
    Row("reduce.name", "algorithm", lambda c: c.robust and c.entry.pooled,
        "it pools the data of all clients, so that a round has one message", ({"reduce.name": "mean"}, AVERAGING)),
    *(
        Row(key, "algorithm", _all(clashes, lambda c: c.entry.needs_mean), lambda c: c.entry.needs_mean, (AVERAGING,))
        for key, clashes in (("reduce.name", lambda c: c.robust), ("reduce.momentum", _is_set("reduce.momentum")))
    ),
    Row("reduce.momentum", "algorithm", lambda c: c.settings.reduce.momentum and not c.entry.like_params,
        "its messages differ from the model in structure, and momentum has the model's", (AVERAGING,)),
    *(
        Row(key, "schedule.name",
            _all(_unsynchronised, clashes),
            "it needs the messages of a cohort together", (AVERAGING, {"schedule.name": "synchronous"}))
        for key, clashes in (
            ("reduce.name", lambda c: c.robust),
            ("reduce.momentum", lambda c: c.settings.reduce.momentum),
            ("attack.name", lambda c: c.settings.attack.name),
            *(
                (f"gate.{key}", _is_set(f"gate.{key}"))
                for key in GateSettings.model_fields
            ),
        )
    ),
    Row("attack.name", "algorithm", lambda c: c.settings.attack.name and c.entry.pooled,
        "it trains on pooled data, which no client can attack", (AVERAGING,)),
    Row("attack.name", "algorithm", lambda c: c.settings.attack.name in TRIES_THE_RULE and c.entry.each_message,
        "it searches for what harms the server's rule most, and this server has none",
        ({"attack.name": "min_max"}, AVERAGING)),
    Row("attack.name", "reduce.name",
        lambda c: c.settings.attack.name in TRIES_THE_RULE and c.settings.reduce.name == "fltrust",
        "it searches for what harms the server's rule most, and this server weighs each message by its own",
        ({"attack.name": "min_max"}, {"reduce.name": "median"})),
    Row("attack.name", "algorithm",
        lambda c: c.settings.attack.name == "after_adaptation" and not c.entry.like_params,
        "its messages differ from the model in structure, and the attack's have the model's",
        ({"attack.name": "tailored"}, AVERAGING)),
    Row("attack.name", "options.batches",
        lambda c: c.settings.attack.name == "after_adaptation" and c.entry.items_for(c.settings.options) == "triples",
        "it needs clients that train on batches or episodes", ({"attack.name": "tailored"},)),
    Row("attack.name", "a target that is a number",
        lambda c: c.settings.attack.name == "label_flip" and c.facts.classes == 0, "it renames classes",
        ({"attack.name": "sign_flip"},)),
    Row("attack.name", "examples that are no images",
        lambda c: c.settings.attack.name == "backdoor" and not c.facts.images, "its trigger is a square of pixels",
        ({"attack.name": "label_flip"}, {"attack.name": "sign_flip"})),
    Row("attack.name", "N-way episodes", lambda c: c.settings.attack.name == "backdoor" and c.episodic,
        "labels are drawn anew for each episode, so that no class can be its target",
        ({"attack.name": "label_flip"},)),
)  # fmt: skip

# ---- models and data ----------------------------------------------------------------------------------------------

MODELS_ROWS = (
    Row("model.several", "algorithm", lambda c: c.settings.model.several and not c.entry.takes("assign"),
        "it trains one architecture (model.name); feddf, fedmd and fd train several"),
    Row("model.teacher", "algorithm", lambda c: c.settings.model.teacher and not c.entry.takes("teacher"),
        "it has no teacher; distill has one"),
    Row("algorithm", "without public rows", lambda c: c.entry.takes("public") and not c.settings.public,
        "its clients exchange predictions of them", ({"public": 0.1}, AVERAGING)),
    Row("algorithm", "model.norm", lambda c: c.entry.normalises and c.settings.model.norm != "batch",
        "it leaves every client its own batch normalisation, and without one it is fedavg",
        ({"model.norm": "batch"}, AVERAGING)),
    Row("algorithm", "model.name", lambda c: c.entry.normalises and c.settings.model.name == "linear",
        "it leaves every client its own batch normalisation, and a linear model has none", (AVERAGING,)),
    Row("algorithm", "model.norm", lambda c: c.settings.model.norm == "batch" and not c.entry.normalises,
        "batch normalisation has statistics that a client must keep, and these clients keep none",
        ({"algorithm": "fedbn"}, {"model.norm": "group"})),
    Row("algorithm", "a target that is a number", lambda c: c.entry.classes and c.facts.classes == 0,
        "it works on classes", ({"algorithm": "per_fedavg"}, {"algorithm": "fedmeta"})),
    Row("algorithm", "options.personal_head",
        lambda c: c.settings.algorithm == "pfedhn" and c.settings.options.get("personal_head") is False and c.episodic,
        "it would generate heads for the classes of training, but labels are drawn anew for each episode",
        ({"algorithm": "autoregressive", "options.personal_head": "drop"},)),
    Row("options.batches", "N-way episodes",
        lambda c: c.entry.items_for(c.settings.options) == "triples" and c.episodic,
        "three batches need clients as tasks", ({"options.batches": 2},)),
    *(
        Row(key, "start", _all(lambda c: c.exact, _is_set(key)),
            "it is fitted to, and judged by, the log-loss or the squared error", ({"start": "rounds"},))
        for key in ("loss", "metric")
    ),
    *(
        Row(key, "a target that is a number", _for_target(key, "classes"), "it is for classes", ({key: "auto"},))
        for key in ("loss", "metric")
    ),
    *(
        Row(key, "a target of classes", _for_target(key, "numbers"), "it is for numbers", ({key: "auto"},))
        for key in ("loss", "metric")
    ),
    Row("evaluation.shots", "without start=exact",
        lambda c: not c.exact and "half" in (c.settings.evaluation.shots or ()),
        "clients are judged with numbers of examples"),
)  # fmt: skip

# ---- real federations and audits ----------------------------------------------------------------------------------

COMMANDS_ROWS = (
    *(
        Row("algorithm", "a real federation",
            _all(_elsewhere, _takes(what)),
            f"no member of one has what it needs ({what})")
        for what in ("public", "teacher", "assign")
    ),
    *(
        Row(key, "a real federation",
            _all(_elsewhere, _names_code(key) if key in KEYS else _is_set(key)), reason)
        for key, reason in ELSEWHERE.items()
    ),
    Row("algorithm", "members around a server",
        lambda c: c.facts.command == "server" and c.settings.schedule.name not in c.entry.rounds, _schedule_reason,
        (AVERAGING,)),
    Row("algorithm", "peers", lambda c: c.facts.command == "peers" and c.settings.schedule.name not in c.entry.rounds,
        _schedule_reason, ({"algorithm": "dpsgd"},)),
    Row("algorithm", "a real federation", _all(_elsewhere, lambda c: c.entry.pooled),
        "no member gives its rows away", (AVERAGING,)),
    *(
        Row(f"schedule.{key}", "a real federation",
            _all(_between_peers, _is_set(f"schedule.{key}")),
            "real links and peers fail by themselves")
        for key in ("link_failure", "peer_failure")
    ),
    Row("algorithm", "`seedbed audit`", lambda c: c.facts.command == "audit" and c.entry.pooled,
        "it pools the data of all clients, so that no client sends a message", (AVERAGING,)),
)  # fmt: skip

ROWS: tuple[Row, ...] = (
    *EXACT_ROWS,
    *RANKS_ROWS,
    *COMMANDS_ROWS,
    *SCHEDULES_ROWS,
    *COHORTS_ROWS,
    *MODELS_ROWS,
    *PRIVACY_ROWS,
    *SECURE_ROWS,
    *CLIP_ROWS,
    *HOSTILE_ROWS,
)
