"""`gpucnn eval`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpucnn.cli import options

if TYPE_CHECKING:
    from gpucnn.data.dataset import ArrayDataset
    from gpucnn.training import Preprocessing

_EPILOG = """\b
Examples:
  gpucnn eval runs/digits-digits_net/model.safetensors
  gpucnn eval model.safetensors fashion-mnist --data ~/data/fashion --json
\b
Accuracy of a class: the share of its images that were recognised. Precision: the share of the
images taken for it that are of it."""


@click.command("eval", epilog=_EPILOG)
@options.model_file
@click.argument("dataset", required=False)
@click.option(
    "--split",
    type=click.Choice(["test", "train"]),
    default="test",
    help="Which images. Default: test.",
)
@click.option("--batch-size", type=click.IntRange(1), default=500, help="Default: 500.")
@options.data
@options.device
@options.threads
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
def evaluate(
    model: Path,
    dataset: str | None,
    split: str,
    batch_size: int,
    data: Path | None,
    device: str | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Measure the net in the file MODEL on DATASET (default: the one it was trained on).

    Prints a table of the classes, the confusion matrix, the mean loss and the accuracy.
    """
    place = options.settle(device, threads)
    net, preprocessing, metadata = options.load_model(model, place)
    name = dataset or metadata.get("dataset")
    if name is None:
        raise click.UsageError(f"{model} does not say what it was trained on: name a DATASET")

    from gpucnn.data import DataLoader, Normalize
    from gpucnn.training import ConfusionMatrix
    from gpucnn.training import evaluate as measure

    splits = options.load_data(name, data)
    images = splits.test if split == "test" else splits.train
    _check(model, preprocessing, splits.name, images)
    transform = Normalize(preprocessing.mean, preprocessing.std)
    loader = DataLoader(images, batch_size, transform=transform, device=place)
    matrix = ConfusionMatrix(len(preprocessing.classes))
    result = measure(net, loader, device=place, metrics=[matrix])
    confusion = matrix.read()
    accuracy = result.accuracy or 0.0
    if as_json:
        content: dict[str, Any] = {
            "model": str(model),
            "dataset": splits.name,
            "split": split,
            "images": len(images),
            "loss": result.loss,
            "accuracy": accuracy,
            "classes": list(preprocessing.classes),
            "confusion": confusion.tolist(),
            "device": str(place),
        }
        click.echo(json.dumps(content))
        return
    options.line("device", options.describe_device(place))
    options.line("model", f"{model}: {options.describe_model(net)}")
    options.line("data", f"{splits.name}: {len(images):,} {split} images")
    _print_tables(preprocessing.classes, confusion)
    click.echo(f"{split} loss {result.loss:.4f}")
    click.echo(f"{split} accuracy {100 * accuracy:.2f}%")


def _check(path: Path, preprocessing: Preprocessing, name: str, images: ArrayDataset) -> None:
    wanted = (preprocessing.channels, preprocessing.height, preprocessing.width)
    if images.images.shape[1:] != wanted:
        raise ValueError(
            f"eval: {path} takes images of {_size(wanted)} but {name} has images of "
            f"{_size(images.images.shape[1:])}"
        )
    if len(images.classes) != len(preprocessing.classes):
        raise ValueError(
            f"eval: {path} knows {len(preprocessing.classes)} classes but {name} has "
            f"{len(images.classes)}"
        )


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _print_tables(classes: tuple[str, ...], confusion: Any) -> None:
    from gpucnn.cli.output import print_table

    rows = []
    for number, name in enumerate(classes):
        right, total = int(confusion[number, number]), int(confusion[number].sum())
        taken = int(confusion[:, number].sum())
        wrong = confusion[number].copy()
        wrong[number] = 0
        worst = f"{classes[int(wrong.argmax())]} ({wrong.max()})" if wrong.any() else ""
        rows.append([name, f"{total:,}", _share(right, total), _share(right, taken), worst])
    click.echo()
    print_table(["class", "images", "accuracy", "precision", "most often taken for"], rows)
    click.echo("\nrows: the class; columns: what it was taken for")
    print_table(
        ["", *classes], [[name, *map(str, row)] for name, row in zip(classes, confusion.tolist())]
    )
    click.echo()


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f}%" if whole else "-"
