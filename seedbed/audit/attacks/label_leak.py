"""Which classes were there, from the update of the head: Zhao, Mopuri and Bilen, "iDLG", 2020, arXiv 2001.02610; Yin et
al., CVPR 2021, arXiv 2104.07586, for more than one example.

Under cross-entropy the gradient of the head's bias is mean_b(softmax(z_b) − onehot(y_b)), negative only for classes
that are there. Shapes: N classes.
"""

import torch
from torch import Tensor


def present_classes(bias_gradient: Tensor) -> Tensor:
    """Whether each class was among the labels, [N] -> [N] of bool. Exact for one example."""
    return bias_gradient < 0


def agreement(found: Tensor, labels: Tensor) -> float:
    """The share of the classes about which `present` is right. [N] against labels [B]."""
    truth = (labels[:, None] == torch.arange(len(found), device=labels.device)).any(0)
    return float((found == truth).double().mean())


def balanced_accuracy(found: Tensor, held: Tensor) -> float:
    """The mean of the shares told right of the classes that are there and of those that are not, [N] each: 0.5 for who
    says the same of all."""
    right = (found == held).double()
    return float((right[held].mean() + right[~held].mean()) / 2)
