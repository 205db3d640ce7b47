"""The devices that the table of cases runs on here."""

from __future__ import annotations

import pytest

import gpucnn


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
