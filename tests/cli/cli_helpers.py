"""The command as a process, and what every refusal looks like."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Protocol

from click.testing import Result

import gpucnn


class Invoke(Protocol):
    """The fixture `invoke`."""

    def __call__(self, *arguments: str | Path) -> Result: ...


class Process(Protocol):
    """The fixture `process`."""

    def __call__(
        self, *arguments: str | Path, **environment: str
    ) -> subprocess.CompletedProcess[str]: ...


def command(*arguments: str | Path) -> list[str]:
    """For subprocess."""
    return [sys.executable, "-m", "gpucnn", *map(str, arguments)]


def environment(**changes: str) -> dict[str, str]:
    """That of a new process; gpucnn is found where the tests found it, installed or not."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("GPUCNN_")}
    return {**inherited, "PYTHONPATH": str(Path(gpucnn.__file__).parents[1]), **changes}


def assert_one_line(result: Result, code: int = 1) -> str:
    """The command failed with one line on stderr, which is returned without its beginning."""
    assert result.exit_code == code, result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("gpucnn: error: "), result.stderr
    return lines[0].removeprefix("gpucnn: error: ")
