"""The report: whole and well-formed, nothing foreign gets in unescaped, the verdict says what the numbers say."""

import re
import tomllib
from html.parser import HTMLParser
from statistics import fmean
from typing import Any
from xml.etree import ElementTree

import pytest

from seedbed.evaluation import summarise
from seedbed.experiments.config import Settings
from seedbed.experiments.stages import _cells
from seedbed.experiments.toml_text import to_toml
from seedbed.reports.page import format_number
from seedbed.reports.run_report import gain, run_report, run_verdict

HOSTILE = '<script>alert("x")</script>&\x00\udce9'
VOID = {"meta", "br"}


class Checker(HTMLParser):
    """Fails on tags that do not match; remembers the tags."""

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def cell(scores: list[float], *, higher: bool = True) -> dict[str, Any]:
    return _cells(summarise(scores, higher_is_better=higher))


def result_of(rows: dict[str, dict[str, list[float]]], **changes: Any) -> dict[str, Any]:
    higher = changes.get("higher_is_better", True)
    table = {k: {c: cell(s, higher=higher) for c, s in row.items()} for k, row in rows.items()}
    whole = {"metric": "accuracy", "higher_is_better": True, "algorithm": "fed_proto", "unseen": table, "seen": {}}
    return {**whole, "finetuning": {}, "curve": {}, **changes}


def manifest_of(clients: int, **settings: Any) -> dict[str, Any]:
    return {
        "versions": {"seedbed": "0.1.0", "torch": "2.13"},
        "settings": Settings(**{"rounds": 20, "cohort": 5, **settings}).model_dump(mode="json"),
        "shape": {"inputs": [1, 8, 8], "classes": 10, "targets": 1, "episodic": True},
        "data": {"source": "digits", "clients": 14, "examples": 1797, "classes": list("0123456789"), "notes": [],
                 "encoding": {}, "fingerprint": "abc123"},
        "clients": {"train": ["a", "b"], "unseen": [f"writer {i}" for i in range(clients)]},
    }  # fmt: skip


LOW, HIGH = [0.51, 0.55, 0.48, 0.53], [0.81, 0.86, 0.77, 0.84]
NEAR = [0.82, 0.84, 0.79, 0.83]  # differs from HIGH by -1, 2, -2, 1 points: mean 0
FULL = {"unadapted": LOW, "adapted": HIGH, "fedavg_finetuned": NEAR, "local": LOW}
METRICS = [{"stage": s, "round": r, "clients": 5, "loss": 2 / r} for s in ("fed_proto", "fedavg") for r in range(1, 21)]


def full(**changes: Any) -> dict[str, Any]:
    how = {"text": "the head, 20 steps of lr 0.1", "layers": "head"}
    extra = {"finetuning": {"local": {"1": how}}, "curve": {"1": {"0": 0.2, "1": 0.5}, "5": {"0": 0.2, "1": 0.8}}}
    made = result_of({"1": FULL, "5": FULL}, **extra, **changes)
    return {**made, "seen": {"1": {"unadapted": cell([0.3, 0.4]), "adapted": cell([0.61, 0.72])}}}


def svgs(page: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(found) for found in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


def test_it_is_one_well_formed_file_that_needs_nothing_else() -> None:
    page = run_report(manifest_of(4), METRICS, full())
    tags = Checker(page).tags
    assert not {"script", "link", "img", "iframe"} & set(tags)
    assert "http" not in page
    assert "url(" not in page
    charts = [s for s in svgs(page) if s.get("role") == "img"]
    assert len(charts) == 6  # shots, two strips, steps, two stages
    assert "nan" not in page.lower().replace("finance", "")


@pytest.mark.parametrize("place", ["client", "source", "note", "setting", "stage", "version", "algorithm"])
def test_whatever_comes_from_outside_is_escaped(place: str) -> None:
    manifest, result, metrics = manifest_of(4), full(), [dict(m) for m in METRICS]
    if place == "client":
        manifest["clients"]["unseen"] = [HOSTILE] * 4
    elif place == "source":
        manifest["data"]["source"] = HOSTILE
    elif place == "note":
        manifest["data"]["notes"] = [HOSTILE]
    elif place == "setting":
        manifest["settings"]["data"] = HOSTILE
    elif place == "stage":
        metrics[0]["stage"] = HOSTILE
    elif place == "version":
        manifest["versions"][HOSTILE] = HOSTILE
    else:
        result["algorithm"] = HOSTILE
    page = run_report(manifest, metrics, result)
    assert "script" not in Checker(page).tags
    assert "&lt;script&gt;" in page
    assert svgs(page)
    page.encode()  # a file name with bytes that are no text cannot stop the report


def test_every_number_of_the_tables_is_there() -> None:
    result, metric = full(), "accuracy"
    page = run_report(manifest_of(4), METRICS, result)
    for row in [*result["unseen"].values(), *result["seen"].values()]:
        for one in row.values():
            assert (
                f"{format_number(one['mean'], metric)} ± {format_number(one['ci95'], metric)}<small>worst tenth "
                in page
            )
            assert f"worst tenth {format_number(one['worst_tenth'], metric)}" in page
    for client, score in enumerate(HIGH):
        assert f"<title>writer {client}: {100 * score:g}</title>" in page
    assert "worst: writer 2" in page


def test_gain_is_counted_client_by_client() -> None:
    """Paired: HIGH − NEAR is −1, 2, −2, 1 points, of mean 0 and standard deviation 1.826; t(3) = 3.182, over √4."""
    difference, half = gain(full()["unseen"]["1"], "fedavg_finetuned")
    assert difference == pytest.approx(fmean(HIGH) - fmean(NEAR), abs=1e-12)
    assert half == pytest.approx(3.182 * 0.01826 / 2, rel=1e-3)


def test_verdict_that_helps_and_is_within_the_interval() -> None:
    assert run_verdict(full()) == (
        "On 4 clients never seen in training, adaptation helps with 1 and 5 shots; it is within the 95 % interval of "
        "FedAvg + fine-tuning with 1 and 5 shots; it beats local only with 1 and 5 shots."
    )


def test_verdict_by_shots_and_where_it_hurts() -> None:
    rows = {"1": {"unadapted": HIGH, "adapted": LOW}, "5": {"unadapted": LOW, "adapted": HIGH}}
    said = run_verdict(result_of(rows))
    assert said == "On 4 clients never seen in training, adaptation helps with 5 shots, hurts with 1 shot."
    page = run_report(manifest_of(4), [], result_of(rows))
    assert "worse; 4 of 4 clients worse" in page


def test_verdict_of_a_regression_where_lower_is_better() -> None:
    rows = {"5": {"unadapted": HIGH, "adapted": LOW, "local": LOW}}
    result = result_of(rows, metric="squared error", higher_is_better=False, algorithm="per_fedavg")
    assert "adaptation helps with 5 shots; it is within the 95 % interval of local only" in run_verdict(result)
    page = run_report(manifest_of(4), [], result)
    assert f"{fmean(LOW):.4g} ± " in page
    assert "worst: writer 1" in page  # LOW's largest
    assert "per cent" not in page


def test_fedavg_is_not_compared_with_itself() -> None:
    assert "FedAvg" not in run_verdict(full(algorithm="fedavg"))


@pytest.mark.parametrize(
    "result",
    [
        result_of({"5": {"unadapted": [0.5], "adapted": [0.9]}}),
        result_of({"5": {"unadapted": [0.5, 0.5], "adapted": [0.5, 0.5]}}),
        result_of({"1": {"unadapted": LOW, "adapted": HIGH}}, seen={}, finetuning={}, curve={"1": {}}),
        result_of({}),
        {k: v for k, v in full().items() if k not in ("seen", "curve", "finetuning")},
        result_of({"5": {"adapted": [0.1 * (i % 10) for i in range(300)], "unadapted": [0.0] * 300}}),
    ],
)
def test_missing_parts_are_left_out(result: dict[str, Any]) -> None:
    metrics: list[dict[str, Any]] = [
        {"stage": "a", "round": 1, "clients": 2},
        {"stage": "b", "round": 1, "clients": 2, "loss": float("nan")},
        {"stage": "c", "round": 1, "clients": 2, "loss": 0.5},
    ]
    page = run_report(manifest_of(4), metrics, result)
    Checker(page)
    svgs(page)
    assert "± nan" not in page


def test_one_client_concludes_nothing() -> None:
    assert "nothing is concluded" in run_verdict(result_of({"5": {"unadapted": [0.5], "adapted": [0.9]}}))


def test_settings_can_be_pasted_back() -> None:
    asked: dict[str, Any] = {"data": 'C:\\a "b"é', "options": {"outer": {"lr": 1e-5, "schedule": "cosine"}}}
    settings = Settings(**asked, task={"batch_size": None}, reader={"a b": ["x"]}).model_dump(mode="json")
    again = tomllib.loads(to_toml(settings))
    again["task"]["batch_size"] = None
    assert Settings(**again).model_dump(mode="json") == settings
    page = run_report({**manifest_of(4), "settings": settings}, [], full())
    assert "--set task.batch_size=none" in page  # TOML cannot say none
