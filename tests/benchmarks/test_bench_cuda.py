"""`gpucnn bench --device cuda` on a GPU that only pretends: what it does, never how fast."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_command import Bench

import gpucnn
from gpucnn import backends
from gpucnn.backends.gpu import GpuBackend
from gpucnn.backends.gpu.host import A100
from gpucnn.benchmarks import check_first as checks
from gpucnn.benchmarks import compare_torch, environment, measure, run, verify
from gpucnn.benchmarks.peaks import Peaks
from gpucnn.benchmarks.row import Setup, Variant
from gpucnn.benchmarks.train import net_row
from gpucnn.core.device import Device
from gpucnn.core.precision import PRECISIONS

LAYER = "LeNet-5: 128 x 6 x 14 x 14, 16 filters 5 x 5, forward"
CUDA = Device("cuda:0")


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "check_first", lambda device: (True, "table\n7 passed, 0 failed"))


@pytest.fixture
def believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every result is right: kernels that do not run would not get through."""
    monkeypatch.setattr(verify, "error", lambda *_: 0.0)


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> Any:
    real = pytest.importorskip("torch")
    from pretended_gpu import TorchWithGpu

    pretending = TorchWithGpu(real)
    monkeypatch.setattr(compare_torch, "_torch", lambda: pretending)
    return pretending


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.usefixtures("pretended", "checked", "believed")
def test_a_layer_in_every_precision(bench: Bench, torch: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    result = bench(
        "--device", "cuda", "--compare", "torch", "--suite", "layers", "--only", LAYER,
        "--json", str(path),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "7 passed, 0 failed" in result.stdout and "table" not in result.stdout
    found = rows_of(path)
    ours = [row for row in found if row["library"] == "gpucnn"]
    assert [row["precision"] for row in ours] == list(PRECISIONS)
    assert all(row["mode"] == "eager" and row["algorithm"] for row in ours)
    theirs = [(row["precision"], row["mode"]) for row in found if row["library"] == "PyTorch"]
    assert theirs == [
        (precision, mode)
        for precision in ("fp32", "tf32", "bf16", "fp16")
        for mode in ("eager", "channels_last")
    ]
    rivals = {row["precision"]: row["ratio_to"].split()[-1] for row in ours}
    assert rivals == {
        "auto": "fp32", "fp32": "fp32", "3xtf32": "fp32", "tf32": "tf32", "bf16": "bf16",
        "fp16": "fp16",
    }  # fmt: skip
    for row in found:
        e = row["environment"]
        assert e["gpu"] == A100.name and e["compute_capability"] == "8.0"
        assert {"driver", "cupy", "nvrtc", "torch", "torch_cuda", "cudnn", "date"} <= e.keys()
        assert row["peaks"]["gemm"] > 0 and row["share_of_gemm_peak"] > 0
    for line in result.stdout.splitlines():
        if line.startswith("  gpucnn") or line.startswith("  PyTorch"):
            assert len(line) <= 100


@pytest.mark.usefixtures("pretended", "checked", "believed")
def test_a_net_eager_captured_and_in_the_modes_of_torch(
    bench: Bench, torch: Any, tmp_path: Path, pretended: Any
) -> None:
    path = tmp_path / "rows.jsonl"
    result = bench(
        "--device", "cuda", "--compare", "torch", "--suite", "train", "--precision", "auto",
        "--precision", "bf16", "--only", "LeNet-5, images 1 x 28 x 28, training step, batch 16",
        "--json", str(path),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    found = rows_of(path)
    assert not any("failure" in row for row in found)
    assert [(r["library"], r["mode"], r["precision"]) for r in found] == [
        *[("gpucnn", mode, p) for p in ("auto", "bf16") for mode in ("eager", "captured")],
        *[("PyTorch", mode, p) for p in ("fp32", "bf16") for mode in compare_torch.MODES],
    ]
    assert len(torch.graphs) == 2 and all(graph.replays > 2 for graph in torch.graphs)
    assert torch.compiled == [{"dynamic": False}] * 2
    # Each variant of a net has the GPU's memory to itself.
    assert pretended.log.count("given back") == torch.emptied == len(found)


@pytest.mark.usefixtures("pretended", "checked")
def test_what_computes_nothing_gets_no_time(bench: Bench, torch: Any, tmp_path: Path) -> None:
    """The kernels do not run here, so every result of the engine is wrong, and said to be."""
    path = tmp_path / "rows.jsonl"
    result = bench(
        "--device", "cuda", "--compare", "torch", "--suite", "layers", "--only", LAYER,
        "--precision", "fp32", "--json", str(path),
    )  # fmt: skip
    assert result.exit_code == 1
    ours, *theirs = rows_of(path)
    assert "wrong by inf" in ours["failure"] and "median" not in ours
    assert [row["mode"] for row in theirs] == ["eager", "channels_last"]
    assert all(row["median"] > 0 and row["error"] < 2e-5 for row in theirs)
    assert "1 rows, each verified before it was timed" in result.stdout
    assert "1 of them FAILED" in result.stdout


@pytest.mark.usefixtures("pretended", "checked", "believed")
def test_a_mode_that_fails_is_a_row_with_its_error(
    bench: Bench, torch: Any, tmp_path: Path
) -> None:
    def broken(model: Any, **options: Any) -> Any:
        raise NotImplementedError("no compiler\nand a long story")

    torch.compile = broken
    path = tmp_path / "rows.jsonl"
    result = bench(
        "--device", "cuda", "--compare", "torch", "--suite", "train", "--precision", "fp32",
        "--mode", "compile", "--mode", "eager", "--json", str(path),
        "--only", "LeNet-5, images 1 x 28 x 28, inference, batch 1",
    )  # fmt: skip
    assert result.exit_code == 0, result.output  # the engine's own rows are there
    failed = [row for row in rows_of(path) if "failure" in row]
    assert {(row["mode"], row["failure"]) for row in failed} == {
        ("compile", "NotImplementedError: no compiler")
    }
    assert "  PyTorch compile fp32         NotImplementedError: no compiler" in result.stdout


@pytest.mark.usefixtures("pretended", "believed")
def test_a_failing_check_ends_the_command(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = "FAILED conv2d\n1 passed, 1 failed"
    monkeypatch.setattr(checks, "check_first", lambda device: (False, printed))
    arguments = ("--device", "cuda", "--suite", "ops", "--only", "relu")
    result = bench(*arguments)
    assert result.exit_code == 1
    assert printed in result.stdout
    assert "gpucnn check --device cuda:0 failed, so nothing is timed" in result.stderr
    assert "median" not in result.stdout
    assert bench(*arguments, "--no-check").exit_code == 0


def test_check_runs_in_a_process_of_its_own() -> None:
    passed, printed = checks.check_first(Device("cpu"), "--only", "relu")
    assert passed and re.search(r"\d+ passed, 0 failed$", printed)
    if not gpucnn.cuda.is_available():
        passed, printed = checks.check_first(CUDA, "--only", "relu")
        assert not passed and "cuda" in printed


def test_each_cold_call_follows_a_flush(tiny_peaks: None) -> None:
    """The fill kernel writes more than the L2 cache before each call, outside the events."""
    pytest.importorskip("cupy", reason="needs CuPy (not a GPU)")
    from pretended_gpu import TimedLaunches

    runtime = TimedLaunches()
    with backends.serving(CUDA, GpuBackend(runtime)):
        clock = measure.clock(CUDA)
        x = gpucnn.zeros(8, device=CUDA)
        runtime.launches.clear()

        def call() -> None:
            runtime.log.append(f"after {len(runtime.launches)} launches")
            gpucnn.relu(x)

        assert clock.samples(call, 1, 2, cold=True) == [0.001, 0.001]
    assert runtime.log == [
        "event", "after 1 launches", "event", "event", "after 3 launches", "event",
        "elapsed", "elapsed",
    ]  # fmt: skip
    written = [a.nbytes for a in runtime.launches[0].arguments if hasattr(a, "nbytes")]
    assert max(written) > A100.l2_cache


def test_an_error_on_a_gpu_is_that_of_one_variant(
    pretended: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (row,) = run.select("layers", LAYER, Setup(CUDA, precisions=("fp32",)))
    monkeypatch.setattr(type(row), "call", lambda *_: 1 / 0)
    setup = Setup(CUDA, precisions=("fp32", "tf32"))
    bench = run.Bench(setup, measure.clock(CUDA), Peaks(1.0, "", {1: 1.0}), 0.001, 1)
    (result,) = bench.measured([row])
    assert len(result.entries) == 2
    assert {e.failure for e in result.entries} == {"ZeroDivisionError: division by zero"}
    on_cpu = run.Bench(Setup(), measure.HostClock(), Peaks(1.0, "", {1: 1.0}), 0.001, 1)
    with pytest.raises(ZeroDivisionError):
        on_cpu.measured([row])


def test_what_nvidia_smi_says(
    pretended: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = (
        "Another GPU, 1.0, 1 MHz, 2 MHz, 3 MHz, 4 W, 5 W, 6, Disabled\n"
        f"{A100.name}, 570.86, 1200 MHz, 1410 MHz, 1215 MHz, 61.5 W, 400.0 W, 34, Enabled\n"
    )
    fake = tmp_path / "nvidia-smi"
    fake.write_text(f"#!/bin/sh\ncat <<END\n{table}END\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    found = environment.describe(CUDA, 1)
    assert found["driver"] == "570.86" and found["clock"] == "1200 MHz"
    assert found["power_limit"] == "400.0 W" and found["persistence_mode"] == "Enabled"
    assert any(line.startswith("clock 1200 MHz of 1410 MHz") for line in environment.lines(found))
    monkeypatch.setenv("PATH", "/nowhere")
    assert environment.describe(CUDA, 1)["driver"] == "unknown"


@pytest.mark.parametrize("training", [True, False])
def test_every_mode_of_torch_gives_the_reference(torch: Any, training: bool) -> None:
    """The opponent's own code, on the cpu: a wrong opponent would be no opponent."""
    row = net_row("train", "lenet5", 2, training=training)
    expected = row.expected()
    opponent = compare_torch.Opponent(CUDA, 1)
    before = _flags(torch)
    try:
        for precision in ("fp32", "tf32", "bf16", "fp16"):
            for mode in compare_torch.MODES:
                variant = Variant("PyTorch", mode, precision)
                call = opponent.call(row, variant)
                error = verify.verify(row, call, expected, variant)
                rounded = precision in ("bf16", "fp16")
                assert (error > 1e-4) if rounded else (error < 1e-5), (str(variant), error)
    finally:
        opponent.close()
    assert _flags(torch) == before


@pytest.mark.parametrize("training", [True, False])
def test_a_residual_net_in_torch_is_ours(torch: Any, training: bool) -> None:
    row = net_row("train", "resnet18_cifar", 2, training=training)
    opponent = compare_torch.Opponent(CUDA, 1)
    own = row.call(Device("cpu"))
    with own.setting():
        expected = own.results(own.run())
    try:
        variant = Variant("PyTorch", "channels_last", "fp32")
        verify.verify(row, opponent.call(row, variant), expected, variant)
    finally:
        opponent.close()


def _flags(torch: Any) -> tuple[bool, ...]:
    cudnn = torch.backends.cudnn
    return cudnn.benchmark, cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


def test_tf32_is_off_unless_asked_for(torch: Any) -> None:
    opponent = compare_torch.Opponent(CUDA, 1)
    outside = _flags(torch)
    for precision, allowed in (("fp32", False), ("tf32", True)):
        with opponent.setting(precision):
            assert _flags(torch) == (True, allowed, allowed)
        assert _flags(torch) == outside
    opponent.close()


def test_channels_last_keeps_the_numbers(torch: Any) -> None:
    from gpucnn.benchmarks.torch_nets import channels_last

    x = torch.arange(48.0).reshape(2, 3, 4, 2)
    y = channels_last(torch, x)
    assert y.stride() != x.stride() and np.array_equal(y.numpy(), x.numpy())
    flat = torch.arange(3.0)
    assert channels_last(torch, flat) is flat and channels_last(torch, None) is None
