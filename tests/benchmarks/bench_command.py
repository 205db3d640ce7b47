"""The command as the fixture `bench` gives it."""

from __future__ import annotations

from collections.abc import Callable

from click.testing import CliRunner, Result

from gpucnn.cli import main

Bench = Callable[..., Result]

_QUICK = {"--seconds": "0.002", "--runs": "2", "--device": "cpu", "--threads": "1"}


def run(*arguments: str) -> Result:
    """`gpucnn bench` with these arguments, quickly and on one thread where they say no other."""
    quick = [part for pair in _QUICK.items() if pair[0] not in arguments for part in pair]
    return CliRunner().invoke(main, ["bench", *quick, *arguments])
