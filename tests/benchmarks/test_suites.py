"""The suites beside those of single rows: epochs, scaling, overhead, memory."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_command import Bench

import gpucnn
from gpucnn import data
from gpucnn.benchmarks import epoch, memory, memory_child, overhead, run, scaling
from gpucnn.benchmarks.measure import Timing
from gpucnn.benchmarks.peaks import Peaks
from gpucnn.benchmarks.result import Entry, Result
from gpucnn.benchmarks.row import CAPTURED, EAGER, Setup
from gpucnn.benchmarks.verify import WrongResult, verify
from gpucnn.core.device import CPU


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch) -> epoch.EpochRow:
    """The suite `epoch` over the bundled digits: one epoch gets half of them right."""
    row = epoch._row("digits", "digits_net", None, tolerance=0.7)
    monkeypatch.setitem(run.SUITES, "epoch", lambda setup: [row])
    return row


def test_an_epoch(bench: Bench, digits: epoch.EpochRow, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    path = tmp_path / "rows.jsonl"
    result = bench("--suite", "epoch", "--compare", "torch", "--runs", "1", "--json", str(path))
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["library"], row["mode"]) for row in rows] == [
        ("gpucnn", "eager"), ("gpucnn", "captured"),
        ("PyTorch", "batches"), ("PyTorch", "DataLoader"),
    ]  # fmt: skip
    whole = len(data.load("digits").train) // 64 * 64
    assert all(row["images"] == whole and row["samples"] == 1 for row in rows)
    quickest = min(row["median"] for row in rows[2:])
    assert rows[0]["ratio"] == pytest.approx(rows[0]["median"] / quickest)
    assert "  gpucnn captured auto" in result.stdout and "  PyTorch DataLoader" in result.stdout


def test_an_epoch_that_learns_nothing_is_wrong(
    digits: epoch.EpochRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpucnn.optim import SGD

    monkeypatch.setattr(SGD, "step", lambda self: None)
    with pytest.raises(WrongResult, match="wrong by 0.[89]"):
        verify(digits, digits.call(CPU), digits.expected())


def test_epochs_are_the_same_each_time(digits: epoch.EpochRow) -> None:
    call = digits.call(CPU)
    first, second = (call.results(call.run())[0] for _ in range(2))
    assert first == second
    captured = digits.call(CPU, CAPTURED)
    assert abs(captured.results(captured.run())[0] - first) < 0.05


def test_the_data_folder(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    epoch._load.cache_clear()
    asked = f"{tmp_path}/MNIST/raw"
    assert asked in bench("--suite", "epoch", "--data", str(tmp_path)).stderr
    monkeypatch.setenv("GPUCNN_DATA", str(tmp_path))
    assert asked in bench("--suite", "epoch").stderr


def _timed(times: dict[Any, dict[str, float]]) -> list[Result]:
    found = []
    for row, modes in times.items():
        entries = [
            Entry(EAGER if mode == "eager" else CAPTURED, Timing(((t,),)))
            for mode, t in modes.items()
        ]
        found.append(Result(row, Peaks(1.0, "", {1: 1.0}), tuple(entries)))
    return found


def test_what_scaling_concludes() -> None:
    rows = [row for row in scaling.rows(Setup()) if row.group.startswith("LeNet")]
    found = _timed({row: {"eager": row.images**1.5} for row in rows[:3]})
    assert scaling.conclusions(found) == [
        "LeNet-5, eager: twice the batch takes 2.83 to 2.83 times as long"
    ]
    assert scaling.conclusions([]) == []


def test_what_scaling_says_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpucnn, "get_num_threads", lambda: 2)
    one, two, *products = [row for row in scaling.rows(Setup()) if "threads" in row.together]
    assert (one.name, two.name) == ("training step, 1 thread", "training step, 2 threads")
    assert [row.name for row in products] == ["1 thread", "2 threads"]
    found = _timed({one: {"captured": 3.0}, two: {"captured": 2.0}})
    found += _timed({products[0]: {"eager": 1.9}, products[1]: {"eager": 1.0}})
    assert scaling.conclusions(found) == [
        "CIFAR ConvNet, captured: 2 threads against 1: 1.50x",
        "64 products of 256 x 256 matrices: 2 threads against 1: 1.90x",
    ]


def test_products_of_matrices_are_right_on_any_number_of_threads() -> None:
    rows = [row for row in scaling.rows(Setup()) if isinstance(row, scaling.ProductsRow)]
    (expected,) = rows[0].expected()
    for row in rows:
        call = row.call(CPU)
        with call.setting():
            (found,) = call.results(call.run())
        assert np.abs(found - expected).max() <= row.tolerance * np.abs(expected).max()


def test_threads_are_a_setting_of_the_row() -> None:
    row = run.train.net_row("scaling", "digits_net", 2, training=False, threads=3)
    before = gpucnn.get_num_threads()
    with row.call(CPU).setting():
        assert gpucnn.get_num_threads() == 3 and not gpucnn.is_grad_enabled()
    assert gpucnn.get_num_threads() == before


def test_overhead_counts_primitives_and_puts_them_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overhead, "_SAMPLES", 3)
    primitives = gpucnn.backends.get(CPU).primitives
    before = dict(primitives)
    rows = {row.title: row for row in overhead.rows(Setup())}
    row = rows["relu of 16 x 16 x 8 x 8, forward"]
    figures = row.figures(CPU)
    assert figures["primitive_calls"] == 1
    assert 0 < figures["python_per_primitive_call"] < 0.1
    net = next(row for title, row in rows.items() if "training step" in title)
    assert net.figures(CPU)["primitive_calls"] > 20
    assert primitives == before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "BATCHES", {"digits_net": 16})
    path = tmp_path / "rows.jsonl"
    result = bench("--suite", "memory", "--json", str(path))
    assert result.exit_code == 0, result.output
    eager, captured = map(json.loads, path.read_text().splitlines())
    assert (eager["mode"], captured["mode"]) == ("eager", "captured")
    for row in (eager, captured):
        assert row["growth"] == row["peak_rss"] - row["rss_before"]
        assert row["peak_rss"] > row["rss_before"] > 10 << 20
        assert row["environment"]["threads"] == 1
    # 16 x 32 x 8 x 8 floats and more are outputs of 128 KiB; a replay has its memory already.
    assert eager["large_arrays"] > 0 and eager["large_bytes"] >= 128 << 10
    assert captured["large_arrays"] == 0 and captured["temporaries"] < eager["temporaries"]
    assert all(len(line) <= 100 for line in result.stdout.splitlines() if line.startswith("  "))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_sees_what_a_step_holds() -> None:
    import numpy as np

    def run() -> int:
        return len(np.ones(1 << 20, np.float64)) + len(np.ones(8))

    assert 8 << 20 <= memory_child._temporaries(run) < 9 << 20


def test_a_memory_child_that_fails_is_a_line(bench: Bench) -> None:
    task = memory.Memory("no_such_net", 1, EAGER, {})
    found = memory.measured(task, threads=1, steps=1)
    assert not found.figures and "no_such_net" in found.failure
    assert found.failure[:40] in memory.line(found, [found])


def test_memory_is_of_the_cpu(bench: Bench, tmp_path: Path) -> None:
    result = bench("--suite", "memory", "--profile")
    assert result.exit_code == 1 and "--suite memory measures the cpu" in result.stderr
    result = bench("--suite", "memory", "--only", "no such net")
    assert "no row of the suite memory contains 'no such net'" in result.stderr
