"""What a lower precision costs, shown before a run computes in it."""

import torch

from seedbed import tree
from seedbed.algorithms import catalogue
from seedbed.data.types import Batch
from seedbed.experiments.run_plan import RunPlan
from seedbed.learning.objectives import supervised
from seedbed.learning.training import gradient
from seedbed.models import Model

ROWS = 64


def precision_error(experiment: RunPlan) -> str:
    """How far the initial model's gradients are from those in single precision, on some of the training rows."""
    learner, train = experiment.learner, experiment.train
    model = learner.model(catalogue.entry("fedavg"))
    assert isinstance(model, Model)  # FedAvg has one
    rows = train.verified(train.rows[:: max(1, len(train.rows) // ROWS)][:ROWS])
    labels = torch.as_tensor(train.labels[rows])
    if train.episodic:  # labels mean something in an episode alone
        labels = torch.arange(len(rows)) % model.params[f"{model.head}.weight"].shape[0]
    batch = tree.to_device_of(Batch(train.inputs(rows), labels, torch.ones(len(rows))), model.params)
    with torch.no_grad():
        low, full = (
            gradient(supervised(m.predict, learner.loss), m.params, batch)[0]
            for m in (model, model.to(learner.device, precision="float32"))
        )
    away = tree.squared_norm(tree.sub(low, full)) / tree.squared_norm(full)
    return (
        f"products are computed in {model.precision}: gradients on {len(rows)} training rows are "
        f"{float(away) ** 0.5:.2%} off those in float32"
    )
