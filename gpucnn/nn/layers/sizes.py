"""Arguments that are sizes."""

from __future__ import annotations

import operator
from typing import Any

Size = int | tuple[int, int]
"""One number for both directions, or (vertical, horizontal)."""


def positive(call: str, name: str, value: Any, least: int = 1) -> int:
    """`value` as an integer of at least `least`.

    Raises:
        TypeError: it is not an integer.
        ValueError: it is smaller.
    """
    if isinstance(value, bool):
        raise TypeError(f"{call}: {name} must be an integer, got {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{call}: {name} must be an integer, got {value!r}") from None
    if number < least:
        raise ValueError(f"{call}: {name} must be at least {least}, got {number}")
    return number
