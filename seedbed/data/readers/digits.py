"""Handwritten digits by writer, at hand without any file: scikit-learn's, which are 14 filled forms."""

import numpy as np
import torch

from seedbed.data.population import Population
from seedbed.data.readers import folder, targets

# Each writer filled one form with the same 130 digits: the target sequence starts afresh at these rows.
FORMS = (0, 130, 256, 386, 516, 646, 776, 906, 1029, 1157, 1287, 1415, 1545, 1667)
NEVER_SEEN = 4


def read(*, episodic: bool = True) -> Population:
    """1,797 images [1, 8, 8] of 0…1 by 14 writers, 10 classes; the last four writers are set apart.

    Args:
        episodic: tasks are episodes, classes and their order drawn afresh; False: labels mean the same for all writers,
            as they do, and a writer is a task.

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI 1998, CC BY 4.0 (the test
    part).

    >>> len(read()), read().x.shape, read().unseen[0]
    (14, torch.Size([1797, 1, 8, 8]), 'writer11')
    """
    from sklearn.datasets import load_digits

    images, digit = load_digits(return_X_y=True)
    x = torch.as_tensor(images / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)  # 0…16 ink in 4×4 pixels
    sizes = np.diff([*FORMS, len(digit)])
    names = [f"writer{i + 1:02d}" for i in range(len(FORMS))]
    target = targets.as_classes(digit)
    how = {"size": [8, 8], "channels": 1, "ink_below": None}
    encoding = folder.encoding_of(x, how, target, episodic)
    encoding["input"]["range"] = [0, 1]
    return Population.from_arrays(
        x,
        target.y,
        np.repeat(names, sizes),
        classes=target.classes,
        episodic=episodic,
        unseen=tuple(names[-NEVER_SEEN:]),
        source="digits",
        encoding=encoding,
    )
