"""Products in bfloat16: near those in single precision, by how much is said, and no executor does others instead."""

import pytest
import torch
from torch import nn
from torch.func import grad, vmap

from seedbed.data.readers import read
from seedbed.data.types import Batch, Task
from seedbed.errors import InputError
from seedbed.executors.fused import FusedExecutor
from seedbed.experiments.planning import divide, plan
from seedbed.experiments.precision_check import precision_error
from seedbed.experiments.presets import complete_settings
from seedbed.learning.objectives import cross_entropy, supervised
from seedbed.learning.optimizers import sgd
from seedbed.learning.training import LocalWork, one_step_at_a_time
from seedbed.models import Model
from seedbed.models.precision import set_precision


def model(precision: str) -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Model(nn.Sequential(nn.Linear(9, 16), nn.Tanh(), nn.Linear(16, 3)), precision=precision)  # type: ignore[arg-type]


def test_what_a_model_gives_is_near_and_in_single_precision() -> None:
    x, full, low = torch.randn(4, 5, 9), model("float32"), model("bf16")
    for what in ("predict", "features"):
        found, want = (vmap(getattr(m, what), (None, 0))(m.params, x) for m in (low, full))
        assert found.dtype == want.dtype == torch.float32
        assert 0 < float((found - want).abs().max()) < 0.02
    slope = grad(lambda p: low.predict(p, x[0]).square().sum())(low.params)
    assert {g.dtype for g in slope.values()} == {torch.float32}


def test_the_kernel_does_not_train_it_in_single_precision_instead() -> None:
    net, g = model("bf16"), torch.Generator().manual_seed(0)
    y = torch.randint(0, 3, (2, 4, 5), generator=g)
    task = Task(Batch(torch.randn(2, 4, 5, 9, generator=g), y, torch.ones(2, 4, 5)), torch.ones(2, 4), torch.ones(2))
    fused = FusedExecutor()

    def ends(executor):  # type: ignore[no-untyped-def]
        local = LocalWork(supervised(net.predict, cross_entropy), sgd(0.1), net.params, task, None)
        return vmap(lambda task: executor(local._replace(task=task)).params)(task)

    found, want = ends(fused), ends(one_step_at_a_time)
    assert fused.refused == {"it computes in another precision"}
    assert all(torch.equal(found[name], want[name]) for name in want)


def test_what_it_costs_is_said_and_what_cannot_do_it_is_refused() -> None:
    population = read("digits")
    settings = complete_settings({"data": "digits", "precision": "bf16"}, population)
    experiment = plan(divide(settings, population))
    assert "products are computed in bf16: gradients on 64 training rows are" in precision_error(experiment)
    with pytest.raises(InputError, match="executor=factored does not work with precision=bf16"):
        divide(settings.model_copy(update={"executor": "factored"}), population)
    with pytest.raises(InputError, match="precision='tf32' is for NVIDIA GPUs, not for device='cpu'"):
        set_precision("tf32", torch.device("cpu"))
