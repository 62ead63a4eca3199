"""Estimators of scikit-learn's shape: the start of a table's run, fitted to the rows of many clients.

    start = FederatedRegressor().fit(X, y, groups=hospitals)
    own = start.adapt(X_of_one, y_of_one)
    own.predict(X_new)

`fit` is the start of `seedbed run` on a table (`experiments.table_start`): a pooled linear model that is fitted
exactly, priors of the clients' effects, and a choice of how to adapt. No client is set apart: judge with a splitter of
your own, such as GroupKFold. Shapes: M rows, D features.
"""

from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from seedbed import randomness
from seedbed.algorithms import catalogue
from seedbed.data.population import Population
from seedbed.data.readers.alike import one_client
from seedbed.data.readers.columns import fit_like
from seedbed.data.readers.frames import read_memory
from seedbed.data.readers.targets import encode_target_like
from seedbed.errors import InputError
from seedbed.experiments.adapt import AdaptationStart, Grower
from seedbed.experiments.builder import Learner
from seedbed.experiments.launch import MEMORY
from seedbed.experiments.personal_model import PersonalModel, build_personal
from seedbed.experiments.planning import divide, plan
from seedbed.experiments.presets import complete_settings
from seedbed.experiments.run_plan import RunPlan
from seedbed.experiments.stages import TrainedStart
from seedbed.experiments.table_start import TableStart
from seedbed.federated import Params, ServerState
from seedbed.models import Model

Array = npt.NDArray[Any]
LEAST = 4  # rows
CLASSIFICATION, REGRESSION = "classification", "regression"


class _Federated(BaseEstimator):  # type: ignore[misc]
    """What both estimators share.

    Args:
        clients: made-up clients, among which rows are dealt where `fit` is given no groups.
        seed: everything drawn at random follows from it.
    """

    _task: str

    def __init__(self, *, clients: int = 10, seed: int = 0):
        self.clients = clients
        self.seed = seed

    def fit(self, X: Any, y: Any, groups: Any = None) -> Self:
        """Fit the start to all rows.

        Args:
            X: [M, D] numbers; NaN is a gap.
            y: [M].
            groups: [M] the client of each row; None: rows are dealt to made-up clients.
        """
        X, y = validate_data(self, X, y, ensure_all_finite="allow-nan", dtype=np.float64, ensure_min_samples=2)
        if len(X) < LEAST:
            raise ValueError(f"n_samples={len(X)} rows are too few: give {LEAST} at least")
        self._start = self._fitted(X, self._encoded(y), self._owners(groups, len(X)))
        self._keep(*Grower(self._start.restored(), None).unadapted())
        return self

    def adapt(self, X: Any, y: Any) -> Self:
        """A fitted estimator of one client, from its rows: it predicts as the client's own model.

        Args:
            X: [M, D].
            y: [M].
        """
        check_is_fitted(self)
        X, y = validate_data(self, X, y, ensure_all_finite="allow-nan", dtype=np.float64, reset=False)
        start = self._start.restored()
        target = encode_target_like(self._numbered(y), start.encoding["target"], "y", episodic=False)
        own = copy(self)
        own._keep(*Grower(start, None).grow(one_client(self._inputs(X), target, start.encoding, "rows", "X"), ""))
        return own

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_start")

    def _fitted(self, X: Array, y: Array, owners: Array) -> "StartState":
        columns = [f"x{place}" for place in range(X.shape[1])]
        people = read_memory(X.copy(), client=owners, target=y, task=self._task, number=columns)
        return fit_start(people, self.seed)

    def _owners(self, groups: Any, rows: int) -> Array:
        if groups is None:
            return randomness.generator(self.seed, "made-up clients").permutation(rows) % min(self.clients, rows // 2)
        found = np.asarray(groups)
        if len(found) != rows:
            raise ValueError(f"groups has {len(found)} values, X {rows} rows: they must be equal")
        return found

    def _keep(self, params: Params, metadata: Mapping[str, str]) -> None:
        self._params = {name: np.asarray(p.detach()) for name, p in params.items()}
        self._metadata = dict(metadata)

    @property
    def _model(self) -> PersonalModel:
        return build_personal({name: torch.as_tensor(p.copy()) for name, p in self._params.items()}, self._metadata)

    def _asked(self, X: Any) -> torch.Tensor:
        check_is_fitted(self)
        return self._inputs(validate_data(self, X, ensure_all_finite="allow-nan", dtype=np.float64, reset=False))

    def _inputs(self, X: Array) -> torch.Tensor:
        table = {f"x{place}": X[:, place] for place in range(X.shape[1])}
        return torch.as_tensor(fit_like(table, self._start.encoding["columns"], lambda row: f"row {row}"))

    def _encoded(self, y: Array) -> Array:
        raise NotImplementedError

    def _numbered(self, y: Array) -> Array:
        raise NotImplementedError


class FederatedRegressor(RegressorMixin, _Federated):  # type: ignore[misc]
    """A number to predict, over clients that differ: see the module."""

    _task = REGRESSION

    def predict(self, X: Any) -> Array:
        """[M] numbers, in the units of y."""
        x = self._asked(X)
        return self._model.numbers(x)[:, 0]

    def _encoded(self, y: Array) -> Array:
        return np.asarray(y, np.float64)

    _numbered = _encoded


class FederatedClassifier(ClassifierMixin, _Federated):  # type: ignore[misc]
    """Classes to predict, over clients that differ: see the module."""

    _task = CLASSIFICATION

    def predict(self, X: Any) -> Array:
        """[M] classes."""
        shares = self.predict_proba(X)
        found: Array = self.classes_[shares.argmax(1)]
        return found

    def predict_proba(self, X: Any) -> Array:
        """[M, classes] probabilities, in the order of `classes_`."""
        x = self._asked(X)
        return self._model.probabilities(x)

    def _encoded(self, y: Array) -> Array:
        check_classification_targets(y)
        self.classes_, numbers = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError("y holds one class: there is nothing to learn")
        return np.asarray(numbers)

    def _numbered(self, y: Array) -> Array:
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise InputError(f"y has the class {str(unknown[0])!r}, which the start does not know")
        return np.searchsorted(self.classes_, y)


class StartState:
    """A fitted start as plain values, so that an estimator can be copied and stored.

    Attributes:
        encoding: how rows become inputs.
    """

    def __init__(self, experiment: RunPlan, trained: TrainedStart, intervals: Mapping[str, Any]):
        self.settings, self.shape, self.encoding = experiment.settings, experiment.shape, experiment.population.encoding
        self.chosen, self.options, self.intervals = dict(trained.finetuning), dict(trained.options), dict(intervals)
        self.params = {name: np.asarray(p.detach()) for name, p in trained.state.params.items()}

    def restored(self) -> AdaptationStart:
        """What a client adapts from."""
        learner = Learner(self.settings, self.shape)
        name = self.settings.algorithm
        params = {key: torch.as_tensor(p.copy()) for key, p in self.params.items()}
        model = learner.model(catalogue.entry(name))
        trained = TrainedStart(name, model, ServerState(params, {}), self.chosen, self.options)
        return AdaptationStart(
            learner, self.encoding, name, model, self.options, trained.finetuning_for, lambda algorithm: params,
            intervals=self.intervals,
        )  # fmt: skip


def fit_start(people: Population, seed: int) -> StartState:
    """The start trained on all of these clients: no client is set apart."""
    given = {"data": f"{MEMORY}arrays", "start": "exact", "unseen": 0, "seed": seed}
    split = divide(complete_settings(given, people), people)
    experiment = plan(replace(split, unseen=split.train))  # the rows of the table that they are large enough for
    model = experiment.learner.model(catalogue.entry(experiment.settings.algorithm))
    assert isinstance(model, Model)
    made = TableStart(experiment, model).make()
    trained = TrainedStart("fed_eb", model, ServerState(made.params, {}), made.chosen, {"slopes": list(made.places)})
    return StartState(experiment, trained, {row: list(interval) for row, interval in made.intervals.items()})
