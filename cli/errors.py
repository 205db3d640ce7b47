"""One clear line for what a user can mend, and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import click

USER_ERRORS = (ValueError, TypeError, RuntimeError, OSError, MemoryError)
FAILED, USAGE, INTERRUPTED = 1, 2, 130


class Interrupted(Exception):
    """The user stopped a command that could put its things in order; the text says what is left."""


def run_and_exit(call: Callable[[], Any]) -> NoReturn:
    """Run a click command to its end and exit: 0, or 1 for an error, 2 for wrong usage, 130 for
    Ctrl-C.

    What the library raises in answer to arguments becomes `gpucnn: error: ...`; with
    GPUCNN_TRACEBACK=1 in the environment the traceback comes first. Other exceptions are bugs, and
    are shown as such.
    """
    try:
        code = call()
        sys.stdout.flush()
    except click.UsageError as error:
        hint = f" (try '{error.ctx.command_path} --help')" if error.ctx else ""
        _fail(f"{error.format_message()}{hint}", USAGE)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _say("gpucnn: interrupted")
        sys.exit(INTERRUPTED)
    except Interrupted as notice:
        _say(f"gpucnn: interrupted: {notice}")
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader (such as `head`) has what it wanted; nothing may be flushed to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    except USER_ERRORS as error:
        _fail(_text(error), FAILED)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(text: str, code: int) -> NoReturn:
    if os.environ.get("GPUCNN_TRACEBACK") == "1":
        import traceback

        traceback.print_exc()
    _say(f"gpucnn: error: {' '.join(text.split())}")
    sys.exit(code)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _text(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        return f"out of memory: {error}" if str(error) else "out of memory"
    return str(error) or type(error).__name__
