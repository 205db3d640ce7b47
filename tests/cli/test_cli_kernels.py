"""`gpucnn kernels` with its commands, `warmup`, and `gpucnn check` on the emulated device."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from cli_helpers import Invoke, assert_one_line

import gpucnn
from gpucnn.backends.gpu import cuda, nvrtc, precompile, sass
from gpucnn.cases import CASES
from gpucnn.cli import kernel_rows

if not nvrtc.compilers():
    pytest.skip("no NVRTC to make PTX", allow_module_level=True)

ROW = "softmax 3x11 dim=1"


def test_profile(invoke: Invoke) -> None:
    result = invoke("kernels", "profile", "softmax_forward", "--case", ROW, "--gpu", "h100")
    assert result.exit_code == 0, result.stderr
    for part in (
        ROW, "softmax_forward_rows (softmax.cu", "grid 1 x 1 x 1", "registers", "occupancy",
        "global loads", "a request, ideal", "FLOPs", "barriers", "diverged",
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
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPUCNN_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


needs_nvdisasm = pytest.mark.skipif(sass.nvdisasm() is None, reason=sass.INSTALL)


@needs_nvdisasm
def test_rows(invoke: Invoke) -> None:
    result = invoke("kernels", "--only", "gemm.cu", "--json", "--counters")
    assert result.exit_code == 0 and result.stderr == "", result.output
    rows = {
        (row["entry"], row["defines"]): row for row in map(json.loads, result.stdout.splitlines())
    }
    row = next(row for (_, defines), row in rows.items() if "real=float" in defines)
    assert row["spilled_bytes"] == row["local_accesses"] == 0 < row["registers"] <= 255
    assert 0 < row["occupancy"] <= 1 and row["arch"] == "sm_80"
    loop = row["main_loop"]
    assert 0.3 < loop["ffma_share"] < 1 and loop["hmma_share"] == 0
    assert set(loop["shared_loads"]) <= {"128", "64"}
    assert loop["instructions"] < row["instructions"]
    counted = row["counters"]
    assert counted["load_sectors"] >= counted["load_sectors_ideal"] > 0
    assert counted["bank_conflicts"] >= 0 and counted["store_requests"] > 0
    assert counted["case"].startswith(("matmul", "linear", "products"))


@needs_nvdisasm
def test_the_table(invoke: Invoke) -> None:
    result = invoke("kernels", "--only", "split_k", "--arch", "90", "--compiler", "13")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == kernel_rows.HEAD
    assert re.fullmatch(r"\d+ kernels, \d+ specialisations, NVRTC 13\.\d+, sm_90", lines[-1])


def test_without_the_disassembler_the_loops_are_null(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sass, "nvdisasm", lambda: None)
    result = invoke("kernels", "--only", "split_k", "--json")
    assert result.exit_code == 0, result.output
    assert result.stderr == "the loops are not known: pip install nvidia-cuda-nvdisasm\n"
    for row in map(json.loads, result.stdout.splitlines()):
        assert row["main_loop"] is row["local_accesses"] is row["instructions"] is None
        assert row["registers"] > 0


def test_the_table_in_a_document(invoke: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    marked = f"before\n{kernel_rows.START}\nold\n{kernel_rows.END}\nafter\n"
    path.write_text(marked)
    result = invoke("kernels", "--only", "split_k", "--docs", path)
    assert result.exit_code == 0, result.output
    text = path.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert f"`gpucnn kernels --arch sm_80 --only split_k --docs {path}`" in text
    assert len(re.findall(r"^\| split_k_sum \| real=", text, re.MULTILINE)) == 2
    path.write_text("no markers")
    text = assert_one_line(invoke("kernels", "--only", "split_k", "--docs", path))
    assert text == f"{path}: needs one line {kernel_rows.START} and after it one line " + (
        kernel_rows.END
    )


@needs_nvdisasm
def test_the_documents_show_the_kernels_of_now() -> None:
    """`gpucnn kernels --docs docs/kernels.md` writes the table anew."""
    text = (Path(__file__).parents[2] / "docs" / "kernels.md").read_text(encoding="utf-8")
    table = text.partition(kernel_rows.START)[2].partition(kernel_rows.END)[0]
    shown = {
        tuple(cells[:2]): cells
        for line in table.splitlines()
        if line.startswith("| ") and len(cells := [c.strip() for c in line.split("|")[1:-1]]) > 2
    }
    rows = kernel_rows.rows("", 80, None, counters=False)
    now = {(row["entry"], row["defines"]): kernel_rows.cells(row) for row in rows}
    assert set(shown) - {("kernel", "defines"), ("---", "---")} == set(now)
    if f": {rows[0]['compiler']}, sm_80." in table:
        columns = len(kernel_rows.HEAD)
        assert {k: c[:columns] for k, c in shown.items() if k in now} == now


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--arch", "sm_70"), "--arch: 'sm_70' is not one of sm_75, sm_80"),
        (("--only", "nothing"), "no kernel has 'nothing' in its name"),
        (("--compiler", "11"), "kernels: none of "),
    ],
)
def test_kernels_refuses(invoke: Invoke, arguments: tuple[str, ...], text: str) -> None:
    assert text in assert_one_line(invoke("kernels", *arguments))


def test_choose(invoke: Invoke) -> None:
    arguments = ("--net", "resnet18-cifar", "--gpu", "A100", "--gpu", "4090", "--batch", "32")
    result = invoke("kernels", "choose", *arguments)
    assert result.exit_code == 0, result.output
    for part in (
        "resnet18-cifar, batches of 32, precision auto, A100: estimates",
        "conv 64 -> 64, 3x3 stride 1, 32x32 -> 32x32", "forward", "backward_input",
        "backward_weight", "linear_backward_weight 32 x 512", "sgd_update",
        "step on RTX 4090: at least ", "(estimate, not a measurement)",
    ):  # fmt: skip
        assert part in result.stdout, part
    result = invoke("kernels", "choose", *arguments, "--precision", "fp32", "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    layers = [row for row in rows if row["direction"]]
    assert {row["direction"] for row in layers} == {"forward", "backward_input", "backward_weight"}
    for row in layers:
        assert row["instance"] and 0 < row["score"] and row["splits"] >= 1 and len(row["grid"]) == 3
        found = row["estimate, not a measurement"]
        assert found["microseconds"] == max(found["resources"].values()) > 0
        assert found["limit"] == "tensor cores" or "tensor cores" not in found["resources"]
    assert {row["estimate, not a measurement"]["gpu"] for row in rows} == {"A100", "RTX 4090"}
    result = invoke("kernels", "choose", "--net", "resnet18-cifar", "--gpu", "4090", "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    of_lanes = [row for row in rows if str(row["instance"]).startswith("winograd")]
    assert of_lanes
    for row in of_lanes:
        assert "float32 units" in row["estimate, not a measurement"]["resources"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--net", "nonet"), "model: there is no 'nonet'"),
        (("--net", "lenet5", "--gpu", "gtx"), "gpu: 'gtx' is not one of t4, rtx3090"),
        (("--net", "lenet5", "--precision", "fp8"), "precision: must be one of auto, fp32"),
    ],
)
def test_choose_refuses(invoke: Invoke, arguments: tuple[str, ...], text: str) -> None:
    assert text in assert_one_line(invoke("kernels", "choose", *arguments))


def test_warmup_compiles_once(invoke: Invoke, empty_cache: Path) -> None:
    arguments = ("warmup", "digits-net", "--batch", "8", "--arch", "sm_80")
    first = json.loads(invoke(*arguments, "--json").stdout)
    assert first["modules"] == first["compiled"] == len(first["needed"]) > 5
    assert first["seconds"] > 0 and first["cache"] == str(empty_cache)
    assert any("optimizer.cu" in module for module in first["needed"])
    again = invoke(*arguments)
    assert re.search(rf"sm_80: {first['modules']} modules, 0 compiled in", again.stdout)
    assert f"cache folder: {empty_cache}\n" in again.stdout


def test_warmup_of_a_model_file(invoke: Invoke, digits_model: Path) -> None:
    named = json.loads(invoke("warmup", "digits_net", "--arch", "80", "--json").stdout)
    of_file = json.loads(invoke("warmup", digits_model, "--arch", "80", "--json").stdout)
    assert of_file["needed"] == named["needed"] and of_file["compiled"] == 0


def test_warmup_without_a_folder_says_so(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GPUCNN_CACHE_DIR", str(tmp_path / "file"))
    monkeypatch.setattr(precompile, "compile_all", lambda jobs, workers: [])
    result = invoke("warmup", "digits_net", "--arch", "80")
    assert result.exit_code == 0, result.output
    assert "cannot be made" in result.stdout and "nothing is kept" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("nonet", "--arch", "80"), "model: there is no 'nonet'"),
        (("lenet5", "--arch", "sm_70"), "--arch: 'sm_70' is not one of"),
        (("lenet5", "--device", "cpu"), "warmup: --device must be cuda or cuda:N, got 'cpu'"),
        (("lenet5", "--device", "cuda", "--arch", "80"), "do not go together"),
        (("lenet5", "--arch", "80", "--optimizer", "lion"), "optimizer: 'lion' is not one of"),
    ],
)
def test_warmup_refuses(invoke: Invoke, arguments: tuple[str, ...], text: str) -> None:
    assert text in assert_one_line(invoke("warmup", *arguments))


@pytest.mark.skipif(gpucnn.cuda.is_available(), reason="there is a GPU")
def test_warmup_without_a_gpu(invoke: Invoke) -> None:
    text = assert_one_line(invoke("warmup", "lenet5"))
    assert text.startswith("warmup: there is no GPU to compile for (") and "--arch" in text


def test_compiling_ahead_goes_through_cupys_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With CuPy's module class standing in for a GPU."""
    cupy = pytest.importorskip("cupy")
    compiled: list[tuple[object, ...]] = []

    class RawModule:
        def __init__(self, code: str, options: tuple[str, ...]) -> None:
            self.code, self.options = code, options

        def compile(self) -> None:
            compiled.append((self.code, self.options))
            (tmp_path / f"{self.code}.cubin").write_text("")

    class Device:
        def __init__(self, index: int) -> None:
            compiled.append(("device", index))

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(cupy, "RawModule", RawModule)
    monkeypatch.setattr(cupy.cuda, "Device", Device)
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path))
    assert precompile.compile_with_cupy(["a", "b"], 1, workers=1) == 2
    assert compiled == [("device", 1), ("a", cuda.OPTIONS), ("device", 1), ("b", cuda.OPTIONS)]
    assert precompile.compile_with_cupy(["a", "b"], 1, workers=1) == 0


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
    assert re.search(r"kernels executed: 3 of \d\d+$", result.stdout, re.MULTILINE)
    assert "lines executed: " in result.stdout and "2 passed, 0 failed" in result.stdout


def test_the_compiler_is_of_the_emulated_device(invoke: Invoke) -> None:
    result = invoke("check", "--device", "cpu", "--only", ROW, "--compiler", "12")
    assert "go with --device emulated" in assert_one_line(result)


@pytest.mark.usefixtures("default_device_kept")
def test_check_of_the_whole_table(invoke: Invoke) -> None:
    """Rows that must agree to the bit among them, and a table of every operation."""
    result = invoke("check", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert f"\n{len(CASES)} passed, 0 failed\n" in result.stdout
    for op in {case.op for case in CASES}:
        assert re.search(rf"^ ?{op} ", result.stdout, re.MULTILINE), op
