"""The training loop: batches, updates, validation, checkpoints."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import gpucnn
from gpucnn.core.device import Device
from gpucnn.data import DataLoader
from gpucnn.nn import Module
from gpucnn.nn import functional as F
from gpucnn.nn.utils import clip_grad_norm_
from gpucnn.optim import Optimizer
from gpucnn.optim.lr_scheduler import LRScheduler, OneCycleLR

from . import checkpoints
from .callbacks import Callback
from .history import EpochRecord
from .metrics import Evaluation, Loss, Metric, RunningMetrics, device_of, evaluate
from .resuming import capture, restore
from .state import State


class Trainer:
    """Trains a model: for each batch forward, loss, backward, update.

        trainer = Trainer(model, optimizer)
        history = trainer.fit(train_loader, validation_loader, epochs=10)
        loss, accuracy = trainer.evaluate(test_loader)

    With `checkpoint_dir`, the training can be killed at any moment and resumed: the rest then has
    the same bits as if nothing had happened.

    Args:
        model: the net; its output goes to `loss`.
        optimizer: made over the model's parameters.
        loss: `loss(outputs, labels)`, the mean over the batch.
        scheduler: its `step` is called after each batch for OneCycleLR, after each epoch for
            others, unless `scheduler_step` says otherwise.
        device: where to train; the model is moved there. By default where its parameters are.
        callbacks: objects with the methods of `Callback`.
        checkpoint_dir: a folder of this training alone; `checkpoint.safetensors` is written there
            whenever `checkpoint_seconds` have passed since the last one, and at the end.
        max_norm: clip the gradients to this common norm before each update.
        checkpoint_seconds: how much work may be lost; 0 writes after each batch.
        scheduler_step: "batch" or "epoch".
        capture: record the step and replay it (see `gpucnn.capture`). With a `checkpoint_dir` only
            by rewriting that keeps the bits, so that a resumed training has those of one that was
            never interrupted.
        run: plain data that tells this training from others (data set, model, rates ...); a
            checkpoint with another `run` is not resumed.

    Attributes:
        state: where the training is.
        loader_epoch: the training loader's number for the epoch in work.
        metrics: loss and accuracy of the epoch so far.
        history: the epochs done.
        stopped: whether `stop` ended the last `fit`.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self,
        model: Module,
        optimizer: Optimizer,
        loss: Loss = F.cross_entropy,
        scheduler: LRScheduler | None = None,
        device: str | Device | None = None,
        callbacks: Iterable[Callback] = (),
        checkpoint_dir: str | Path | None = None,
        max_norm: float | None = None,
        *,
        checkpoint_seconds: float = 30.0,
        scheduler_step: str | None = None,
        capture: bool = False,
        run: Mapping[str, Any] | None = None,
    ) -> None:
        if scheduler_step not in (None, "batch", "epoch"):
            raise ValueError(
                f"Trainer: scheduler_step must be 'batch' or 'epoch', got {scheduler_step!r}"
            )
        if max_norm is not None and not max_norm > 0:
            raise ValueError(f"Trainer: max_norm must be positive, got {max_norm}")
        if not checkpoint_seconds >= 0:
            raise ValueError(
                f"Trainer: checkpoint_seconds must be at least 0, got {checkpoint_seconds}"
            )
        self.device = device_of(model) if device is None else Device(device)
        self.model = model.to(self.device)
        self.optimizer = optimizer
        self.loss = loss
        self.scheduler = scheduler
        self.callbacks = list(callbacks)
        self.max_norm = max_norm
        self.checkpoint_path = (
            None if checkpoint_dir is None else Path(checkpoint_dir) / checkpoints.FILE
        )
        self.checkpoint_seconds = checkpoint_seconds
        per_batch = isinstance(scheduler, OneCycleLR)
        self.scheduler_step = scheduler_step or ("batch" if per_batch else "epoch")
        self.run = dict(run or {})
        self.state = State()
        self.metrics = RunningMetrics()
        self.history: list[EpochRecord] = []
        self.stopped = False
        self.loader_epoch = 0
        self._saved_at = 0.0
        self._compute: Any = self._update
        if capture:
            self._compute = gpucnn.capture(
                self._update, fuse=True if self.checkpoint_path is None else "exact"
            )

    # ---- training

    def fit(
        self,
        train_loader: Any,
        validation_loader: Any = None,
        *,
        epochs: int,
        resume: bool = False,
    ) -> list[EpochRecord]:
        """Train for `epochs` epochs, or, when resuming, up to that many.

        Args:
            train_loader: batches (images, labels), with a length; a `DataLoader` as a rule. Another
                must give the same batches again for a resumed training to have the same bits.
            validation_loader: evaluated after each epoch.
            epochs: at least 1.
            resume: go on from the checkpoint, or begin where there is none.

        Returns:
            The history, a record for each epoch; those before a resumption included.

        Raises:
            ValueError: `epochs` or the loaders do not fit, `resume` without `checkpoint_dir`.
            CheckpointError: the checkpoint is damaged or of another training.
        """
        if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
            raise ValueError(f"fit: epochs must be a positive integer, got {epochs!r}")
        if resume and self.checkpoint_path is None:
            raise ValueError("fit: resume needs a Trainer with checkpoint_dir")
        batches = len(train_loader)
        if batches == 0:
            raise ValueError("fit: the training loader has no batches (drop_last with few images?)")
        self.stopped = False
        self.history = []
        self.metrics = RunningMetrics()
        self.state = State(0, epochs, 0, batches)
        self.loader_epoch = getattr(train_loader, "epoch", 0)
        if self.checkpoint_path is not None:
            checkpoints.prepare(self.checkpoint_path)
            if resume and self.checkpoint_path.exists():
                restore(self, checkpoints.load(self.checkpoint_path), self.checkpoint_path)
        self._saved_at = time.monotonic()
        with ExitStack() as stack:
            for callback in self.callbacks:
                stack.callback(callback.on_fit_end, self)
                callback.on_fit_start(self)
            while self.state.epoch < epochs and not self.stopped:
                self._epoch(train_loader, validation_loader)
            # A state in memory that nobody saved yet; after a stop, the reason for stopping.
            if self.checkpoint_path is not None:
                self.save_checkpoint()
        return self.history

    def stop(self) -> None:
        """Let `fit` return after the batch in work; may be called from a signal handler."""
        self.stopped = True

    def evaluate(self, loader: Any, metrics: Iterable[Metric] = ()) -> Evaluation:
        """The mean loss and the accuracy over a loader, in evaluation mode; see `evaluate`."""
        return evaluate(self.model, loader, self.loss, self.device, metrics)

    def _epoch(self, train_loader: Any, validation_loader: Any) -> None:
        state = self.state
        self.model.train()
        for callback in self.callbacks:
            callback.on_epoch_start(self)
        began = time.perf_counter() - state.seconds
        for images, labels in _from_batch(train_loader, self.loader_epoch, state.batch):
            self._step(images, labels)
            state.batch += 1
            state.seconds = time.perf_counter() - began
            for callback in self.callbacks:
                callback.on_batch_end(self)
            if self._is_checkpoint_due():
                self.save_checkpoint()
            if self.stopped:
                break
        if state.batch < state.batches:
            if self.stopped:
                return
            raise ValueError(
                f"fit: the training loader gave {state.batch} batches, its length says "
                f"{state.batches}"
            )
        self._finish_epoch(validation_loader, began)

    def _step(self, images: Any, labels: Any) -> None:
        images, labels = images.to(self.device), labels.to(self.device)
        loss, outputs = self._compute(images, labels)
        if self.scheduler is not None and self.scheduler_step == "batch":
            self.scheduler.step()
        self.metrics.update(loss, outputs, labels)

    def _update(self, images: Any, labels: Any) -> tuple[Any, Any]:
        """One update of the parameters; the loss and the outputs of the net before it."""
        self.optimizer.zero_grad()
        outputs = self.model(images)
        loss = self.loss(outputs, labels)
        loss.backward()
        if self.max_norm is not None:
            clip_grad_norm_(self.model.parameters(), self.max_norm)
        self.optimizer.step()
        return loss.detach(), outputs.detach()

    def _finish_epoch(self, validation_loader: Any, began: float) -> None:
        state = self.state
        train = self.metrics.read()  # waits for the device: only now is the time that of the work
        state.seconds = time.perf_counter() - began
        validation = None if validation_loader is None else self.evaluate(validation_loader)
        record = EpochRecord(
            epoch=state.epoch + 1,
            loss=train.loss,
            accuracy=train.accuracy,
            validation_loss=None if validation is None else validation.loss,
            validation_accuracy=None if validation is None else validation.accuracy,
            lr=float(self.optimizer.param_groups[0]["lr"]),
            images_per_second=self.metrics.count / max(state.seconds, 1e-9),
            seconds=time.perf_counter() - began,
        )
        if self.scheduler is not None and self.scheduler_step == "epoch":
            self.scheduler.step()
        self.history.append(record)
        self.metrics = RunningMetrics()
        state.epoch, state.batch, state.seconds = state.epoch + 1, 0, 0.0
        self.loader_epoch += 1
        for callback in self.callbacks:
            callback.on_epoch_end(self, record)
        if self._is_checkpoint_due():
            self.save_checkpoint()

    # ---- checkpoints

    def _is_checkpoint_due(self) -> bool:
        if self.checkpoint_path is None:
            return False
        return time.monotonic() - self._saved_at >= self.checkpoint_seconds

    def save_checkpoint(self) -> None:
        """Write the state of the training to `checkpoint_dir`, now.

        Raises:
            ValueError: the Trainer has no `checkpoint_dir`.
            OSError: it cannot be written; the one before is untouched.
        """
        if self.checkpoint_path is None:
            raise ValueError("save_checkpoint: the Trainer has no checkpoint_dir")
        checkpoints.save(capture(self), self.checkpoint_path)
        self._saved_at = time.monotonic()


def _from_batch(loader: Any, epoch: int, batch: int) -> Iterable[Any]:
    """The batches of an epoch from number `batch` on."""
    if isinstance(loader, DataLoader):
        loader.set_epoch(epoch, batch)
        return loader
    if hasattr(loader, "set_epoch"):
        loader.set_epoch(epoch)
    return islice(loader, batch, None)
