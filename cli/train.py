"""`gpucnn train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gpucnn.cli import options

_EPILOG = """\b
Data sets: digits (comes with gpucnn), mnist, fashion-mnist, cifar10.
\b
Examples:
  gpucnn train
  gpucnn train mnist --epochs 3 --seed 1
  gpucnn train cifar10 --model convnet --data ~/data/cifar10 --out runs/first
  gpucnn train --resume --out runs/first         after an interruption: the same bits
  gpucnn train mnist --optimizer adamw --lr 0.002 --json report.json
\b
OUT gets model.safetensors (for 'gpucnn eval' and 'gpucnn predict'), history.csv and
checkpoint.safetensors (for --resume)."""


@click.command(epilog=_EPILOG)
@click.argument("dataset", required=False)
@click.option("--model", metavar="NAME", help="The net; an unknown name lists all.")
@click.option("--epochs", type=click.IntRange(1), help="Passes over the training images.")
@click.option("--batch-size", type=click.IntRange(1), help="Images per update.")
@click.option("--lr", type=click.FloatRange(0, min_open=True), help="Peak of the learning rate.")
@click.option("--optimizer", type=click.Choice(["sgd", "adam", "adamw"]), help="Default: sgd.")
@click.option("--weight-decay", type=click.FloatRange(0), help="Pull of the weights to zero.")
@click.option(
    "--momentum",
    type=click.FloatRange(0, 1, max_open=True),
    help="Of sgd (Nesterov); beta1 of adam and adamw.",
)
@click.option(
    "--augment/--no-augment", default=None, help="Shift (and mirror) training images at random."
)
@click.option(
    "--validation",
    type=click.FloatRange(0, 1, max_open=True),
    help="Share of the training images kept for a measurement after each epoch. Default: 0.",
)
@options.data
@options.device
@click.option("--seed", type=click.IntRange(0), help="Of all random choices. Default: 0.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where the results go. Default: runs/DATASET-MODEL.",
)
@click.option("--resume", is_flag=True, help="Go on with the unfinished training in OUT.")
@click.option(
    "--capture/--no-capture", default=True, help="Record the step once and replay it: same bits."
)
@options.threads
@click.option(
    "--json",
    "report",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write settings, history and results there.",
)
def train(
    dataset: str | None,
    data: Path | None,
    device: str | None,
    threads: int | None,
    out: Path | None,
    resume: bool,
    capture: bool,
    report: Path | None,
    **chosen: Any,
) -> None:
    """Train a net on DATASET (default: digits) and measure it on the test images.

    What is not given comes from the recipe of the data set; the recipes are made so that the
    defaults give a good result.
    """
    from gpucnn.cli.run import Run, Settings

    place = options.settle(device, threads)
    settings, out = Settings.choose(dataset, chosen, out, resume)
    if report is not None:  # found out now, not after the training
        report.parent.mkdir(parents=True, exist_ok=True)
    options.line("device", options.describe_device(place))
    Run(settings, data, place, out, resume, capture).execute(report)
