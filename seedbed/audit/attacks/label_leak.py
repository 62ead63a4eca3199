"""Label inference from the update of the head: Zhao, Mopuri and Bilen, "iDLG", 2020, arXiv 2001.02610; Yin et al., CVPR
2021, arXiv 2104.07586, for more than one example.

Under cross-entropy the gradient of the head's bias is mean_b(softmax(z_b) − onehot(y_b)), negative only for present
classes. Shapes: N classes.
"""

import torch
from torch import Tensor


def present_classes(bias_gradient: Tensor) -> Tensor:
    """Whether each class was among the labels, [N] → [N] of bool. Exact for one example."""
    return bias_gradient < 0


def agreement(guess: Tensor, labels: Tensor) -> float:
    """Accuracy of guessed class presence [N] against labels [B]."""
    truth = (labels[:, None] == torch.arange(len(guess), device=labels.device)).any(0)
    return float((guess == truth).double().mean())


def balanced_accuracy(guess: Tensor, held: Tensor) -> float:
    """Balanced accuracy of class presence, [N] each; 0.5 for a constant guess."""
    right = (guess == held).double()
    return float((right[held].mean() + right[~held].mean()) / 2)
