"""The rows of the suites: names, work, references, algorithms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import data
from gpucnn.backends.cpu import algorithms
from gpucnn.benchmarks import columns, epoch, layers, ops, run, train
from gpucnn.benchmarks.net_row import NetRow
from gpucnn.benchmarks.row import CAPTURED, EAGER, Row, Setup, Variant
from gpucnn.benchmarks.train import net_row
from gpucnn.benchmarks.verify import NotTimed, WrongResult, error, verify
from gpucnn.core.device import CPU, Device

SETUPS = (Setup(), Setup(Device("cuda:0")))


def of_all_suites(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    """All rows; MNIST's are those of the bundled digits."""
    digits = data.load("digits")
    monkeypatch.setattr(epoch, "_load", lambda dataset, root: digits)
    return [row for rows in run.SUITES.values() for row in rows(setup)]


@pytest.mark.parametrize("setup", SETUPS, ids=["cpu", "cuda"])
def test_rows_have_names_of_their_own_that_fit(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = of_all_suites(setup, monkeypatch)
    assert len({(row.suite, row.title) for row in rows}) == len(rows)
    for row in rows:
        assert row.bytes or row.images or row.suite == "overhead"
        assert len(row.group) <= 100 and len(row.name) + 2 <= columns.NAME_WIDTH


@pytest.mark.parametrize("suite", run.SUITES)
@pytest.mark.parametrize("compared", [True, False])
@pytest.mark.parametrize("lines", [True, False])
def test_headings_fit_100_columns(suite: str, compared: bool, lines: bool) -> None:
    shown = columns.columns(suite, compared, lines)
    width = sum(2 + (column.width or len(column.title)) for column in shown)
    assert columns.NAME_WIDTH + width <= 100


def test_work_of_known_nets() -> None:
    parameters = sum(int(np.prod(shape)) for shape in ops.RESNET18_PARAMETERS)
    assert parameters == 11_173_962 and len(ops.RESNET18_PARAMETERS) == 62
    by_title = {row.title: row for row in layers.rows(Setup())}
    row = by_title["VGG, ResNet: 64 x 64 x 32 x 32, 64 filters 3 x 3, forward"]
    assert row.flops == 2 * 64 * 64 * 32 * 32 * 64 * 9
    one, many = (
        next(r for r in train.rows(Setup()) if r.title.endswith(name) and "LeNet" in r.title)
        for name in ("inference, batch 1", "inference, batch 128")
    )
    # LeNet-5: two convolutions and three linear layers, a multiply-add as two.
    macs = 28 * 28 * 6 * 25 + 10 * 10 * 16 * 6 * 25 + 400 * 120 + 120 * 84 + 84 * 10
    pools = 4 * (6 * 14 * 14 + 16 * 5 * 5)
    assert one.flops == 2 * macs + pools and many.flops == 128 * one.flops
    # He et al. 2016, table 1: 3.8 billion multiply-adds without the strided 3 x 3 of v1.5.
    assert 7.6e9 < net_row("train", "resnet50", 1, training=False).flops < 8.4e9


def test_what_the_train_suite_has() -> None:
    titles = {row.title for row in train.rows(Setup())}
    for net, batch in (("LeNet-5", 128), ("CIFAR ConvNet", 128), ("ResNet-18", 64)):
        for steps in (batch, 16, 1):
            assert any(t.startswith(net) and t.endswith(f"step, batch {steps}") for t in titles)
        for images in (1, 16, 128):
            assert any(
                t.startswith(net) and t.endswith(f"inference, batch {images}") for t in titles
            )
    on_gpu = {row.net for row in train.rows(SETUPS[1]) if isinstance(row, NetRow)}
    assert on_gpu == {"lenet5", "convnet", "resnet18_cifar", "resnet50"}


def test_error_is_relative_and_sees_nan() -> None:
    expected = [np.array([0.0, 4.0]), np.zeros(3)]
    assert error([np.array([0.0, 4.0]), np.zeros(3)], expected) == 0
    assert error([np.array([1.0, 4.0]), np.zeros(3)], expected) == 0.25
    assert error([np.array([0.0, np.nan]), np.zeros(3)], expected) == np.inf
    assert error([np.array([3.0, 8.0]), np.zeros(3)], expected, "Euclidean norm") == 1.25
    with pytest.raises(WrongResult, match="shapes"):
        error([np.zeros(2)], expected)


@pytest.mark.parametrize("variant", [EAGER, CAPTURED])
def test_a_wrong_gradient_is_found(variant: Variant) -> None:
    row = run.select("train", "digits")[0]
    expected = row.expected()
    assert verify(row, row.call(CPU, variant), expected, variant) <= row.tolerance
    expected[1] = expected[1] * 1.01
    with pytest.raises(WrongResult, match="wrong by 0.0099 of the Euclidean norm"):
        verify(row, row.call(CPU, variant), expected, variant)


@pytest.mark.parametrize("training", [True, False])
def test_residual_nets_have_a_reference(training: bool) -> None:
    row = net_row("train", "resnet18_cifar", 2, training=training)
    expected = row.expected()
    assert len(expected) == (63 if training else 1)
    found = verify(row, row.call(CPU, CAPTURED), expected, CAPTURED)
    assert found <= (row.tolerance if training else 1e-5)


def test_the_images_of_a_batch_repeat_those_of_the_reference() -> None:
    """A mean over repeated images, and batch statistics, are those of the images once."""
    row = net_row("train", "lenet5", 6, training=True)
    repeating = type("Repeating", (NetRow,), {"distinct": property(lambda self: 3)})
    few = repeating(**vars(row))
    images, classes = few.batch()
    assert images.shape[0] == 6 and np.array_equal(images[:3], images[3:])
    assert np.array_equal(classes[:3], classes[3:])
    assert verify(few, few.call(CPU), few.expected()) <= 1e-5
    inference = repeating(**{**vars(row), "training": False})
    assert verify(inference, inference.call(CPU), inference.expected()) <= 1e-5


def test_a_step_that_cannot_be_captured_has_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    row = net_row("train", "digits_net", 4, training=False)

    def reading(self: Any, x: Any) -> Any:
        x.sum().item()
        return x

    monkeypatch.setattr(gpucnn.models.DigitsNet, "forward", reading)
    with pytest.warns(UserWarning, match="runs as it is"), pytest.raises(NotTimed, match="not cap"):
        row.call(CPU, CAPTURED)


def test_the_algorithm_is_the_one_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    (row,) = run.select("layers", "VGG, ResNet: 64 x 128 x 16 x 16, 128 filters 3 x 3, forward")
    fast, exact = (row.algorithm(CPU, Variant(precision=p))[0] for p in ("auto", "fp32"))
    names = {algorithm.name for algorithm in algorithms.ALGORITHMS}
    assert fast in names and exact in names and not exact.startswith("winograd")
    assert row.algorithm(CPU, Variant("PyTorch")) == ("", "")
    asked: list[str] = []
    explain = algorithms.explain

    def listening(geometry: Any, direction: str, precision: str, *more: Any) -> Any:
        found = explain(geometry, direction, precision, *more)
        asked.append(found[0].name)
        return found

    monkeypatch.setattr(algorithms, "explain", listening)
    call = row.call(CPU, Variant(precision="auto"))
    with call.setting():
        call.run()
    assert asked == [fast]


def test_rows_that_belong_together_are_one_lot(tmp_path: Path) -> None:
    rows = [*run.select("ops", "sigmoid"), *run.select("scaling")]
    lots = run.in_turn(rows)
    assert [len(lot) for lot in lots[:3]] == [1, 1, 5]
    assert {row.name for row in lots[2]} == {
        f"training step, batch {batch}" for batch in (16, 32, 64, 128, 256)
    }
