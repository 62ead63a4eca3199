"""The one exception that is meant for people: it names the thing, the value, the reason and the way out."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Something that was asked for cannot be done. The command line prints it as one line and exits with 2."""


class Diverged(InputError):
    """Training left the finite numbers: a search for a learning rate may go on with the next."""


class Stopped(Exception):
    """A run was interrupted by its user, and can be gone on with: the message says how."""


def closest_name(value: str, known: Iterable[str]) -> str:
    """A hint that follows an unknown name: the closest known one, or all of them.

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
    """Inside, a table that this package wrote is taken apart: what is raised where it holds something else is one line.

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
