"""The command line: a thin, typed shell over the same factories."""

import sys

from seedbed.cli.app import app
from seedbed.errors import InputError


def main() -> None:
    """`seedbed ...`: what cannot be done is one line on standard error and exit code 2."""
    try:
        app()
    except InputError as error:
        print(f"seedbed: {error}", file=sys.stderr)
        sys.exit(2)
