"""One training as `gpucnn train` does it: settings, data, loop, results in a folder."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import gpucnn
from gpucnn.cli import options
from gpucnn.cli.errors import Interrupted
from gpucnn.core.device import Device
from gpucnn.data import DataLoader, Splits, canonical_name
from gpucnn.serialization import write_atomically
from gpucnn.training import (
    RECIPES,
    HistoryCsv,
    Preprocessing,
    ProgressDisplay,
    StopWhenDiverged,
    Trainer,
    checkpoints,
)
from gpucnn.training.recipes import make_optimizer, make_schedule

if TYPE_CHECKING:
    from gpucnn.nn import Module

MODEL, HISTORY = "model.safetensors", "history.csv"
_EVALUATION_BATCH = 500


@dataclass(frozen=True)
class Settings:
    """Everything that decides about the numbers of a training, but for the device."""

    dataset: str
    model: str
    epochs: int
    batch_size: int
    lr: float
    optimizer: str
    momentum: float
    weight_decay: float
    augment: bool
    validation: float
    seed: int

    @classmethod
    def choose(
        cls, dataset: str | None, chosen: Mapping[str, Any], out: Path | None, resume: bool
    ) -> tuple[Settings, Path]:
        """What was given, then (resuming) what the checkpoint says, then the recipe's; and OUT.

        Raises:
            ValueError: an unknown data set or model, or a damaged checkpoint.
        """
        given = {name: value for name, value in chosen.items() if value is not None}
        if dataset is not None:
            given["dataset"] = canonical_name(dataset)
        if "model" in given:
            given["model"] = given["model"].lower().replace("-", "_")
            gpucnn.models.registry.find(given["model"])
        if out is None:
            name = given.get("dataset", "digits")
            out = Path("runs") / f"{name}-{given.get('model', RECIPES[name].model)}"
        before = _settings_in(out) if resume else {}
        recipe = RECIPES[given.get("dataset", before.get("dataset", "digits"))]
        optimizer = given.get("optimizer", before.get("optimizer", "sgd"))
        defaults = {
            "dataset": "digits",
            "model": recipe.model,
            "epochs": recipe.epochs,
            "batch_size": recipe.batch_size,
            "lr": recipe.rates[optimizer],
            "optimizer": optimizer,
            "momentum": recipe.momentum,
            "weight_decay": recipe.weight_decay,
            "augment": recipe.augment,
            "validation": 0.0,
            "seed": 0,
        }
        return cls(**{**defaults, **before, **given}), out

    def __str__(self) -> str:
        return (
            f"{_plural(self.epochs, 'epoch')}, batches of {self.batch_size}, {self.optimizer}, "
            f"momentum {self.momentum:g}, one cycle up to lr {self.lr:g}, weight decay "
            f"{self.weight_decay:g}, {'' if self.augment else 'no '}augmentation, seed {self.seed}"
        )


class Run:
    """A training with its data, its net and its folder."""

    def __init__(
        self,
        settings: Settings,
        data: Path | None,
        device: Device,
        out: Path,
        resume: bool,
        capture: bool,
    ) -> None:
        self.capture = capture
        self.settings, self.device, self.out, self.resume = settings, device, out, resume
        splits = options.load_data(settings.dataset, data)
        if settings.validation:
            splits = splits.split(settings.validation, settings.seed)
        self.splits: Splits = splits
        self.preprocessing = Preprocessing.of(splits.train)
        if settings.batch_size > len(splits.train):
            raise ValueError(
                f"train: --batch-size {settings.batch_size} is more than the "
                f"{len(splits.train)} training images"
            )
        gpucnn.manual_seed(settings.seed)
        self.model: Module = gpucnn.models.create(
            settings.model,
            in_channels=self.preprocessing.channels,
            num_classes=len(splits.classes),
            input_size=(self.preprocessing.height, self.preprocessing.width),
        ).to(device)

    def execute(self, report: Path | None) -> None:
        """Train, save, measure; the last line is the test accuracy.

        Raises:
            Interrupted: Ctrl-C; the checkpoint is written.
        """
        self._print_head()
        began = time.perf_counter()
        trainer = self._make_trainer()
        loader = self._loader(self.splits.train, training=True)
        kept = self.splits.validation
        validation = None if kept is None else self._loader(kept)
        with _interrupt_calls(trainer.stop):
            trainer.fit(loader, validation, epochs=self.settings.epochs, resume=self.resume)
        if trainer.stopped:
            raise Interrupted(f"go on with 'gpucnn train --resume --out {self.out}'")
        test = trainer.evaluate(self._loader(self.splits.test))
        seconds = time.perf_counter() - began
        accuracy = test.accuracy or 0.0
        path = self.out / MODEL
        metadata = {"dataset": self.settings.dataset, **self.preprocessing.to_metadata()}
        gpucnn.save(self.model, path, metadata)
        options.line("saved", f"{path} after {seconds:.1f} s")
        if report is not None:
            content = {
                "settings": asdict(self.settings),
                "parameters": sum(p.numel() for p in self.model.parameters()),
                "images": {"train": len(self.splits.train), "test": len(self.splits.test)},
                "history": [record.as_dict() for record in trainer.history],
                "test": {"loss": test.loss, "accuracy": accuracy},
                "seconds": seconds,
                "device": str(self.device),
                "threads": gpucnn.get_num_threads(),
                "why_not_cuda": gpucnn.cuda.why_not(),
                "model_file": str(path),
                "versions": options.versions(),
            }
            write_atomically(report, (json.dumps(content, indent=2) + "\n").encode())
        click.echo(f"test accuracy {100 * accuracy:.2f}%")

    def _print_head(self) -> None:
        splits = self.splits
        c, h, w = splits.train.images.shape[1:]
        counts = [f"{len(splits.train):,} training", f"{len(splits.test):,} test"]
        if splits.validation is not None:
            counts.insert(1, f"{len(splits.validation):,} validation")
        options.line("model", options.describe_model(self.model))
        options.line(
            "data",
            f"{splits.name}: {', '.join(counts)} images of {c} x {h} x {w}, "
            f"{len(splits.classes)} classes",
        )
        options.line("recipe", str(self.settings))
        there = (self.out / checkpoints.FILE).exists()
        note = ""
        if self.resume:
            note = "going on from its checkpoint" if there else "no checkpoint there: beginning"
        elif there:
            note = "what is there is replaced; --resume would go on with it"
        options.line("folder", f"{self.out}{f' ({note})' if note else ''}")

    def _make_trainer(self) -> Trainer:
        s = self.settings
        steps = s.epochs * (len(self.splits.train) // s.batch_size)
        optimizer = make_optimizer(s.optimizer, self.model, s.lr, s.momentum, s.weight_decay)
        schedule = make_schedule(optimizer, s.lr, steps, RECIPES[s.dataset])
        callbacks = [ProgressDisplay(), HistoryCsv(self.out / HISTORY), StopWhenDiverged()]
        return Trainer(
            self.model,
            optimizer,
            scheduler=schedule,
            callbacks=callbacks,
            checkpoint_dir=self.out,
            capture=self.capture,
            run=asdict(s),
        )

    def _loader(self, dataset: Any, training: bool = False) -> DataLoader:
        s = self.settings
        return DataLoader(
            dataset,
            s.batch_size if training else _EVALUATION_BATCH,
            shuffle=training,
            drop_last=training,
            transform=RECIPES[s.dataset].transform(dataset, training and s.augment),
            seed=s.seed,
            device=self.device,
        )


def _settings_in(out: Path) -> dict[str, Any]:
    """The settings of the training whose checkpoint is in `out`; none where there is none."""
    path = out / checkpoints.FILE
    if not path.exists():
        return {}
    run = checkpoints.load(path).run
    names = {field.name for field in fields(Settings)}
    if set(run) != names or run["dataset"] not in RECIPES:
        raise ValueError(f"{path}: not a checkpoint of 'gpucnn train'")
    return dict(run)


@contextmanager
def _interrupt_calls(stop: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C calls `stop`; a second one interrupts at once."""

    def handle(*_: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        click.echo("stopping after this batch (Ctrl-C again: at once)", err=True)
        stop()

    try:
        before = signal.signal(signal.SIGINT, handle)
    except ValueError:  # not the main thread: no signals here
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _plural(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
