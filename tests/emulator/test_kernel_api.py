"""`gpucnn.Kernel`: CUDA text of a user's own on tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import gpucnn
from gpucnn.backends.gpu import nvrtc
from gpucnn.kernel import Kernel, LaunchError, strided

if not nvrtc.compilers():
    pytest.skip("no NVRTC to make PTX", allow_module_level=True)

AXPY = """
struct Scale { float a; int n; };
extern "C" __global__ void __launch_bounds__(256) axpy(float a, const float* x, float* y, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] += a * x[i];
}
__global__ void __launch_bounds__(128) scaled(Scale s, const float* x, long long step, float* y) {
  if (threadIdx.x < s.n) y[threadIdx.x] = s.a * x[threadIdx.x * step];
}
template <typename T> __device__ T twice(T x) { return x + x; }
__global__ __launch_bounds__(64) void count(unsigned* y, const unsigned* x) {
  y[threadIdx.x] = twice(x == nullptr ? COUNT : x[threadIdx.x]);
}
"""


def kernel(entry: str) -> Kernel:
    return gpucnn.Kernel(AXPY, entry, {"COUNT": 7})


def vector(*values: float) -> gpucnn.Tensor:
    return gpucnn.tensor(list(values), device="emulated")


def test_it_writes_its_tensor() -> None:
    x, y = vector(1.0, 2.0, 3.0), vector(10.0, 20.0, 30.0)
    kernel("axpy")((1,), (32,), 2, x, y, 3)
    assert y.tolist() == [12.0, 24.0, 36.0]


def test_signature_and_repr() -> None:
    axpy = kernel("axpy")
    assert [(p.name, p.pointer, p.const) for p in axpy.signature] == [
        ("a", False, False), ("x", True, True), ("y", True, False), ("n", False, False),
    ]  # fmt: skip
    assert repr(axpy) == "Kernel(axpy(float a, const float* x, float* y, int n))"


def test_struct_strides_and_null() -> None:
    scaled, y = kernel("scaled"), gpucnn.zeros(2, device="emulated")
    x = gpucnn.tensor([1.0, 2.0, 3.0, 4.0], device="emulated")[::2]
    scaled((1,), (32,), np.array((0.5, 2), scaled.struct("Scale"))[()], strided(x), 2, y)
    assert y.tolist() == [0.5, 1.5]
    counts = gpucnn.zeros(4, dtype=gpucnn.int32, device="emulated")
    kernel("count")((1,), (4,), counts, None)
    assert counts.tolist() == [14] * 4


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ("a, x, y", TypeError, "axpy: takes 4 arguments (a, x, y, n), got 3"),
        ("a, x, y, 3.5", TypeError, "argument 'n' (int n): takes an integer, got float 3.5"),
        ("a, x, y, 2**31", OverflowError, "2147483648 is outside"),
        ("a, x.double(), y, 3", TypeError, "takes float32 elements, got float64"),
        ("a, x.numpy(), y, 3", TypeError, "takes an array of this device or None, got numpy.nd"),
        ("x, x, y, 3", TypeError, "argument 'a' (float a): takes a number"),
        ("a, x[::2], y, 3", ValueError, "takes an array dense in memory"),
        ("a, x.cpu(), y, 3", RuntimeError, "one device, but 'x' is on cpu, 'y' is on emulated"),
        ("a, x.cpu(), y.cpu(), 3", RuntimeError, "does not run on cpu; move the tensors"),
        ("a, x, y.requires_grad_(), 3", RuntimeError, "'y' requires a gradient"),
    ],
)
def test_wrong_arguments(arguments: str, kind: type[Exception], text: str) -> None:
    names = {"a": 2.0, "x": vector(1.0, 2.0, 3.0), "y": vector(0.0, 0.0, 0.0)}
    with pytest.raises(kind) as caught:
        kernel("axpy")((1,), (32,), *eval(f"[{arguments}]", names))
    assert text in str(caught.value)


def test_a_block_beyond_its_bounds() -> None:
    with pytest.raises(ValueError, match="512 threads, its __launch_bounds__ are 256"):
        kernel("axpy")((1,), (512,), 1.0, vector(1.0), vector(1.0), 1)


def test_missing_things(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file"):
        gpucnn.Kernel(tmp_path / "none.cu", "f")
    with pytest.raises(LookupError, match="no kernel 'f', it has axpy, scaled, count"):
        gpucnn.Kernel(AXPY, "f")
    with pytest.raises(FileNotFoundError, match=r"no file 'far.cuh' to include"):
        gpucnn.Kernel('#include "far.cuh"\n', "f")
    broken = gpucnn.Kernel("__global__ void f(float* y) {\n  y[0] = nothing;\n}", "f")
    with pytest.raises(LaunchError, match=r"f.cu\(2\): error: .*nothing"):
        broken((1,), (1,), vector(0.0))


def test_files_and_includes(tmp_path: Path) -> None:
    (tmp_path / "mine.cuh").write_text("__device__ int triple(int i) {\n  return 3 * i;\n}\n")
    path = tmp_path / "store.cu"
    path.write_text(
        '#include "mine.cuh"\n#include "real.cuh"\n'
        "__global__ void store(real* y) {\n  y[triple(threadIdx.x)] = real(1);\n}\n"
    )
    store, y = gpucnn.Kernel(path, "store", {"real": "float"}), vector(0.0, 0.0, 0.0, 0.0)
    store((1,), (2,), y)
    assert y.tolist() == [1.0, 0.0, 0.0, 1.0]
    with pytest.raises(LaunchError) as caught:
        store((1,), (3,), y)
    message = str(caught.value)
    assert "store store.cu:4: bounds: writes 4 bytes 8 bytes past the end of buffer 'y'" in message
    assert "block (0, 0, 0), thread (2, 0, 0), address 0x7f" in message


def test_texts_of_one_name_are_kept_apart() -> None:
    y = vector(0.0)
    for number in (1, 2):
        text = f"__global__ void f(float* y) {{ y[0] = {number}; }}"
        gpucnn.Kernel(text, "f")((1,), (1,), y)
        assert y.tolist() == [number]


def test_a_race_names_both_lines() -> None:
    text = """
__global__ void turn(const float* x, float* y) {
  __shared__ float tile[64];
  tile[threadIdx.x] = x[threadIdx.x];
  y[threadIdx.x] = tile[63 - threadIdx.x];
}
"""
    x = gpucnn.randn(64, device="emulated")
    y = gpucnn.zeros(64, device="emulated")
    with pytest.raises(LaunchError, match=r"turn.cu:5: race: .* other access at turn.cu:4 by"):
        gpucnn.Kernel(text, "turn")((1,), (64,), x, y)
    profile = gpucnn.Kernel(text, "turn").profile((1,), (64,), x, y)
    assert "race" in {finding.kind for finding in profile.findings}


def test_a_launch_counts_as_a_change_in_place() -> None:
    x, y = vector(1.0, 2.0), vector(3.0, 4.0).requires_grad_()
    product = x * y  # keeps x
    kernel("axpy")((1,), (32,), 1.0, vector(1.0, 1.0), x, 2)
    with pytest.raises(RuntimeError, match="changed in place"):
        product.sum().backward()


class Doubled(gpucnn.Function):
    @staticmethod
    def forward(ctx: object, x: gpucnn.Tensor) -> gpucnn.Tensor:
        y = gpucnn.zeros_like(x)
        kernel("axpy")((1,), (32,), 2.0, x, y, x.numel())
        return y

    @staticmethod
    def backward(ctx: object, dy: gpucnn.Tensor) -> gpucnn.Tensor:
        return Doubled.forward(ctx, dy.contiguous())


def test_inside_a_function() -> None:
    x = vector(1.0, -2.0).requires_grad_()
    (Doubled.apply(x) * vector(3.0, 5.0)).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [6.0, 10.0]


def test_profile_counts_and_estimates() -> None:
    x, y = gpucnn.ones(256, device="cpu"), gpucnn.zeros(256, device="cpu")
    profile = kernel("axpy").profile((2,), (128,), 1.0, x, y, 256)
    assert profile.findings == () and y.tolist() == [0.0] * 256  # copies were written
    c = profile.counters
    assert (c.load_requests, c.load_sectors, c.store_sectors) == (16, 64, 32)
    assert c.flops == {"float32": 512}
    estimate = profile.estimate("RTX 4090")
    assert str(estimate).startswith("RTX 4090: at least ")
    assert str(estimate).endswith("(estimate, not a measurement)")
    assert estimate.microseconds == estimate.resources[estimate.limit] > 0
    with pytest.raises(ValueError, match="'a1000' is not one of t4, rtx3090, rtx4090, a100, h100"):
        profile.estimate("a1000")
