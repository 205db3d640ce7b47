"""Reading CUDA sources, and the check of every launch argument against them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpucnn.backends.gpu import kernel, signature
from gpucnn.backends.gpu.kernel import Kernel, strided
from gpucnn.backends.gpu.runtime import launch_shape

HEADER = """// shared by two files
#define MAX_RANK 6
struct Layout { int rank, size[MAX_RANK]; long long step[2][MAX_RANK]; bool last; };
"""
SOURCE = """// extern "C" __global__ void __launch_bounds__(1) in_a_comment(int x) {}
#include "shared.cuh"
#include "shared.cuh"
#ifndef real
#define real float
#endif
constexpr int WARPS = 4;
using count_t = long long;
#define STAMP(NAME, EXPRESSION) \\
  extern "C" __global__ void __launch_bounds__(WARPS * 32) NAME##_kernel( \\
      const real* __restrict__ x, real* y, count_t n, Layout layout) { /* EXPRESSION */ }
STAMP(exp, f(a, b))
STAMP(log, g(a))
extern "C" __global__ void __launch_bounds__(
    (WARPS + 4) * 32, 2)
    plain(const float4* quads, unsigned char* bytes, bool flag, float a, double b,
          int i, unsigned int u)  // no body follows
{ }
extern "C" __global__ void __launch_bounds__(32) without_parameters() {}
"""


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(kernel, "KERNELS", tmp_path)
    for cached in (kernel._kernel, kernel._module):
        cached.cache_clear()
    (tmp_path / "shared.cuh").write_text(HEADER)
    (tmp_path / "test.cu").write_text(SOURCE)
    return tmp_path


@pytest.fixture
def plain(sources: Path) -> Kernel:
    return kernel.get("test.cu", "plain")


@pytest.fixture
def stamped(sources: Path) -> Kernel:
    return kernel.get("test.cu", "exp_kernel", real="double")


def owns(array: object) -> bool:
    return isinstance(array, np.ndarray)


def good(plain: Kernel, **changes: Any) -> list[Any]:
    values: dict[str, Any] = {
        "quads": np.zeros((2, 4), np.float32), "bytes": np.zeros(3, np.uint8),
        "flag": True, "a": 0.5, "b": 0.5, "i": 7, "u": 8,
    }  # fmt: skip
    values.update(changes)
    return [values[parameter.name] for parameter in plain.signature]


# ---- reading
def test_entries_and_types(sources: Path) -> None:
    module = kernel.module("test.cu", real="double")
    assert module.entries == ("exp_kernel", "log_kernel", "plain", "without_parameters")
    first = kernel.get("test.cu", "exp_kernel", real="double")
    assert [(p.name, p.dtype.name, p.pointer, p.const) for p in first.signature[:3]] == [
        ("x", "float64", True, True),
        ("y", "float64", True, False),
        ("n", "int64", False, False),
    ]
    assert first.launch_bounds == 128
    plain = kernel.get("test.cu", "plain")
    assert [(p.name, p.dtype.name) for p in plain.signature] == [
        ("quads", "float32"), ("bytes", "uint8"), ("flag", "bool"), ("a", "float32"),
        ("b", "float64"), ("i", "int32"), ("u", "uint32"),
    ]  # fmt: skip
    assert plain.launch_bounds == 256
    assert kernel.get("test.cu", "without_parameters").signature == ()


def test_names_need_no_defines() -> None:
    open_text = HEADER + SOURCE.replace("(WARPS + 4) * 32, 2", "ROWS * sizeof(real[COLUMNS]), 2")
    with pytest.raises(ValueError, match="is no constant integer expression"):
        signature.parse(open_text)
    found = signature.names(open_text)
    assert found == ("exp_kernel", "log_kernel", "plain", "without_parameters")


def test_default_define_gives_way(sources: Path) -> None:
    assert kernel.get("test.cu", "log_kernel").signature[0].dtype == np.float32
    assert kernel.get("test.cu", "log_kernel", real="double").signature[0].dtype == np.float64


def test_struct_has_the_layout_of_c(stamped: Kernel) -> None:
    layout = stamped.struct("Layout")
    assert layout.names == ("rank", "size", "step", "last")
    assert [layout.fields[name][1] for name in layout.names] == [0, 4, 32, 128]  # type: ignore[index]
    assert layout.itemsize == 136 and layout["step"].shape == (2, 6)


def test_splicing(sources: Path) -> None:
    """Each include once, defines in front, and line marks that lead compilers to the files."""
    source = kernel.module("test.cu", real="float", TILE=8).source
    lines = source.splitlines()
    assert lines[:3] == ["#define TILE 8", "#define real float", '#line 1 "test.cu"']
    assert source.count("struct Layout") == 1
    assert lines[4] == '#line 1 "shared.cuh"'
    after = lines.index('#line 3 "test.cu"')
    assert lines[after + 1] == "" and lines[after + 2] == "#ifndef real"


def test_modules_are_cached_by_their_defines(sources: Path) -> None:
    assert kernel.get("test.cu", "plain") is kernel.get("test.cu", "plain")
    one, other = kernel.module("test.cu", TILE=8), kernel.module("test.cu", TILE="8")
    assert one is other and hash(one) == hash(other)
    assert one != kernel.module("test.cu", TILE=16)
    assert str(one) == "test.cu TILE=8"


def test_unknown_entry_and_file(sources: Path) -> None:
    with pytest.raises(LookupError, match=r"test\.cu: no kernel 'nothing', it has exp_kernel, "):
        kernel.get("test.cu", "nothing")
    with pytest.raises(FileNotFoundError):
        kernel.get("nothing.cu", "nothing")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('extern "C" __global__ void f(int x) {}', "kernel 'f' has no __launch_bounds__"),
        (
            'extern "C" __global__ void __launch_bounds__(32) f(half* x) {}',
            r"kernel 'f': cannot read parameter 'half\* x'",
        ),
        (
            'extern "C" __global__ void __launch_bounds__(32) f(float** x) {}',
            "cannot read parameter",
        ),
        (
            'extern "C" __global__ void __launch_bounds__(N) f(int x) {}',
            "'N' is no constant integer expression",
        ),
        (
            'extern "C" __global__ void __launch_bounds__(32) f() {}\n' * 2,
            "kernel 'f' is defined twice",
        ),
        (
            '#define S(A, B) extern "C" __global__ void __launch_bounds__(32) A(B x) {}\nS(f)\n',
            "S: takes 2 arguments",
        ),
    ],
)
def test_sources_it_cannot_read(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        signature.parse(text)


def test_every_kernel_file_is_read() -> None:
    """What the rules of a kernel ask for, of all files: they parse with their default types."""
    types = {
        "real": "float", "element": "float", "integer": "int", "word": "unsigned int",
        "source": "int", "target": "float", "index_t": "int", "window_index": "unsigned char",
    }  # fmt: skip
    for path in sorted(kernel.KERNELS.glob("*.cu")):
        text = path.read_text(encoding="utf-8")
        assert text.startswith("//"), f"{path.name}: begins with what it computes"
        assert kernel.module(path.name, **types).entries, path.name


# ---- binding
def test_scalars_become_the_exact_type(plain: Kernel) -> None:
    bound = plain.bind(good(plain, a=1, i=np.int64(-3), u=2**32 - 1, flag=np.True_), owns)
    assert [type(v) for v in bound[2:]] == [
        np.bool_, np.float32, np.float64, np.int32, np.uint32
    ]  # fmt: skip
    assert bound[3] == 1 and bound[5] == -3 and bound[6] == 4294967295


def test_none_is_a_null_pointer(plain: Kernel) -> None:
    assert plain.bind(good(plain, quads=None), owns)[0] is None


def test_infinity_and_nan_are_numbers(plain: Kernel) -> None:
    bound = plain.bind(good(plain, a=float("inf"), b=float("nan")), owns)
    assert np.isinf(bound[3]) and np.isnan(bound[4])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"i": 2**31},
            OverflowError,
            r"plain \(test\.cu\): argument 'i' \(int i\): 2147483648 is ",
        ),
        ({"u": -1}, OverflowError, "argument 'u' .*: -1 is outside 0 to 4294967295"),
        ({"a": 1e300}, OverflowError, r"argument 'a' \(float a\): 1e\+300 is outside the range"),
        ({"i": 1.0}, TypeError, "argument 'i' .*: takes an integer, got float 1.0"),
        ({"a": True}, TypeError, "argument 'a' .*: takes a number, got bool True"),
        ({"a": None}, TypeError, "argument 'a' .*: takes a number"),
        ({"flag": 1}, TypeError, "argument 'flag' .*: takes a bool, got int 1"),
        ({"bytes": 5}, TypeError, "argument 'bytes' .*: takes an array of this device or None"),
        ({"bytes": np.zeros(3)}, TypeError, "takes uint8 elements, got float64"),
        ({"bytes": np.zeros((4, 4), np.uint8)[:, ::2]}, ValueError, r"strides \(4, 2\)"),
        ({"bytes": np.zeros(4, np.uint8)[::-1]}, ValueError, "dense in memory"),
        ({"bytes": np.broadcast_to(np.uint8(1), (3,))}, ValueError, "dense in memory"),
    ],
)
def test_wrong_arguments(
    plain: Kernel, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        plain.bind(good(plain, **changes), owns)


def test_wrong_count(plain: Kernel) -> None:
    with pytest.raises(TypeError, match=r"plain: takes 7 arguments \(quads, bytes, .*\), got 6"):
        plain.bind(good(plain)[:-1], owns)


def test_arrays_of_another_runtime(plain: Kernel) -> None:
    with pytest.raises(TypeError, match="takes an array of this device"):
        plain.bind(good(plain), lambda array: False)


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a.transpose(0, 3, 1, 2),
        lambda a: a.T,
        lambda a: a[:, :1, :, :][:1],
        lambda a: a[:0, ::2],
    ],
)
def test_any_dense_order_passes(plain: Kernel, view: Callable[[Any], Any]) -> None:
    array = view(np.zeros((2, 3, 4, 5), np.uint8))
    if array.size in (0, 120):
        assert plain.bind(good(plain, bytes=array), owns)[1] is array
    else:
        assert array.strides[0] != 20  # size-1 axes have no stride that counts
        assert plain.bind(good(plain, bytes=array), owns)[1] is array


def test_strided_arrays_pass_when_marked(plain: Kernel) -> None:
    array = np.zeros((4, 4), np.uint8)[:, ::-2]
    assert plain.bind(good(plain, bytes=strided(array)), owns)[1] is array
    with pytest.raises(TypeError, match="takes uint8 elements"):
        plain.bind(good(plain, bytes=strided(array.view(np.int8))), owns)


def test_struct_by_value(stamped: Kernel) -> None:
    layout = np.zeros((), stamped.struct("Layout"))
    layout["rank"] = 3
    x = np.zeros(2)
    bound = stamped.bind([x, x, 2**40, layout], owns)
    assert bound[3].shape == () and bound[3]["rank"] == 3
    assert stamped.bind([x, x, 2, layout[()]], owns)[3].dtype == layout.dtype
    for wrong in (3, np.zeros(2, layout.dtype), np.zeros((), np.int32)):
        with pytest.raises(TypeError, match="argument 'layout' .*: takes one structured value"):
            stamped.bind([x, x, 2, wrong], owns)


# ---- the shape of a launch
def test_launch_shape(plain: Kernel) -> None:
    assert launch_shape(plain, (3,), (32, 8)) == ((3, 1, 1), (32, 8, 1))
    assert launch_shape(plain, (3, 0), (32,)) is None


@pytest.mark.parametrize(
    ("grid", "block", "message"),
    [
        ((1, 65536), (32,), r"plain: grid \(1, 65536\) is outside"),
        ((2**31,), (32,), "plain: grid"),
        ((-1,), (32,), "plain: grid"),
        ((1,), (257,), r"block \(257,\) has 257 threads, its __launch_bounds__ are 256"),
        ((1,), (0,), "has 0 threads"),
        ((1,), (1, 1, 65), "plain: block"),
        ((1, 1, 1, 1), (32,), "plain: grid"),
    ],
)
def test_impossible_launches(
    plain: Kernel, grid: tuple[int, ...], block: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        launch_shape(plain, grid, block)
