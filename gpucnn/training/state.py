"""Where a training is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class State:
    """Where a training is.

    Attributes:
        epoch: the epoch in work, counted from 0; equal to `epochs` at the end.
        epochs: how many `fit` was asked for.
        batch: batches of the epoch that are done.
        batches: batches an epoch has.
        seconds: of training in this epoch, without validation.
    """

    epoch: int = 0
    epochs: int = 0
    batch: int = 0
    batches: int = 0
    seconds: float = 0.0
