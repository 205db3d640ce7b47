"""Rows for tests that ask PyTorch: none where it is not installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import TypeVar

Row = TypeVar("Row")


def where_installed(rows: Iterable[Row]) -> list[Row]:
    """The rows, or none of them: pytest then notes one skipped test."""
    return list(rows) if importlib.util.find_spec("torch") else []
