"""`gpucnn bench`: what it prints, writes and refuses; that it verifies. No figure is tested."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_command import Bench

import gpucnn
from gpucnn import backends
from gpucnn.benchmarks import environment, malloc, readme, report, run
from gpucnn.benchmarks.profile import profile


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
        "ops gpucnn GFLOP/s of GEMM GB/s of copy".split()  # PyTorch was not asked for
    )
    rows = [line for line in lines if line.startswith(("  forward", "  backward"))]
    assert len(rows) == 2 and all(re.search(r"\d us -\d+\+\d+%.*\d%$", row) for row in rows)
    assert "2 rows, each verified before it was timed" in lines[-1]


def test_json_lines(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TOP_PAD_", "500000000")
    path = tmp_path / "rows.jsonl"
    result = bench("--suite", "train", "--only", "digits", "--json", str(path))
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["name"], row["mode"]) for row in rows] == [
        (f"{what}, batch 16", mode)
        for what in ("training step", "inference")
        for mode in ("eager", "captured")
    ]
    for row in rows:
        assert row["library"] == "gpucnn" and row["precision"] == "auto"
        assert 0 < row["minimum"] <= row["spread"][0] <= row["median"] <= row["spread"][1]
        assert row["spread"] == [min(row["run_medians"]), max(row["run_medians"])]
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


def test_a_line_for_each_precision(bench: Bench, tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"{readme.START}\n{readme.END}\n")
    result = bench(
        "--suite", "layers", "--only", "LeNet-5: 128 x 6 x 14 x 14, 16 filters 5 x 5, forward",
        "--precision", "auto", "--precision", "fp32", "--readme", str(page),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "  gpucnn eager auto  " in result.stdout and "  gpucnn eager fp32  " in result.stdout
    text = page.read_text()
    assert "5 x 5, forward: gpucnn eager fp32 | " in text
    assert "--precision auto --precision fp32" in text


def test_json_on_standard_output(bench: Bench) -> None:
    result = bench("--suite", "train", "--only", "digits net, images 1 x 8 x 8, inf", "--json", "-")
    assert result.exit_code == 0, result.output
    modes = [json.loads(line)["mode"] for line in result.stdout.splitlines()]
    assert modes == ["eager", "captured"]
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
def test_a_wrong_result_is_not_timed(bench: Bench, tmp_path: Path) -> None:
    path, page = tmp_path / "rows.jsonl", tmp_path / "README.md"
    page.write_text(f"{readme.START}\nold\n{readme.END}\n")
    result = bench(
        "--suite", "ops", "--only", "relu of", "--json", str(path), "--readme", str(page)
    )
    assert result.exit_code == 1
    wrong = "wrong by 0.000"
    assert f"  gpucnn eager auto: {wrong}" in result.stdout
    assert "2 rows, each verified before it was timed" in result.stdout
    assert "; 2 of them FAILED" in result.stdout
    forward, backward = map(json.loads, path.read_text().splitlines())
    assert wrong in forward["failure"] and "median" not in forward
    assert "wrong by" in backward["failure"]  # by the sign of the output
    assert "old" in page.read_text()


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
        ("ops", "SGD"),
        ("layers", "LeNet-5: 128 x 6"),
        ("train", "digits"),
        ("train", "LeNet-5, images 1 x 28 x 28, training step, batch 16"),
        ("overhead", "linear"),
    ],
)
def test_beside_torch(bench: Bench, tmp_path: Path, suite: str, only: str) -> None:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    path = tmp_path / "rows.jsonl"
    result = bench("--suite", suite, "--only", only, "--compare", "torch", "--json", str(path))
    assert result.exit_code == 0, result.output
    assert torch.get_num_threads() == before
    assert f"PyTorch {torch.__version__}, 1 threads, eager, NCHW" in result.stdout
    (head,) = (line for line in result.stdout.splitlines() if line.startswith(f"{suite} "))
    assert ("c/P" in head) is (suite == "train") and "e/P" in head and "PyTorch" in head
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    theirs = {row["group"] + row["name"]: row for row in rows if row["library"] == "PyTorch"}
    for row in rows:
        assert row["environment"]["torch_threads"] == 1
        if row["library"] == "gpucnn":
            rival = theirs[row["group"] + row["name"]]
            assert row["ratio"] == pytest.approx(row["median"] / rival["median"])
            assert row["ratio_to"] == "PyTorch eager fp32"


def test_readme_between_markers(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"# Net\n\n{readme.START}\nold\n{readme.END}\n\nThe end.\n")
    arguments = ("--suite", "train", "--only", "digits", "--readme", str(path))
    assert bench(*arguments).exit_code == 0
    text = path.read_text()
    assert text.startswith(f"# Net\n\n{readme.START}\n") and "old" not in text
    assert text.endswith(f"{readme.END}\n\nThe end.\n")
    assert "Printed by `gpucnn bench --suite train --only digits --device cpu " in text
    assert "| train | eager | captured | images/s | GFLOP/s | of GEMM |" in text
    assert "| 8 x 8 digits net, images 1 x 8 x 8, training step, batch 16 | " in text
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


@pytest.fixture
def stock(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*malloc.TUNED, "LD_PRELOAD", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("stock")
def test_environment_says_which_malloc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_SETTINGS", ("MALLOC_",))
    cpu = gpucnn.device("cpu")
    assert "malloc stock" in environment.lines(environment.describe(cpu, 1))
    monkeypatch.setenv("MALLOC_TOP_PAD_", "7")
    found = environment.lines(environment.describe(cpu, 1))
    assert "malloc as set MALLOC_TOP_PAD_=7" in found
    for name, value in malloc.TUNED.items():
        monkeypatch.setenv(name, value)
    found = environment.lines(environment.describe(cpu, 1))
    assert any(line.startswith("malloc tuned MALLOC_MMAP_THRESHOLD_=") for line in found)


@pytest.mark.usefixtures("stock")
def test_malloc_begins_the_process_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    began: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr(os, "execve", lambda *arguments: began.append(arguments))
    malloc.apply(None)
    malloc.apply("stock")
    assert not began  # what is wanted is in force
    malloc.apply("tuned")
    ((program, line, variables),) = began
    assert program == line[0] == sys.executable and line[1:] == sys.orig_argv[1:]
    assert malloc.state(variables) == "tuned" and variables["PATH"] == os.environ["PATH"]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    malloc.apply("tuned")
    assert len(began) == 1
    malloc.apply("stock")
    assert malloc.state(began[1][2]) == "stock"
    monkeypatch.setenv("LD_PRELOAD", "other.so")
    with pytest.raises(ValueError, match="--malloc stock: LD_PRELOAD is set"):
        malloc.apply("stock")


@pytest.mark.usefixtures("stock")
def test_malloc_from_the_command_line() -> None:
    """The process that prints is the second one."""
    code = (
        "import sys; from gpucnn.benchmarks import malloc, run\n"
        "run.select = lambda *_: print(malloc.state(__import__('os').environ)) or sys.exit(3)\n"
        "from gpucnn.cli import main; main(['bench', '--device', 'cpu', '--malloc', 'tuned'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (3, "tuned"), done.stderr


def test_measuring_imports_no_other_library() -> None:
    code = (
        "import sys, gpucnn.benchmarks.run, gpucnn.benchmarks.compare_torch\n"
        "print({'torch', 'cupy', 'PIL', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
