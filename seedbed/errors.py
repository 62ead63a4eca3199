"""Errors for people: each names the object, its value, the reason and the way out."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """A request cannot be fulfilled. The command line prints the text as one line and exits with status 2."""


class Diverged(InputError):
    """Training produced NaN or infinite numbers; a learning-rate search may continue with the next rate."""


class Stopped(Exception):
    """The user interrupted a run that can be resumed; the text says how."""


def closest_name(value: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: the closest known one, or all known ones.

    >>> closest_name("fedavgg", ["fedavg", "fedprox"])
    "did you mean 'fedavg'?"
    >>> closest_name("x", ["fedavg", "fedprox"])
    'choose from fedavg, fedprox'
    """
    known = sorted(known)
    close = difflib.get_close_matches(value, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"choose from {', '.join(known)}"


@contextmanager
def as_written(path: object, way: str = "restore it") -> Iterator[None]:
    """Within this context, parsing errors of a file that this package wrote become one `InputError`.

    Args:
        path: the file.
        way: the way out.

    >>> with as_written("a.json"):
    ...     {}["round"]
    Traceback (most recent call last):
    seedbed.errors.InputError: a.json is not as it was written (KeyError: 'round'): restore it
    """
    try:
        yield
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise InputError(f"{path} is not as it was written ({type(error).__name__}: {error}): {way}") from error
