"""A training small enough to be repeated often, and a digest of everything that it leaves.

As a program it is the process that the tests kill:

    python small_training.py FOLDER [MOMENT COUNT]

trains with a checkpoint in FOLDER after each batch, resumes what is there, and prints the digest;
with MOMENT it kills itself (SIGKILL) the COUNT-th time that this moment of a write comes.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import gpucnn
from gpucnn import nn, optim
from gpucnn.data import ArrayDataset, DataLoader, RandomCrop
from gpucnn.training import Callback, Trainer

EPOCHS = 3
BATCHES = 4


def dataset(count: int = 36) -> ArrayDataset:
    rng = np.random.default_rng(5)
    labels = np.arange(count) % 3
    images = rng.random((count, 1, 6, 6), np.float32) * 0.5
    images[np.arange(count), 0, labels * 2] += 0.5
    return ArrayDataset(images, labels)


def make_model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(36, 3),
    )


def make_optimizer(name: str, model: nn.Module) -> optim.Optimizer:
    if name == "sgd":
        return optim.SGD(model.parameters(), 0.05, 0.9, weight_decay=1e-3, nesterov=True)
    kind = {"adam": optim.Adam, "adamw": optim.AdamW}[name]
    return kind(model.parameters(), 0.01, weight_decay=1e-3)


def make_scheduler(name: str, optimizer: optim.Optimizer) -> Any:
    if name == "one cycle":
        return optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=EPOCHS * BATCHES)
    if name == "step":
        return optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    return None


def make_trainer(
    folder: Path | None,
    optimizer: str = "sgd",
    scheduler: str = "one cycle",
    callbacks: list[Callback] | None = None,
    **options: Any,
) -> Trainer:
    """A trainer as a new process would make it: another seed each time, so that resuming must
    restore everything."""
    gpucnn.manual_seed(1)
    model = make_model()
    chosen = make_optimizer(optimizer, model)
    return Trainer(
        model,
        chosen,
        scheduler=make_scheduler(scheduler, chosen),
        checkpoint_dir=folder,
        callbacks=callbacks or [],
        **options,
    )


def loaders() -> tuple[DataLoader, DataLoader]:
    data = dataset()
    train = DataLoader(data, 9, shuffle=True, seed=2, transform=RandomCrop(6, 1))
    return train, DataLoader(data, 16)


def digest(trainer: Trainer) -> str:
    """Of parameters, buffers, optimizer, schedule, random state and history, to the last bit."""
    text = hashlib.sha256()
    for name, value in trainer.model.state_dict().items():
        text.update(name.encode() + np.ascontiguousarray(value.numpy()).tobytes())
    state = trainer.optimizer.state_dict()
    for number, values in sorted(state["state"].items()):
        for name, value in sorted(values.items()):
            text.update(f"{number} {name}".encode() + np.ascontiguousarray(value).tobytes())
    text.update(repr([g["lr"] for g in state["param_groups"]]).encode())
    if trainer.scheduler is not None:
        text.update(repr(trainer.scheduler.last_epoch).encode())
    text.update(repr(gpucnn.random.get_state()).encode())
    for record in trainer.history:
        values = record.as_dict()
        del values["seconds"], values["images_per_second"]
        text.update(repr(values).encode())
    return text.hexdigest()


def kill_at(moment: str, count: int) -> None:
    """Arrange for SIGKILL at one moment of the `count`-th write of a checkpoint.

    "half": half of the file is written; "whole": all of it, not yet renamed; "renamed": renamed,
    not yet on the disk.
    """
    left = count
    fsync, replace = os.fsync, os.replace

    def tick(kill: Callable[[], None]) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            kill()
            os.kill(os.getpid(), signal.SIGKILL)

    def fsync_then(handle: int) -> None:
        is_file = os.path.isfile(os.readlink(f"/proc/self/fd/{handle}"))
        if is_file and moment == "half":
            tick(lambda: os.truncate(handle, os.fstat(handle).st_size // 2))
        fsync(handle)

    def replace_then(source: Any, target: Any) -> None:
        if moment == "whole":
            tick(lambda: None)
        replace(source, target)
        if moment == "renamed":
            tick(lambda: None)

    os.fsync, os.replace = fsync_then, replace_then  # type: ignore[assignment]


def main(folder: str, moment: str = "", count: str = "0") -> None:
    if moment:
        kill_at(moment, int(count))
    trainer = make_trainer(Path(folder), checkpoint_seconds=0.0)
    trainer.fit(*loaders(), epochs=EPOCHS, resume=True)
    print(digest(trainer))


if __name__ == "__main__":
    main(*sys.argv[1:])
