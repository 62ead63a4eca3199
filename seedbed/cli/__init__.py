"""The command line: a thin, typed shell over the same factories."""

import errno
import io
import sys
from typing import Any

import typer

from seedbed.cli.commands import app
from seedbed.cli.console import printable
from seedbed.errors import InputError, Stopped

USAGE_ERROR: Any = typer.BadParameter.__mro__[2]  # click's ClickException, whoever carries click
LINE_END, ESCAPED = "\n", "\\n"
UNPRINTED = (errno.ENOSPC, errno.EIO, errno.EDQUOT)
INTERRUPTED = 130  # what shells say of a command that Ctrl-C ended


def main() -> None:
    """`seedbed ...`: what cannot be done is one line on standard error and exit code 2; after Ctrl-C it is 130."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # paths may hold bytes that are no text
    try:
        code = app(prog_name="seedbed", standalone_mode=False)
    except InputError as error:
        code = _say(str(error), 2)
    except USAGE_ERROR as error:
        code = _usage(error)
    except Stopped as stop:
        code = _say(str(stop), INTERRUPTED)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except OSError as error:
        if error.errno not in UNPRINTED or error.filename is not None:
            raise
        sys.stdout = None  # what is left cannot be written either
        code = _say(f"cannot write to standard output: {error.strerror}; free some space, or print elsewhere", 2)
    sys.exit(code)


def _usage(error: Any) -> int:
    """What was wrong with the words of the command; without any words its help is shown (by rich, or as the text)."""
    text = error.format_message().strip()
    if not text or "\n" in text:
        print(text, end="", file=sys.stderr)
        return 2
    return _say(f"{text.rstrip('.?')}; see `{error.ctx.command_path} --help`", 2)


def _say(line: str, code: int) -> int:
    print(f"seedbed: {printable(line).replace(LINE_END, ESCAPED)}", file=sys.stderr)
    return code
