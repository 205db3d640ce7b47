"""From a trainer to a checkpoint and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gpucnn import random

from .checkpoints import Checkpoint, CheckpointError
from .history import EpochRecord

if TYPE_CHECKING:
    from .trainer import Trainer


def capture(trainer: Trainer) -> Checkpoint:
    """The state of the training between two batches. On a GPU this waits for the device."""
    state, scheduler = trainer.state, trainer.scheduler
    loss, correct = trainer.metrics.state()
    return Checkpoint(
        model=trainer.model.state_dict(),
        optimizer=trainer.optimizer.state_dict(),
        scheduler=None if scheduler is None else scheduler.state_dict(),
        epoch=state.epoch,
        batch=state.batch,
        batches=state.batches,
        loader_epoch=trainer.loader_epoch,
        random=random.get_state(),
        running={
            "loss": loss,
            "correct": correct,
            "count": trainer.metrics.count,
            "seconds": state.seconds,
        },
        history=[record.as_dict() for record in trainer.history],
        kinds=_kinds(trainer),
        run=trainer.run,
    )


def restore(trainer: Trainer, checkpoint: Checkpoint, path: Path) -> None:
    """Put a training where it was when the checkpoint was made.

    Raises:
        CheckpointError: it is of another training; `path` is named.
    """
    _check(trainer, checkpoint, path)
    state, running = trainer.state, checkpoint.running
    try:
        history = [EpochRecord.from_dict(values) for values in checkpoint.history]
        trainer.model.load_state_dict(checkpoint.model)
        trainer.optimizer.load_state_dict(checkpoint.optimizer)
        if trainer.scheduler is not None:
            trainer.scheduler.load_state_dict(dict(checkpoint.scheduler or {}))
        trainer.metrics.load_state(
            running["loss"], running["correct"], running["count"], trainer.device
        )
        state.seconds = running["seconds"]
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: does not fit this training: {error}") from None
    random.set_state(checkpoint.random)
    trainer.history = history
    trainer.loader_epoch = checkpoint.loader_epoch
    state.epoch, state.batch = checkpoint.epoch, checkpoint.batch


def _check(trainer: Trainer, checkpoint: Checkpoint, path: Path) -> None:
    here = {**_kinds(trainer), **trainer.run}
    there = {**checkpoint.kinds, **checkpoint.run}
    for name in sorted({*here, *there}):
        if here.get(name) != there.get(name):
            raise CheckpointError(
                f"{path}: another training: {name} is {there.get(name)!r} there and "
                f"{here.get(name)!r} here"
            )
    if checkpoint.batch and checkpoint.batches != trainer.state.batches:
        raise CheckpointError(
            f"{path}: made in the middle of an epoch of {checkpoint.batches} batches, the loader "
            f"has {trainer.state.batches}"
        )


def _kinds(trainer: Trainer) -> dict[str, str]:
    parts = {
        "model class": trainer.model,
        "optimizer class": trainer.optimizer,
        "scheduler class": trainer.scheduler,
    }
    return {name: type(part).__name__ for name, part in parts.items()}
