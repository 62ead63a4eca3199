"""Heads that a client solves for itself from its support set, so that only the body is learned by all.

Shapes: B examples, F features, N classes.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from seedbed.data.types import Batch
from seedbed.learning import class_block_solver
from seedbed.learning.objectives import EXCLUDED, Adapt, Predict
from seedbed.learning.passes import predictions
from seedbed.learning.svm_qp import svm_dual
from seedbed.learning.training import Params

RIDGE = {"ridge:log_lambda": 0.0, "ridge:log_scale": 0.0, "ridge:bias": 0.0}
LOGISTIC = {"logistic:log_lambda": 0.0}
SVM = {"svm:log_scale": 0.0}


def learned_scalars(start: Mapping[str, float], like: Tensor) -> Params:
    """A head's own learned numbers where they start: RIDGE (R2D2's log λ, log a and b), LOGISTIC or SVM."""
    return {n: torch.full((), v, dtype=like.dtype, device=like.device) for n, v in start.items()}


def prototype_head(features: Predict, *, ways: int, head: str = "head", scale: float | None = 1.0) -> Adapt:
    """The head is the prototypes c_k, the mean features of each class: logits −s‖f − c_k‖².

    Snell, Swersky and Zemel, NeurIPS 2017, eq. 1–2, where s = 1. −‖f − c‖² = 2f·c − ‖c‖² − ‖f‖², and ‖f‖² is the same
    for all classes: it is left out, so that the head is an ordinary linear layer. A class without an example is
    excluded.

    Args:
        scale: s; None: 16/F, which keeps the logits of wide features from saturating (a departure from the paper).
    """

    def adapt(params: Params, support: Batch) -> Params:
        f = predictions(features, params, support)  # [B, F]
        of_class = _labels(support, ways)  # [B, N]
        counts = of_class.sum(0)
        c = (of_class.T @ f) / counts.clamp_min(1)[:, None]  # [N, F]
        s = 16 / f.shape[1] if scale is None else scale
        bias = -s * (c * c).sum(1) + EXCLUDED * (counts == 0).to(f.dtype)
        return {**params, f"{head}.weight": 2 * s * c, f"{head}.bias": bias}

    return adapt


def ridge_head(features: Predict, *, ways: int, head: str = "head") -> Adapt:
    """The head is ridge regression on one-hot labels, solved exactly: W = Xᵀ(XXᵀ + λI)⁻¹Y, logits a·(fW) + b.

    Bertinetto, Henriques, Torr and Vedaldi, ICLR 2019, eq. 3–6 (R2D2). X holds the features with a column of ones;
    log λ, log a and b are learned (`RIDGE`). Padding rows of X and Y are zero and change nothing.
    """

    def adapt(params: Params, support: Batch) -> Params:
        x, y = _with_ones(predictions(features, params, support), support), _labels(support, ways)
        w = x.T @ _ridge(x @ x.T, y, params["ridge:log_lambda"].exp())  # [F+1, N]
        a = params["ridge:log_scale"].exp()
        return {**params, f"{head}.weight": a * w[:-1].T, f"{head}.bias": a * w[-1] + params["ridge:bias"]}

    return adapt


def logistic_head(features: Predict, *, ways: int, head: str = "head", steps: int = 5) -> Adapt:
    """The head is softmax regression by so many steps of Newton's method from zero: logits XW with

        W ≈ argmin Σ_n CE(softmax(x_n W), y_n) + λ/2 ‖W‖²,    W = XᵀA

    Bertinetto et al., ICLR 2019, section 3.2 (LR-D2), which is for two classes. For more this is the true Newton method
    of softmax regression, not one against the rest (Rasmussen and Williams, Gaussian Processes for Machine Learning,
    2006, Algorithm 3.3): a step solves λA + H(KA) = Hf + Y − P with f = XW and H the softmax's curvature, which is one
    of `coupled`'s systems with d = λ/P. For two classes the steps are the paper's, at λ/2.

    X holds the features with a column of ones; log λ is learned (`LOGISTIC`), through all steps. A class without an
    example is excluded. Computed in double precision: λ/P grows without bound where an example is certain.
    """

    def adapt(params: Params, support: Batch) -> Params:
        f = predictions(features, params, support)
        x = _with_ones(f, support).double()
        y = _labels(support, ways).double()
        present = y.sum(0) > 0
        real = ((support.mask[:, None] > 0) & present).to(x.dtype)
        kernel, strength = x @ x.T, params["logistic:log_lambda"].exp().double()
        a = torch.zeros_like(y)
        for _ in range(steps):
            scores = kernel @ a
            p = torch.where(present, scores, EXCLUDED).softmax(-1)
            # (Hf + Y − P)/P; certainty is cut at 1e-20, far beyond what an answer can show.
            p = p.clamp_min(1e-20)
            r = scores - (p * scores).sum(-1, keepdim=True) + y / p - 1
            a, _ = class_block_solver.solve_blocks(
                class_block_solver.factor_blocks(kernel, strength / p, real), r, torch.zeros_like(r[:, :1])
            )
        w = (x.T @ a).to(f.dtype)  # [F+1, N]
        bias = torch.where(present, w[-1], EXCLUDED)
        return {**params, f"{head}.weight": w[:-1].T, f"{head}.bias": bias}

    return adapt


def svm_head(
    features: Predict,
    *,
    ways: int,
    head: str = "head",
    c: float = 0.1,
    iterations: int = 15,
    epsilon: float = 1.0,
) -> Adapt:
    """The head is Crammer and Singer's multi-class support vector machine, by its dual: W = Xᵀα, logits a·(fW).

    Lee, Maji, Ravichandran and Soatto, CVPR 2019, eq. 8–12 (MetaOptNet-SVM); log a is learned (`SVM`). There is no
    bias. A class without an example is excluded.

    Args:
        c: C, what an example outside its margin costs.
        iterations: of the interior point method (`svm_dual`).
        epsilon: ε of the kernel XXᵀ + εI. The paper has none, its authors' code 1: without it the optimum is not unique
            where there are more examples than features.
    """

    def adapt(params: Params, support: Batch) -> Params:
        x = predictions(features, params, support) * support.mask[:, None]
        y = _labels(support, ways)
        present = y.sum(0) > 0
        real = ((support.mask[:, None] > 0) & present).to(x.dtype)
        kernel = x @ x.T + epsilon * torch.eye(len(x), dtype=x.dtype, device=x.device)
        alpha = svm_dual(kernel, y, real, c=c, iterations=iterations)
        bias = torch.where(present, 0.0, EXCLUDED).to(x.dtype)
        return {**params, f"{head}.weight": params["svm:log_scale"].exp() * (x.T @ alpha).T, f"{head}.bias": bias}

    return adapt


def dual_ridge_head(features: Predict, *, ways: int, head: str = "head", lam: float = 50.0) -> Adapt:
    """MetaOptNet's ridge form: W = Xᵀz, z = 2(XXᵀ + λI)⁻¹Y, logits a·(fW), with log a learned (`SVM`).

    Lee et al., CVPR 2019, as in the authors' code, which minimises ½zᵀ(XXᵀ + λI)z − 2Yᵀz: twice R2D2's solution
    without its column of ones.
    """

    def adapt(params: Params, support: Batch) -> Params:
        x = predictions(features, params, support) * support.mask[:, None]
        z = 2 * _ridge(x @ x.T, _labels(support, ways), lam)
        weight = params["svm:log_scale"].exp() * (x.T @ z).T
        return {**params, f"{head}.weight": weight, f"{head}.bias": torch.zeros_like(weight[:, 0])}

    return adapt


def fresh_head(*, ways: int, width: int, head: str = "head") -> Adapt:
    """A head of zeros for so many classes, [N, F]: where fine-tuning starts when the classes are new."""

    def adapt(params: Params, support: Batch) -> Params:
        like = next(iter(params.values()))
        zeros = {f"{head}.weight": like.new_zeros(ways, width), f"{head}.bias": like.new_zeros(ways)}
        return {**params, **zeros}

    return adapt


def _with_ones(f: Tensor, support: Batch) -> Tensor:
    """Features with a column of ones, rows of padding zero: [B, F+1]."""
    return torch.cat([f, torch.ones_like(f[:, :1])], 1) * support.mask[:, None]


def _labels(support: Batch, ways: int) -> Tensor:
    """One-hot labels, rows of padding zero: [B, N]."""
    return one_hot(support.y, ways, support.mask.dtype) * support.mask[:, None]


def one_hot(y: Tensor, ways: int, dtype: torch.dtype) -> Tensor:
    """[B] class numbers -> [B, N], in a form that works under vmap, where F.one_hot fails."""
    return (y[:, None] == torch.arange(ways, device=y.device)).to(dtype)


def _ridge(kernel: Tensor, y: Tensor, penalty: float | Tensor) -> Tensor:
    """(K + λI)⁻¹Y: [B, N]."""
    solved: Tensor = torch.linalg.solve(kernel + penalty * torch.eye(len(kernel)).to(kernel), y)
    return solved
