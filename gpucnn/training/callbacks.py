"""What may happen around a training without the loop knowing."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING

from gpucnn.serialization import write_atomically

from .history import COLUMNS, EpochRecord

if TYPE_CHECKING:
    from .trainer import Trainer


class Callback:
    """Base of callbacks: override what is wanted.

    `trainer.state` says where the training is; `trainer.metrics.read()` gives loss and accuracy of
    the epoch so far, and on a GPU waits for the device, so `on_batch_end` should do it seldom.
    """

    def on_fit_start(self, trainer: Trainer) -> None:
        """Before the first batch of a `fit`."""

    def on_epoch_start(self, trainer: Trainer) -> None:
        """Before the first batch of an epoch, also of one that is resumed."""

    def on_batch_end(self, trainer: Trainer) -> None:
        """After each update."""

    def on_epoch_end(self, trainer: Trainer, record: EpochRecord) -> None:
        """After an epoch and its validation."""

    def on_fit_end(self, trainer: Trainer) -> None:
        """When `fit` ends, by an error too."""


class HistoryCsv(Callback):
    """Writes the history to a CSV file after each epoch; it is always whole.

    Args:
        path: the file; replaced.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def on_epoch_end(self, trainer: Trainer, record: EpochRecord) -> None:
        """Write all epochs so far."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, _table(trainer.history).encode())


class StopWhenDiverged(Callback):
    """Ends a training whose loss is no longer a finite number."""

    def on_epoch_end(self, trainer: Trainer, record: EpochRecord) -> None:
        """Check the loss of the epoch.

        Raises:
            RuntimeError: it is not finite.
        """
        if not math.isfinite(record.loss):
            raise RuntimeError(
                f"fit: the loss became {record.loss} in epoch {record.epoch}; try a lower learning "
                f"rate than {trainer.optimizer.param_groups[0].get('max_lr', record.lr):g}"
            )


def _table(history: list[EpochRecord]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    # Numbers as Python writes them: they read back to the same bits.
    writer.writerows(["" if v is None else v for v in r.as_dict().values()] for r in history)
    return text.getvalue()
