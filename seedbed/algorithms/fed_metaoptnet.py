"""MetaOptNet, federated: Lee, Maji, Ravichandran and Soatto, "Meta-learning with differentiable convex optimization",
CVPR 2019, arXiv 1904.03758, equations 8–12. Only the body and the logits' scale are federated; each client solves its
own support vector machine, and the meta-gradient goes through the optimum.
"""

import math
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from seedbed.algorithms.fed_proto import body_only
from seedbed.errors import InputError
from seedbed.federated import Algorithm
from seedbed.learning.heads import SVM, dual_ridge_head, svm_head
from seedbed.learning.objectives import Predict, smoothed_cross_entropy, supervised
from seedbed.learning.optimizers import Optimizer, adam
from seedbed.learning.training import Objective, Params


def fed_metaoptnet(
    loss: Objective,
    features: Predict,
    *,
    ways: int,
    head: str = "head",
    form: Literal["svm", "ridge"] = "svm",
    c: float = 0.1,
    iterations: int = 15,
    epsilon: float = 1.0,
    lam: float = 50.0,
    scale: float = 10.0,
    smoothing: float = 0.0,
    outer: Optimizer = adam(1e-3),
    test_steps: int = 0,
    test_lr: float = 0.01,
) -> Algorithm:
    """Body ← outer step along mean_i ∇ L_i(query_i) under W = the support vector machine of support_i.

    As fed_proto, with the head of a multi-class support vector machine instead of prototypes.

    Args:
        form: svm | ridge: the paper's second head, z = 2(K + λI)⁻¹Y.
        c: C of the support vector machine.
        iterations: of its interior point method.
        epsilon: ε of its kernel XXᵀ + εI: 1 in the authors' code, none in the paper.
        lam: λ of the ridge form.
        scale: where the learned scale of the logits starts, above 0. Departure: the authors start at 1, which lets the
            loss of a solved task hardly fall (its scores differ by the margin, 1) until much training has raised it.
        smoothing: ε of label smoothing, from 0 to below 1 (the paper: 0.1): clients then train on the cross-entropy of
            softened labels, instead of on `loss`.
    """

    def predict(params: Params, x: Tensor) -> Tensor:
        return F.linear(features(params, x), params[f"{head}.weight"], params[f"{head}.bias"])

    solve = {
        "svm": svm_head(features, ways=ways, head=head, c=c, iterations=iterations, epsilon=epsilon),
        "ridge": dual_ridge_head(features, ways=ways, head=head, lam=lam),
    }[form]
    loss = supervised(predict, smoothed_cross_entropy(smoothing)) if smoothing else loss
    if scale <= 0:
        raise InputError(f"scale={scale} must be above 0: it multiplies the logits")
    learned = {name: math.log(scale) for name in SVM}
    return body_only(loss, solve, head=head, outer=outer, test_steps=test_steps, test_lr=test_lr, learned=learned)
