"""Four tables of the UCI repository that have clients of their own or near enough. Shapes: M rows."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from seedbed.data.population import Population
from seedbed.data.readers import columns, sheet, table, targets
from seedbed.data.readers.column_values import Column
from seedbed.data.readers.dropping import drop_small_clients
from seedbed.errors import InputError

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
HEART_COLUMNS = [
    "age",
    "sex",
    "cp",
    "trestbps",
    "chol",
    "fbs",
    "restecg",
    "thalach",
    "exang",
    "oldpeak",
    "slope",
    "ca",
    "thal",
    "num",
]
HEART_NUMBERS = ["age", "sex", "trestbps", "chol", "fbs", "thalach", "exang", "oldpeak"]
HEART_LEVELS = {"cp": ["2", "3", "4"], "restecg": ["1", "2"]}  # the first level of each is the one left out


def heart_disease(path: str | Path, *, standardise: bool = True) -> Population:
    """Heart disease (0 healthy, 1 ill) in four hospitals, filtered as in FLamby: 740 patients.

    slope, ca and thal are left out (mostly missing outside Cleveland), then rows with a missing value; 8
    numbers and 5 indicators remain, in FLamby's order.

    Args:
        path: the folder of processed.{cleveland,hungarian,switzerland,va}.data.
        standardise: False leaves the numbers as they are (FLamby standardises them within each hospital).

    Source: Janosi, Steinbrunn, Pfisterer, Detrano, UCI 1988, CC BY 4.0; Ogier du Terrail et al., FLamby,
    NeurIPS 2022.
    """
    loaded = [_hospital(Path(path) / f"processed.{name}.data") for name in HOSPITALS]
    kept = [rows[~np.isnan(np.delete(rows, (10, 11, 12), axis=1)).any(1)] for rows in loaded]
    rows = np.concatenate(kept)
    named: Mapping[str, Column] = dict(zip(HEART_COLUMNS, rows.T, strict=True))
    specs = columns.fit_features({name: named[name] for name in HEART_NUMBERS}, str).columns
    if not standardise:
        as_they_are = {"bend": 0.0, "centre": 0.0, "spread": 1.0, "clip": None, "mean": 0.0, "std": 1.0}
        specs = [{**spec, **as_they_are} for spec in specs]
    for name, levels in HEART_LEVELS.items():
        specs.append({"name": name, "kind": "text", "levels": levels, "other": False, "missing": False})
    target = targets.as_classes((named["num"] > 0).astype(np.int64))
    dropped = sum(map(len, loaded)) - len(rows)
    return Population.from_arrays(
        torch.as_tensor(columns.fit_like(named, specs, str)),
        target.y,
        np.repeat(HOSPITALS, [len(k) for k in kept]),
        classes=target.classes,
        source="heart_disease",
        notes=(
            "columns slope, ca, thal left out",
            f"{dropped} rows dropped: a value is missing",
            "1 = ill (num > 0)",
        ),
        encoding={
            "format": "table",
            "client": "hospital",
            "target": {"column": "num", **target.encoding},
            "columns": specs,
            "episodic": False,
        },
    )


def _hospital(path: Path) -> npt.NDArray[np.float64]:
    try:
        rows = np.genfromtxt(path, delimiter=",", missing_values="?", filling_values=np.nan)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    if rows.ndim != 2 or rows.shape[1] != len(HEART_COLUMNS):
        raise InputError(f"{path} does not have {len(HEART_COLUMNS)} columns in each row: fetch it again")
    return rows


def parkinsons_telemonitoring(path: str | Path, *, scale_target: bool = True) -> Population:
    """total_UPDRS (the severity of Parkinson's disease, 7…55) from 19 measures of a recording, by patient.

    motor_UPDRS, which is a part of the target, is left out.

    Source: Tsanas, Little, McSharry, Ramig, IEEE Trans. Biomedical Engineering 2010; UCI 2009.
    """
    return table.read(
        Path(path) / "parkinsons_updrs.data",
        client="subject#",
        target="total_UPDRS",
        task="regression",
        ignore=("motor_UPDRS",),
        scale_target=scale_target,
    )


def bank_marketing(path: str | Path) -> Population:
    """Whether a bank's customer subscribes to a deposit, by the customer's job: 12 silos, 4,521 customers.

    duration (of the call) is left out: it is not known before the call, and nearly decides the answer.

    Source: Moro, Laureano, Cortez, Using Data Mining for Bank Direct Marketing, ESM 2011; UCI.
    """
    return table.read(Path(path) / "bank.csv", client="job", target="y", ignore=("duration",))


def credit_default(path: str | Path, *, least: int = 30) -> Population:
    """Whether a credit card payment is missed, in silos of education × marriage × decade of age.

    Args:
        path: the folder of default_of_credit_card_clients.csv (two header lines, as UCI's sheet).
        least: silos of fewer rows are left out.

    Source: Yeh, Lien, Expert Systems with Applications 2009; UCI.
    """
    whole = sheet.load_table(Path(path) / "default_of_credit_card_clients.csv")
    named = {str(values[0]): values[1:] for values in whole.columns.values() if values[0] != "ID"}
    silo = [
        f"education{e}-marriage{m}-age{int(a) // 10 * 10}"
        for e, m, a in zip(named["EDUCATION"], named["MARRIAGE"], named["AGE"], strict=True)
    ]
    raw = replace(whole, columns={**named, "silo": np.array(silo, object)}, lines=whole.lines[1:])
    codes = ("SEX", "EDUCATION", "MARRIAGE")
    return drop_small_clients(
        table.encode_table(raw, client="silo", target="default payment next month", text=codes),
        least_examples=least,
    )
