"""The progress of a training: a live line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TextIO

from .callbacks import Callback
from .history import EpochRecord
from .metrics import Evaluation

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from .trainer import Trainer

_LIVE_SECONDS = 0.25
_PLAIN_SECONDS = 20.0


class ProgressDisplay(Callback):
    """Shows epoch, loss, accuracy, images/s and the time left.

    Each epoch leaves one line. In a terminal a bar shows the epoch in work; elsewhere a line
    appears now and then when an epoch is long.

    Args:
        stream: where to; by default standard output.
        live: a bar or not; by default whether `stream` is a terminal.
    """

    def __init__(self, stream: TextIO | None = None, live: bool | None = None) -> None:
        self.stream = sys.stdout if stream is None else stream
        self.live = self.stream.isatty() if live is None else live
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._numbers = ""
        self._shown = 0.0
        self._began = 0.0
        self._done_before = 0

    def on_fit_start(self, trainer: Trainer) -> None:
        """Start the bar, where there is one."""
        self._began = self._shown = time.monotonic()
        self._done_before = _batches_done(trainer)
        if not self.live:
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[numbers]}"),
            console=Console(file=self.stream, force_terminal=True),
            refresh_per_second=4,
            expand=True,
            transient=True,
        )
        self._progress.start()

    def on_epoch_start(self, trainer: Trainer) -> None:
        """Begin the bar of the epoch anew."""
        if self._progress is None:
            return
        state = trainer.state
        if self._task is not None:
            self._progress.remove_task(self._task)
        # The last numbers stay until there are new ones: epochs may be shorter than a glance.
        self._task = self._progress.add_task(
            "",
            total=state.batches,
            completed=state.batch,
            numbers=self._numbers,
            epoch=_epoch(trainer),
        )

    def on_batch_end(self, trainer: Trainer) -> None:
        """Show the numbers, unless that was done a moment ago."""
        now = time.monotonic()
        if now - self._shown < (_LIVE_SECONDS if self.live else _PLAIN_SECONDS):
            return
        self._shown = now
        state = trainer.state
        rate = trainer.metrics.count / max(state.seconds, 1e-9)
        self._numbers = "  ".join(
            [
                _numbers(trainer.metrics.read()),
                f"{rate:,.0f} images/s",
                self._left(trainer, now),
            ]
        )
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=state.batch, numbers=self._numbers)
        else:
            share = state.batch / state.batches
            self._line(f"epoch {_epoch(trainer)} {share:4.0%}  {self._numbers}")

    def on_epoch_end(self, trainer: Trainer, record: EpochRecord) -> None:
        """Leave the line of the epoch."""
        epochs = trainer.state.epochs
        parts = [
            f"epoch {record.epoch:>{len(str(epochs))}}/{epochs}",
            _numbers(Evaluation(record.loss, record.accuracy)),
        ]
        if record.validation_loss is not None:
            validation = Evaluation(record.validation_loss, record.validation_accuracy)
            parts.append(f"validation {_numbers(validation)}")
        parts.append(f"{record.images_per_second:,.0f} images/s")
        parts.append(f"{record.seconds:.1f} s")
        if record.epoch < epochs:
            parts.append(self._left(trainer, time.monotonic()))
        if not self.live:
            self._shown = time.monotonic()
        self._line("  ".join(parts))

    def on_fit_end(self, trainer: Trainer) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = self._task = None

    def _left(self, trainer: Trainer, now: float) -> str:
        state = trainer.state
        done = _batches_done(trainer)
        each = (now - self._began) / max(done - self._done_before, 1)
        return f"{_duration(each * (state.epochs * state.batches - done))} left"

    def _line(self, text: str) -> None:
        if self._progress is not None:
            self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            print(text, file=self.stream, flush=True)


def _batches_done(trainer: Trainer) -> int:
    return trainer.state.epoch * trainer.state.batches + trainer.state.batch


def _epoch(trainer: Trainer) -> str:
    return f"{trainer.state.epoch + 1}/{trainer.state.epochs}"


def _numbers(values: Evaluation) -> str:
    loss = f"loss {values.loss:.4f}"
    return loss if values.accuracy is None else f"{loss}  accuracy {values.accuracy:6.2%}"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"
