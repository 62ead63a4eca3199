"""Truth values in several spellings in one column: TRUE, True, yes, 1. Shapes: M values."""

from typing import Any

import numpy as np
import numpy.typing as npt

from seedbed.data.encoding.number_text import is_gap_word

TRUE_WORDS = ("true", "t", "yes", "y", "1", "ja", "j", "oui", "si", "sí", "on", "wahr", "vrai")
FALSE_WORDS = ("false", "f", "no", "n", "0", "nein", "non", "off", "falsch", "faux")
WHOLE_WORDS = {word for word in (*TRUE_WORDS, *FALSE_WORDS) if len(word) > 1}


def are_mixed_truths(values: npt.NDArray[Any]) -> bool:
    """Whether a column of texts [M] holds truth values only, and one of them in more than one spelling.

    Letters and digits count only beside a whole word: a column of T and F and Y may be codes.

    >>> are_mixed_truths(np.array(["True", "TRUE", "no", None], object))
    True
    >>> are_mixed_truths(np.array(["yes", "no"], object)), are_mixed_truths(np.array(["y", "t", "1"], object))
    (False, False)
    """
    found = {value for value in values.tolist() if isinstance(value, str) and not is_gap_word(value)}
    lower = {value.lower() for value in found}
    if len(found) < 2 or not lower <= {*TRUE_WORDS, *FALSE_WORDS} or not lower & WHOLE_WORDS:
        return False
    return len(lower & {*TRUE_WORDS}) > 1 or len(lower & {*FALSE_WORDS}) > 1 or len(found) > len(lower)


def as_truth(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[M] `true` and `false`; other values stay."""
    spelling = dict.fromkeys(TRUE_WORDS, "true") | dict.fromkeys(FALSE_WORDS, "false")
    found = np.empty(len(values), object)
    found[:] = [spelling.get(str(v).lower(), v) if v is not None and v == v else None for v in values.tolist()]
    return found
