"""The devices that the table of cases runs on here, and what tests have to say at the end."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

import gpucnn

_MUTANTS = re.compile(r"mutants of \S+: (\d+) of (\d+) exposed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device", action="append", help="run the cases on this device too (may be repeated)"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "device" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--device")
        devices = chosen or (["cpu", "cuda"] if gpucnn.cuda.is_available() else ["cpu"])
        metafunc.parametrize("device", devices)


@pytest.fixture(autouse=True)
def fresh_seed() -> None:
    gpucnn.manual_seed(0)


@pytest.fixture
def say(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Print a line at the end of the run, also when it was spread over processes."""
    return lambda text: record_property("summary", text)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    said = [
        str(text)
        for reports in terminalreporter.stats.values()
        for report in reports
        for key, text in getattr(report, "user_properties", ())
        if key == "summary"
    ]
    if said:
        terminalreporter.section("figures")
        terminalreporter.write_line("\n".join(sorted(set(said))))
    counts = [match.groups() for text in said if (match := _MUTANTS.match(text))]
    if counts:
        exposed, judged = (sum(map(int, column)) for column in zip(*counts))
        share = 100 * exposed / judged
        terminalreporter.write_line(f"mutants: {exposed} of {judged} exposed ({share:.1f} %)")
