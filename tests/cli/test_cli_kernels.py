"""`gpucnn kernels profile` and `emit`, and `gpucnn check` on the emulated device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_helpers import Invoke, assert_one_line

import gpucnn
from gpucnn.backends.gpu import nvrtc

if not nvrtc.compilers():
    pytest.skip("no NVRTC to make PTX", allow_module_level=True)

ROW = "softmax 3x11 dim=1"


def test_profile(invoke: Invoke) -> None:
    result = invoke("kernels", "profile", "softmax_forward", "--case", ROW, "--gpu", "h100")
    assert result.exit_code == 0, result.stderr
    for part in (
        ROW, "softmax_forward_rows (softmax.cu", "grid 1 x 1 x 1", "registers", "occupancy",
        "global loads", "a request, ideal", "wavefronts, ideal", "FLOPs", "barriers", "diverged",
        "H100: at least ", "(estimate, not a measurement)",
    ):  # fmt: skip
        assert part in result.stdout, part
    assert "softmax_backward" not in result.stdout


def test_profile_json(invoke: Invoke) -> None:
    result = invoke("kernels", "profile", "softmax", "--case", ROW, "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["entry"] for row in rows] == ["softmax_forward_rows", "softmax_backward_rows"]
    assert rows[0]["counters"]["flops"]["special"] > 0 and rows[0]["lines"]
    assert rows[0]["estimate, not a measurement"]["gpu"] == "A100"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("softmax", "--gpu", "gtx"), "gpu: 'gtx' is not one of t4, rtx3090"),
        (("softmax", "--case", "nothing"), "no case has 'nothing' in its name"),
        (("gemm", "--case", ROW), "launches a kernel 'gemm'"),
    ],
)
def test_profile_refuses(invoke: Invoke, arguments: tuple[str, ...], text: str) -> None:
    assert text in assert_one_line(invoke("kernels", "profile", *arguments))


def test_emit_lists_its_files(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("kernels", "emit", tmp_path, "--only", "optimizer", "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert {row["written"] for row in rows} == {str(path) for path in tmp_path.iterdir()}
    assert all(Path(row["written"]).stat().st_size == row["bytes"] > 0 for row in rows)


@pytest.fixture
def default_device_kept() -> object:
    before = gpucnn.default_device()
    yield
    gpucnn.set_default_device(before)


@pytest.mark.parametrize("major", sorted(nvrtc.compilers()))
@pytest.mark.usefixtures("default_device_kept")
def test_check_emulated(invoke: Invoke, major: int) -> None:
    arguments = ("--device", "emulated", "--only", ROW, "--compiler", str(major), "--lines")
    result = invoke("check", *arguments)
    assert result.exit_code == 0, result.output
    assert f"NVRTC {major}." in result.stdout
    assert "kernels executed: 3 of 90" in result.stdout
    assert "lines executed: " in result.stdout and "2 passed, 0 failed" in result.stdout


def test_the_compiler_is_of_the_emulated_device(invoke: Invoke) -> None:
    result = invoke("check", "--device", "cpu", "--only", ROW, "--compiler", "12")
    assert "go with --device emulated" in assert_one_line(result)
