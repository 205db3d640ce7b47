"""`gpucnn bench`: what it prints, writes and refuses; that it verifies. No figure is tested."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import gpucnn
from gpucnn import backends
from gpucnn.benchmarks import environment, layers, measure, ops, peaks, readme, report, run, train
from gpucnn.benchmarks.profile import profile
from gpucnn.benchmarks.verify import WrongResult, error, verify
from gpucnn.cli import main

Bench = Callable[..., Result]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Runs the command with peaks of tiny arrays; settings of the process are put back."""
    monkeypatch.setattr(peaks, "GEMM_SIZE", 32)
    monkeypatch.setattr(peaks, "COPY_SIZES", (1 << 10, 1 << 14))
    monkeypatch.setattr(peaks, "_PASSES", 1 << 14)
    threads, device = gpucnn.get_num_threads(), gpucnn.default_device()

    def invoke(*arguments: str) -> Result:
        quick = ("--seconds", "0.002", "--repeats", "2", "--device", "cpu")
        return CliRunner().invoke(main, ["bench", *quick, *arguments])

    yield invoke
    gpucnn.set_num_threads(threads)
    gpucnn.set_default_device(device)


@pytest.fixture
def wrong_relu(monkeypatch: pytest.MonkeyPatch) -> None:
    primitives = backends.get(gpucnn.device("cpu")).primitives
    unary = primitives["unary"]

    def wrong(x: Any, y: Any, *, op: str) -> None:
        unary(x, y, op=op)
        y += 1e-3

    monkeypatch.setitem(primitives, "unary", wrong)


def test_the_table(bench: Bench) -> None:
    result = bench("--suite", "ops", "--only", "cross entropy of 128 x 10,")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"gpucnn {gpucnn.__version__}")
    assert any(line.startswith("peaks: GEMM ") for line in lines)
    (head,) = (line for line in lines if line.startswith("ops "))
    assert head.split() == (
        "ops median minimum GFLOP/s of GEMM GB/s of copy".split()  # PyTorch was not asked for
    )
    rows = [line for line in lines if line.startswith(("  forward", "  backward"))]
    assert len(rows) == 2 and all(" us " in row and row.endswith("%") for row in rows)
    assert "2 rows, each verified before it was timed" in lines[-1]


@pytest.mark.parametrize("suite", ["ops", "layers", "train"])
def test_headings_fit_100_columns(suite: str) -> None:
    width = sum(2 + column.width for column in report.columns(suite, compared=True))
    assert report.NAME_WIDTH + width <= 100
    for row in run.SUITES[suite]():
        assert len(row.group) <= 100 and len(row.name) + 2 <= report.NAME_WIDTH


def test_json_lines(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TOP_PAD_", "500000000")
    path = tmp_path / "rows.jsonl"
    result = bench("--suite", "train", "--only", "digits", "--threads", "1", "--json", str(path))
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["name"] for row in rows] == ["training step, batch 16", "inference, batch 16"]
    for row in rows:
        assert 0 < row["minimum"] <= row["quartiles"][0] <= row["median"] <= row["quartiles"][1]
        assert row["images_per_second"] == pytest.approx(16 / row["median"])
        assert row["share_of_gemm_peak"] == pytest.approx(
            row["flops"] / row["median"] / row["peaks"]["gemm"]
        )
        assert row["error"] <= row["tolerance"]
        assert row["samples"] >= 2
        e = row["environment"]
        assert e["gpucnn"] == gpucnn.__version__ and e["numpy"] == np.__version__
        assert e["threads"] == 1 and e["device"] == "cpu" and e["cores"] >= 1
        assert e["settings"]["MALLOC_TOP_PAD_"] == "500000000"
        assert {"cpu", "blas", "python", "platform", "date"} <= e.keys()
        assert "torch" not in e and "ratio" not in row


def test_json_on_standard_output(bench: Bench) -> None:
    result = bench("--suite", "train", "--only", "digits net, images 1 x 8 x 8, inf", "--json", "-")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["suite"] == "train"
    assert "8 x 8 digits net" in result.stderr


def test_json_into_no_folder(bench: Bench, tmp_path: Path) -> None:
    result = bench("--json", str(tmp_path / "missing" / "rows.jsonl"))
    assert result.exit_code == 1
    assert f"there is no folder {tmp_path / 'missing'}" in result.stderr
    assert result.stdout == ""


def test_emulated_is_not_timed(bench: Bench) -> None:
    result = bench("--device", "emulated")
    assert result.exit_code == 1
    assert "nothing emulated is ever a timing" in result.stderr
    assert result.stdout == ""


@pytest.mark.usefixtures("wrong_relu")
def test_a_wrong_result_is_an_error(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    result = bench("--suite", "ops", "--only", "relu", "--json", str(path))
    assert result.exit_code == 1
    assert "relu of 128 x 32 x 16 x 16, forward: gpucnn on cpu is wrong by" in result.stderr
    assert "forward " not in result.stdout
    assert not path.exists()


def test_the_terminal_is_not_drawn_while_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    with report.Table(stream, compared=False) as table:
        table.working_on("row 1")
        drawn = stream.getvalue()
        assert "row 1" in drawn
        assert not [t for t in threading.enumerate() if "refresh" in type(t).__name__.lower()]
        table.line("a result")
    assert "a result" in stream.getvalue()


def test_no_row_of_that_name(bench: Bench) -> None:
    result = bench("--only", "no such row")
    assert result.exit_code == 1
    assert "no row of the suite all contains 'no such row'" in result.stderr


def test_torch_is_missing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    result = bench("--compare", "torch", "--only", "digits")
    assert result.exit_code == 1
    assert "--compare torch: PyTorch cannot be imported" in result.stderr
    assert "pip install torch" in result.stderr


@pytest.mark.parametrize(
    ("suite", "only"),
    [
        ("ops", "cross entropy of 128 x 10,"),
        ("ops", "batch norm"),
        ("ops", "linear 400"),
        ("layers", "LeNet-5: 128 x 6"),
        ("train", "digits"),
        ("train", "LeNet-5, images 1 x 28 x 28, training"),
    ],
)
def test_beside_torch(bench: Bench, tmp_path: Path, suite: str, only: str) -> None:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    path = tmp_path / "rows.jsonl"
    result = bench(
        "--suite", suite, "--only", only, "--compare", "torch", "--threads", "1",
        "--json", str(path),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert torch.get_num_threads() == before
    assert f"PyTorch {torch.__version__}, 1 threads, eager, NCHW" in result.stdout
    assert any(line.rstrip().endswith("ratio") for line in result.stdout.splitlines())
    for row in map(json.loads, path.read_text().splitlines()):
        assert row["ratio"] == pytest.approx(row["median"] / row["torch_median"])
        assert row["environment"]["torch_threads"] == 1


def test_readme_between_markers(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"# Net\n\n{readme.START}\nold\n{readme.END}\n\nThe end.\n")
    arguments = ("--suite", "train", "--only", "digits", "--readme", str(path))
    assert bench(*arguments).exit_code == 0
    text = path.read_text()
    assert text.startswith(f"# Net\n\n{readme.START}\n") and "old" not in text
    assert text.endswith(f"{readme.END}\n\nThe end.\n")
    assert "gpucnn bench --suite train --only digits --device cpu" in text
    assert "| 8 x 8 digits net, images 1 x 8 x 8, training step, batch 16 |" in text
    assert bench(*arguments).exit_code == 0  # what it wrote can be rewritten
    assert path.read_text().count(readme.START) == 1


@pytest.mark.parametrize(
    "text", ["no markers", readme.START, f"{readme.END}\n{readme.START}", readme.START * 2]
)
def test_readme_without_markers(bench: Bench, tmp_path: Path, text: str) -> None:
    path = tmp_path / "README.md"
    path.write_text(text)
    result = bench("--only", "digits", "--readme", str(path))
    assert result.exit_code == 1
    assert f"{path}: needs one line {readme.START}" in result.stderr
    assert "rows, each verified" not in result.stdout  # said before anything was measured
    assert path.read_text() == text


def test_profile(bench: Bench) -> None:
    result = bench("--suite", "train", "--only", "digits net, images 1 x 8 x 8, inf", "--profile")
    assert result.exit_code == 0, result.output
    assert "conv2d 16x1x8x8 16x1x3x3" in result.stdout
    assert "Python between them" in result.stdout


def test_profile_puts_the_primitives_back() -> None:
    primitives = backends.get(gpucnn.device("cpu")).primitives
    before = dict(primitives)
    profile(run.select("train", "digits")[0], gpucnn.device("cpu"), 0.001)
    assert primitives == before


def test_rows_have_names_of_their_own() -> None:
    rows = run.select("all")
    assert len({(row.suite, row.title) for row in rows}) == len(rows)
    assert all(row.bytes or row.images for row in rows)


def test_work_of_known_nets() -> None:
    parameters = sum(int(np.prod(shape)) for shape in ops.RESNET18_PARAMETERS)
    assert parameters == 11_173_962 and len(ops.RESNET18_PARAMETERS) == 62
    by_title = {row.title: row for row in layers.rows()}
    row = by_title["VGG, ResNet: 64 x 64 x 32 x 32, 64 filters 3 x 3, forward"]
    assert row.flops == 2 * 64 * 64 * 32 * 32 * 64 * 9
    one, many = (
        next(r for r in train.rows() if r.title.endswith(name) and "LeNet" in r.title)
        for name in ("inference, batch 1", "inference, batch 128")
    )
    # LeNet-5: two convolutions and three linear layers, a multiply-add as two.
    macs = 28 * 28 * 6 * 25 + 10 * 10 * 16 * 6 * 25 + 400 * 120 + 120 * 84 + 84 * 10
    pools = 4 * (6 * 14 * 14 + 16 * 5 * 5)
    assert one.flops == 2 * macs + pools and many.flops == 128 * one.flops


def test_error_is_relative_and_sees_nan() -> None:
    expected = [np.array([0.0, 4.0]), np.zeros(3)]
    assert error([np.array([0.0, 4.0]), np.zeros(3)], expected) == 0
    assert error([np.array([1.0, 4.0]), np.zeros(3)], expected) == 0.25
    assert error([np.array([0.0, np.nan]), np.zeros(3)], expected) == np.inf
    with pytest.raises(WrongResult, match="shapes"):
        error([np.zeros(2)], expected)


def test_a_wrong_gradient_is_found() -> None:
    row = run.select("train", "digits")[0]
    expected = row.expected()
    call = row.call(gpucnn.device("cpu"))
    assert verify("gpucnn", row, call, expected) <= row.tolerance
    expected[1] = expected[1] * 1.01
    with pytest.raises(WrongResult, match="digits net.*gpucnn is wrong by"):
        verify("gpucnn", row, row.call(gpucnn.device("cpu")), expected)


class _Steady:
    """A clock on which every call takes a second."""

    def __init__(self) -> None:
        self.log: list[tuple[Any, int, int]] = []

    def shortest(self, cold: bool) -> float:
        return 0.0 if cold else 4.0

    def samples(self, function: Any, calls: int, count: int, cold: bool) -> list[float]:
        self.log.append((function, calls, count))
        for _ in range(calls * count):
            function()
        return [1.0] * count


def test_windows_alternate() -> None:
    order: list[str] = []
    clock = _Steady()
    a, b = (lambda: order.append("a")), (lambda: order.append("b"))
    timings = measure.measure([a, b], clock, seconds=24, windows=3, cold=True)
    # Trial runs first (one call to warm, two samples), then 3 windows of 8 samples each.
    assert [(f is a, calls, count) for f, calls, count in clock.log[2:]] == [
        (True, 1, 8), (False, 1, 8), (True, 1, 8), (False, 1, 8), (True, 1, 8), (False, 1, 8),
    ]  # fmt: skip
    assert [len(t.samples) for t in timings] == [24, 24]
    assert "".join(order[6:]) == ("a" * 9 + "b" * 9) * 3  # each window begins with an untimed call


def test_quick_calls_are_timed_several_at_a_time() -> None:
    clock = _Steady()
    measure.measure([lambda: None], clock, seconds=16, windows=2)
    assert [calls for _, calls, _ in clock.log] == [1, 2, 4, 4, 4]
    assert clock.log[-1][2] == 2


def test_timing_figures() -> None:
    timing = measure.Timing((3.0, 1.0, 2.0, 5.0, 4.0))
    assert (timing.median, timing.minimum, timing.quartiles) == (3.0, 1.0, (2.0, 4.0))
    assert measure.Timing((2.0,)).quartiles == (2.0, 2.0)


def test_events_flush_before_each_cold_call() -> None:
    log: list[str] = []

    class Runtime:
        now = 0.0

        def record_event(self) -> float:
            log.append("event")
            self.now += 5.0
            return self.now

        def elapsed_ms(self, start: float, end: float) -> float:
            log.append("wait")
            return end - start

    clock = measure.EventClock(Runtime(), lambda: log.append("flush"))
    assert clock.samples(lambda: log.append("call"), 1, 2, cold=True) == [0.005, 0.005]
    one = ["flush", "event", "call", "event"]
    assert log == [*one, *one, "wait", "wait"]  # nothing waits before all is queued
    log.clear()
    assert clock.samples(lambda: log.append("call"), 2, 1, cold=False) == [0.0025]
    assert log == ["event", "call", "call", "event", "wait"]


def test_the_nearest_copy_is_the_peak() -> None:
    found = peaks.Peaks(1e9, "NumPy", {1 << 10: 3.0, 1 << 20: 2.0, 1 << 28: 1.0})
    assert [found.copy_for(size) for size in (1, 1 << 12, 1 << 17, 1 << 23, 1 << 30)] == [
        3.0, 3.0, 2.0, 2.0, 1.0,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.234e-6, "1.23 us"), (9.99e-4, "999 us"), (0.0123, "12.3 ms"), (0.99999, "1.00 s")],
)
def test_durations(seconds: float, text: str) -> None:
    assert report.duration(seconds) == text


def test_environment_says_when_malloc_is_stock(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MALLOC_TOP_PAD_", "LD_PRELOAD", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(environment, "_SETTINGS", ("MALLOC_",))
    assert "malloc stock" in environment.lines(environment.describe(gpucnn.device("cpu"), 1))
    monkeypatch.setenv("MALLOC_TOP_PAD_", "7")
    found = environment.lines(environment.describe(gpucnn.device("cpu"), 1))
    assert "malloc MALLOC_TOP_PAD_=7" in found


def test_measuring_imports_no_other_library() -> None:
    code = (
        "import sys, gpucnn.benchmarks.run, gpucnn.benchmarks.compare_torch\n"
        "print({'torch', 'cupy', 'PIL', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
