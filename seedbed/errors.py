"""Errors for people: each names the object, its value, the reason and the way out."""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager


class InputError(ValueError):
    """A request cannot be fulfilled. The command line prints the text as one line and exits with status 2."""


class Diverged(InputError):
    """Training produced NaN or infinite numbers; a learning-rate search may continue with the next rate."""


class Stopped(Exception):
    """The user interrupted a run that can be resumed; the text says how."""


MOST_NAMES, LONGEST_HINT = 5, 200  # of a hint: names, characters
CLOSE, CLOSE_SEGMENT = 0.6, 0.75  # likeness of whole names, and of their last segments
Meanings = Mapping[str, Iterable[str]]  # a word that people use -> names that it may mean
NO_MEANINGS: Meanings = {}


def closest_name(value: str, known: Iterable[str], meanings: Meanings = NO_MEANINGS) -> str:
    """A hint that follows an unknown name: the closest known names, at most five; or some to choose from.

    Args:
        value: the unknown name.
        known: the names that are known.
        meanings: what other words may mean.

    >>> closest_name("fedavgg", ["fedavg", "fedprox"])
    "did you mean 'fedavg'?"
    >>> closest_name("lr", ["local.lr", "outer.lr", "rounds"])
    "did you mean 'local.lr' or 'outer.lr'?"
    >>> closest_name("x", ["fedavg", "fedprox"])
    'choose from fedavg, fedprox'
    """
    known = sorted(set(known))
    close = near_names(value, known, meanings)
    for count in range(MOST_NAMES, 1, -1):
        hint = _did_you_mean(close[:count]) if close else _choose_from(known, count)
        if len(hint) <= LONGEST_HINT:
            return hint
    return (_did_you_mean(close[:1]) if close else _choose_from(known, 1))[:LONGEST_HINT]


def near_names(value: str, known: Sequence[str], meanings: Meanings = NO_MEANINGS) -> list[str]:
    """Known names that are like a value: what it means elsewhere; the same last segment; alike as a whole or in it."""
    last = value.rpartition(".")[2]
    segments = {name: name.rpartition(".")[2] for name in known}
    near = [name for name in meanings.get(last, ()) if name in segments]
    near += [name for name, segment in segments.items() if segment == last]
    near += difflib.get_close_matches(value, known, n=MOST_NAMES, cutoff=CLOSE)
    like = difflib.get_close_matches(last, set(segments.values()), n=MOST_NAMES, cutoff=CLOSE_SEGMENT)
    near += [name for segment in like for name in known if segments[name] == segment]
    return list(dict.fromkeys(near))


def _did_you_mean(names: Sequence[str]) -> str:
    *first, last = (repr(name) for name in names)
    return f"did you mean {', '.join(first)} or {last}?" if first else f"did you mean {last}?"


def _choose_from(known: Sequence[str], count: int) -> str:
    more = f" and {len(known) - count} more" if len(known) > count else ""
    return f"choose from {', '.join(known[:count])}{more}"


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
