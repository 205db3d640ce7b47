"""What accuracy nets reach when they are trained at each precision, by a NumPy model of it.

    python -m gpucnn.benchmarks.precision_training --seeds 10
    python -m gpucnn.benchmarks.precision_training mnist --data FOLDER --seeds 5

The engine itself trains, on a backend that rounds both operands of every convolution and matrix
product as `precision` says, forward and backward, and multiplies and adds in float32 on the cpu.
That is what tensor cores do but for the last bits of their sums; and more than the GPU kernels
do, which compute small layers in float32. Weights, activations between products, and updates stay
float32. float16 is trained with `gpucnn.GradScaler`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np

import gpucnn
from gpucnn import backends
from gpucnn.core.device import CPU
from gpucnn.data import DataLoader
from gpucnn.training import RECIPES, Preprocessing, Trainer
from gpucnn.training.recipes import make_optimizer, make_schedule

Array = np.ndarray[Any, Any]

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
WITHIN = 0.3
"""Points of accuracy by which bf16 and fp16 may stay behind fp32."""


def to_tf32(x: Array) -> Array:
    """10 bits of mantissa, the rest cut off, as the tensor core does."""
    return (x.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def to_bf16(x: Array) -> Array:
    """7 bits of mantissa, to nearest, ties to even; a NaN stays one."""
    bits = x.view(np.uint32)
    last = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = (bits + np.uint32(0x7FFF) + last) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(x), x, rounded.view(np.float32))


def to_fp16(x: Array) -> Array:
    """10 bits of mantissa and 5 of exponent: beyond 65504 infinite, below 2^-25 zero."""
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(np.float32)


_ROUNDED: dict[str, Callable[[Array], Array]] = {"tf32": to_tf32, "bf16": to_bf16, "fp16": to_fp16}


class RoundingBackend:
    """A cpu backend whose products take their operands as `precision` rounds them.

    Attributes:
        rounded: how many operands have been, by precision.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.rounded: dict[str, int] = {}
        self.primitives: dict[str, Callable[..., None]] = {
            name: self._rounding(primitive) if _multiplies(name) else primitive
            for name, primitive in backend.primitives.items()
        }

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def _rounding(self, primitive: Callable[..., None]) -> Callable[..., None]:
        def call(a: Array, b: Array, *rest: Any, precision: str, **attributes: Any) -> None:
            rounded = _ROUNDED.get(precision)
            if rounded is not None and a.dtype == np.float32:
                self.rounded[precision] = self.rounded.get(precision, 0) + 2
                a, b = rounded(a), rounded(b)
            primitive(a, b, *rest, precision="fp32", **attributes)

        return call


def _multiplies(primitive: str) -> bool:
    return primitive.startswith("conv2d") or primitive in ("matmul", "linear_backward_weight")


class ScalingTrainer(Trainer):
    """A trainer that scales its loss."""

    def __init__(self, *args: Any, scaler: gpucnn.GradScaler, **options: Any) -> None:
        super().__init__(*args, **options)
        self.scaler = scaler

    def _update(self, images: Any, labels: Any) -> tuple[Any, Any]:
        self.optimizer.zero_grad()
        outputs = self.model(images)
        loss = self.loss(outputs, labels)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach(), outputs.detach()


def accuracy(
    dataset: str, precision: str, seed: int, data: Path | None = None, epochs: int | None = None
) -> float:
    """Share of the test images that the recipe's net gets right, in percent.

    Args:
        dataset: a key of RECIPES.
        data: the folder of its files.
        epochs: instead of the recipe's.
    """
    recipe = RECIPES[dataset]
    splits = gpucnn.data.load(dataset, root=data)
    shape = Preprocessing.of(splits.train)
    gpucnn.manual_seed(seed)
    model = gpucnn.models.create(
        recipe.model,
        in_channels=shape.channels,
        num_classes=len(splits.classes),
        input_size=(shape.height, shape.width),
    )
    model.precision = precision
    epochs = epochs or recipe.epochs
    steps = epochs * (len(splits.train) // recipe.batch_size)
    rate = recipe.rates["sgd"]
    optimizer = make_optimizer("sgd", model, rate, recipe.momentum, recipe.weight_decay)
    trainer = ScalingTrainer(
        model,
        optimizer,
        scheduler=make_schedule(optimizer, rate, steps, recipe),
        scaler=gpucnn.GradScaler(enabled=precision == "fp16"),
    )

    def loader(images: Any, training: bool) -> DataLoader:
        return DataLoader(
            images,
            recipe.batch_size if training else 500,
            shuffle=training,
            drop_last=training,
            transform=recipe.transform(images, training and recipe.augment),
            seed=seed,
        )

    backend = RoundingBackend(backends.get(CPU))
    with backends.serving(CPU, backend):
        trainer.fit(loader(splits.train, True), epochs=epochs)
        result = trainer.evaluate(loader(splits.test, False)).accuracy
    assert precision == "fp32" or backend.rounded[precision] > steps
    return 100 * (result or 0.0)


def table(found: Mapping[str, list[float]]) -> list[str]:
    """A line a precision: mean, standard error of it, distance from fp32."""
    base = statistics.mean(found["fp32"])
    lines = ["| precision | test accuracy | standard error | against fp32 |", "|---|---|---|---|"]
    for name, values in found.items():
        mean = statistics.mean(values)
        error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
        lines.append(f"| {name} | {mean:.2f} % | {error:.2f} | {mean - base:+.2f} |")
    return lines


@click.command()
@click.argument("dataset", default="digits", type=click.Choice(sorted(RECIPES)))
@click.option("--data", type=click.Path(path_type=Path), help="The folder of the data set's files.")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--epochs", type=click.IntRange(1), help="Instead of the recipe's.")
def main(dataset: str, data: Path | None, seeds: int, epochs: int | None) -> None:
    """Train the net of DATASET's recipe at each precision, and print the table."""
    recipe = RECIPES[dataset]
    click.echo(
        f"{dataset}: {recipe.model}, {epochs or recipe.epochs} epochs of gpucnn train's recipe, "
        f"seeds 0 to {seeds - 1}\n"
    )
    found = {
        name: [accuracy(dataset, name, seed, data, epochs) for seed in range(seeds)]
        for name in PRECISIONS
    }
    click.echo("\n".join(table(found)))
    base = statistics.mean(found["fp32"])
    behind = [name for name in ("bf16", "fp16") if statistics.mean(found[name]) < base - WITHIN]
    if behind:
        raise click.ClickException(f"{', '.join(behind)}: more than {WITHIN} points behind fp32")


if __name__ == "__main__":
    main()
