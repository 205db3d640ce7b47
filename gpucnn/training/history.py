"""One line of a training's history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch gave.

    Attributes:
        epoch: counted from 1.
        loss: the mean over the training images, as they were met.
        accuracy: likewise; None where it has no meaning.
        validation_loss: after the epoch; None without a validation loader.
        validation_accuracy: likewise.
        lr: the rate of the first parameter group at the end of the epoch.
        images_per_second: of training alone.
        seconds: of training and validation.
    """

    epoch: int
    loss: float
    accuracy: float | None
    validation_loss: float | None
    validation_accuracy: float | None
    lr: float
    images_per_second: float
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EpochRecord:
        """The record that `as_dict` described.

        Raises:
            KeyError: a field is missing.
        """
        return cls(**{field.name: values[field.name] for field in fields(cls)})


COLUMNS = tuple(field.name for field in fields(EpochRecord))
