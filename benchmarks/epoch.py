"""The suite `epoch`: an epoch of `gpucnn train mnist --model lenet5`, loading of data included."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import gpucnn
from gpucnn import data, models
from gpucnn.benchmarks.net_row import NETS, SEED
from gpucnn.benchmarks.row import CAPTURED, EAGER, Array, Call, Row, Setup, Variant
from gpucnn.benchmarks.verify import NotTimed
from gpucnn.core.device import Device
from gpucnn.training import RECIPES, Trainer
from gpucnn.training.recipes import Recipe, make_optimizer, make_schedule


@dataclass(frozen=True, kw_only=True)
class EpochRow(Row):
    """A net trained for one epoch from its initial values: shuffled batches, normalised, a
    schedule of rates, running loss and accuracy.

    Its result is the share of test images that the net then has right; no formula says what it
    is, so it is held to a floor: `expected` is all of them, `tolerance` the share that may be
    wrong.

    Attributes:
        dataset: of `gpucnn.data`; its recipe is used, without augmentation.
        net: of `gpucnn.models`.
        root: the folder with the data.
    """

    dataset: str
    net: str
    root: Path | None = None

    def variants(self, setup: Setup) -> Sequence[Variant]:
        return EAGER, CAPTURED

    def splits(self) -> data.Splits:
        return _load(self.dataset, self.root)

    @property
    def recipe(self) -> Recipe:
        return RECIPES[self.dataset]

    @property
    def steps(self) -> int:
        """Of the epoch: whole batches."""
        return len(self.splits().train) // self.recipe.batch_size

    def model(self, device: Device) -> models.Model:
        """The net with the same initial values each time."""
        gpucnn.manual_seed(SEED)
        splits = self.splits()
        channels, *size = splits.train.images.shape[1:]
        return models.create(
            self.net,
            in_channels=channels,
            num_classes=len(splits.classes),
            input_size=(size[0], size[1]),
        ).to(device)

    def call(self, device: Device, variant: Variant = EAGER) -> Call:
        splits, recipe = self.splits(), self.recipe
        transform = recipe.transform(splits.train, augment=False)
        batch, rate = recipe.batch_size, recipe.rates["sgd"]

        def run() -> Trainer:
            model = self.model(device)
            optimizer = make_optimizer("sgd", model, rate, recipe.momentum, recipe.weight_decay)
            schedule = make_schedule(optimizer, rate, self.steps, recipe)
            loader = data.DataLoader(
                splits.train, batch, shuffle=True, drop_last=True, transform=transform,
                seed=SEED, device=device,
            )  # fmt: skip
            captured = variant.mode == "captured"
            trainer = Trainer(model, optimizer, scheduler=schedule, capture=captured)
            trainer.fit(loader, epochs=1)
            return trainer

        def results(trainer: Trainer) -> list[Array]:
            reason = getattr(trainer._compute, "reason", None)
            if reason is not None:
                raise NotTimed(f"not captured: {reason}")
            test = data.DataLoader(splits.test, 500, transform=transform, device=device)
            return [np.asarray(trainer.evaluate(test).accuracy)]

        return Call(run, results)

    def expected(self) -> list[Array]:
        return [np.asarray(1.0)]


@functools.lru_cache(maxsize=1)
def _load(dataset: str, root: Path | None) -> data.Splits:
    return data.load(dataset, root)


def rows(setup: Setup) -> list[Row]:
    """The one row; its data are read when it is called.

    Raises:
        ValueError, OSError: they are not in the folder. DownloadError: they cannot be fetched.
    """
    return [_row("mnist", "lenet5", setup.data, tolerance=0.1)]


def _row(dataset: str, net: str, root: Path | None, tolerance: float) -> EpochRow:
    splits = _load(dataset, root)
    batch = RECIPES[dataset].batch_size
    images = len(splits.train) // batch * batch
    return EpochRow(
        suite="epoch",
        group=f"{NETS[net]}, {dataset}, data loading included",
        name=f"{images:,} images, batch {batch}",
        images=images,
        tolerance=tolerance,
        long=True,
        dataset=dataset,
        net=net,
        root=root,
    )
