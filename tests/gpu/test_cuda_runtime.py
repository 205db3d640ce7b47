"""The CuPy runtime over real cupy.ndarray objects in host memory: no driver is needed."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeCuda, host_view, launches_of_the_cases

from gpucnn.backends.gpu import GpuBackend, cuda
from gpucnn.backends.gpu.kernel import Kernel, get
from gpucnn.backends.gpu.runtime import LaunchError

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("cupy") is None, reason="needs CuPy (not a GPU)"
)


@pytest.fixture
def runtime() -> FakeCuda:
    return FakeCuda()


def fill(runtime: FakeCuda, n: int) -> tuple[Kernel, tuple[Any, ...]]:
    kernel = get("move.cu", "fill", index_t="int", word="unsigned int")
    layout = np.zeros((), kernel.struct("Layout"))
    return kernel, (runtime.empty((n,), np.uint32), 1, layout)


# ---- memory
def test_empty_in_any_order(runtime: FakeCuda) -> None:
    x = runtime.empty((2, 3, 4, 5), np.float32, (0, 2, 3, 1))
    assert x.shape == (2, 3, 4, 5) and x.strides == (240, 4, 60, 12)
    assert runtime.owns(x) and runtime.address(x) % 256 == 0
    assert runtime.empty((), np.int64).shape == () and runtime.empty((0, 3), np.bool_).size == 0


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a,
        lambda a: a.transpose(0, 3, 1, 2),
        lambda a: a.T,
        lambda a: a[::-1, :, ::2],
        lambda a: a[:, :0],
        lambda a: np.broadcast_to(a[:1], a.shape),
    ],
)
def test_to_the_device_and_back(runtime: FakeCuda, view: Any) -> None:
    host = view(np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5))
    array = runtime.from_host(host)
    back = runtime.to_host(array)
    assert array.shape == host.shape and np.array_equal(back, host)
    if host.size == 120 and 0 not in host.strides:
        assert array.strides == host.strides == back.strides


def test_to_host_of_a_view_goes_through_the_copy_kernel(runtime: FakeCuda) -> None:
    x = runtime.from_host(np.zeros((4, 6), np.float32))
    with pytest.raises(ValueError, match=r"to_host: .* got shape \(4, 3\) with strides \(24, 8\)"):
        cuda.CudaRuntime.to_host(runtime, x[:, ::2])
    assert GpuBackend(runtime).to_host(x[:, ::2]).shape == (4, 3)
    assert [launch.kernel.entry for launch in runtime.launches] == ["copy"]


def test_as_strided(runtime: FakeCuda) -> None:
    x = runtime.from_host(np.arange(6, dtype=np.int64))
    view = runtime.as_strided(x, (2, 3), (0, 8))
    assert view.strides == (0, 8) and runtime.address(view) == runtime.address(x)


def test_out_of_memory_says_how_much(runtime: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    import cupy

    def refuse(shape: object, dtype: object) -> None:
        raise cupy.cuda.memory.OutOfMemoryError(1, 2, 3)

    monkeypatch.setattr(runtime, "_allocate", refuse)
    message = (
        r"cuda:0: 4,000,000 bytes wanted for an array of shape \(10, 100000\), "
        r"0 used, 42,949,672,960 free of"
    )
    with pytest.raises(MemoryError, match=message):
        runtime.empty((10, 100_000), np.float32)


def test_arrays_of_another_device_are_refused(runtime: FakeCuda) -> None:
    kernel, (_, value, layout) = fill(runtime, 4)
    foreign = FakeCuda(1).empty((4,), np.uint32)
    for wrong in (foreign, np.zeros(4, np.uint32)):
        with pytest.raises(TypeError, match="argument 'y' .*: takes an array of this device"):
            runtime.launch(kernel, (1,), (256,), wrong, value, layout)


# ---- launches
def test_a_grid_with_a_zero_launches_nothing(runtime: FakeCuda) -> None:
    kernel, arguments = fill(runtime, 4)
    runtime.launch(kernel, (0,), (256,), *arguments)
    assert runtime.launches == []
    runtime.launch(kernel, (1,), (256,), *arguments, shared=64)
    (launch,) = runtime.launches
    assert launch[:3] == (kernel, (1, 1, 1), (256, 1, 1)) and launch.shared == 64


def test_cupy_accepts_the_arguments_of_every_launch() -> None:
    """CuPy's own packing takes what `bind` returns; only then does it miss the driver."""
    import cupy
    from cupy.cuda.function import Function

    class Stream:
        ptr = 0

    function = Function.__new__(Function)
    missing = (cupy.cuda.runtime.CUDARuntimeError, cupy.cuda.driver.CUDADriverError)
    with pytest.raises(TypeError):
        function((1,), (1,), ("no argument",), 0, Stream())
    seen = set()
    for launch in launches_of_the_cases():
        if launch.kernel not in seen:
            seen.add(launch.kernel)
            with pytest.raises(missing):
                function(launch.grid, launch.block, launch.arguments, 0, Stream())
    assert len(seen) > 100


def test_more_shared_memory_is_asked_for_once(runtime: FakeCuda) -> None:
    class Function:
        asked: list[int] = []
        max_dynamic_shared_size_bytes = property(
            lambda self: 49152, lambda self, value: self.asked.append(value)
        )

    class RawModule:
        def __init__(self, code: str, options: tuple[str, ...]) -> None:
            assert code.startswith("#define") and options == ("-std=c++17",)

        def get_function(self, name: str) -> Function:
            return Function()

    runtime._cupy = type("cupy", (), {"RawModule": RawModule})
    kernel, _ = fill(FakeCuda(), 1)
    functions = [
        cuda.CudaRuntime._function(runtime, kernel, size) for size in (0, 49152, 60000, 60000, 9)
    ]
    assert len(set(map(id, functions))) == 1 and Function.asked == [60000]


def test_an_error_of_a_launch_names_the_kernel(runtime: FakeCuda) -> None:
    import cupy

    def fail(kernel: Kernel, shared: int) -> Any:
        raise cupy.cuda.runtime.CUDARuntimeError(700)

    runtime._function = fail  # type: ignore[method-assign]
    kernel, arguments = fill(runtime, 4)
    message = (
        r"cuda:0: fill \(move\.cu index_t=int word=unsigned int\), grid \(1, 1, 1\), "
        r"block \(256, 1, 1\): .*set GPUCNN_SYNC=1"
    )
    with pytest.raises(LaunchError, match=message):
        runtime.launch(kernel, (1,), (256,), *arguments)
    runtime.synchronous = True
    x, y = (runtime.empty((2, 3), np.float32) for _ in range(2))
    with pytest.raises(LaunchError, match=r"unary of \[\(2, 3\), \(2, 3\)\]: cuda:0: unary_exp "):
        GpuBackend(runtime).primitives["unary"](x, y, op="exp")


def test_sync_is_switched_on_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, expected in (("1", True), ("0", False), ("", False)):
        monkeypatch.setenv("GPUCNN_SYNC", value)
        assert FakeCuda().synchronous is expected


# ---- why a GPU cannot be used
@pytest.fixture
def reasons(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    import cupy

    monkeypatch.setattr(cuda, "why_not", cuda.why_not.__wrapped__)
    monkeypatch.setattr(cuda, "_driver_version", lambda: 12080)
    monkeypatch.setattr(cupy.cuda.runtime, "runtimeGetVersion", lambda: 12090)
    monkeypatch.setattr(cupy.cuda.nvrtc, "getVersion", lambda: (12, 9))
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", lambda: 1)
    return monkeypatch


def test_nothing_is_missing(reasons: pytest.MonkeyPatch) -> None:
    assert cuda.why_not() is None and cuda.is_available()


def test_no_cupy(reasons: pytest.MonkeyPatch) -> None:
    reasons.setattr(importlib.util, "find_spec", lambda name: None)
    assert cuda.why_not() == (
        "CuPy is not installed (pip install 'gpucnn[cuda12]' or 'gpucnn[cuda13]')"
    )


def test_no_driver(reasons: pytest.MonkeyPatch) -> None:
    reasons.setattr(cuda, "_driver_version", lambda: None)
    assert cuda.why_not() == "no NVIDIA driver is installed on this machine"
    with pytest.raises(RuntimeError, match="^cuda: no NVIDIA driver is installed"):
        cuda.CudaRuntime()


def test_old_driver(reasons: pytest.MonkeyPatch) -> None:
    reasons.setattr(cuda, "_driver_version", lambda: 11040)
    assert cuda.why_not() == (
        "the NVIDIA driver knows CUDA 11.4 but the installed CuPy needs CUDA 12: "
        "update the driver, or install the CuPy of an older CUDA"
    )


def test_the_compiler_of_another_cuda(reasons: pytest.MonkeyPatch) -> None:
    import cupy

    reasons.setattr(cupy.cuda.nvrtc, "getVersion", lambda: (13, 5))
    assert cuda.why_not() == (
        "CuPy is built for CUDA 12 but loads NVRTC 13.5: "
        "pip uninstall nvidia-cuda-nvrtc, then pip install 'gpucnn[cuda12]'"
    )

    def none() -> None:
        raise RuntimeError("CuPy failed to load libnvrtc.so.12")

    reasons.setattr(cupy.cuda.nvrtc, "getVersion", none)
    assert (cuda.why_not() or "").startswith("CuPy finds no NVRTC, the run-time compiler (pip ")


def test_no_device(reasons: pytest.MonkeyPatch) -> None:
    import cupy

    runtime = cupy.cuda.runtime
    reasons.setattr(runtime, "getDeviceCount", lambda: 0)
    assert cuda.why_not() == "there is no CUDA device"

    def none() -> None:
        raise runtime.CUDARuntimeError(100)

    reasons.setattr(runtime, "getDeviceCount", none)
    assert (cuda.why_not() or "").startswith("the NVIDIA driver finds no usable device: ")


def test_device_number(reasons: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="cuda:3: there are 1 CUDA devices"):
        cuda.CudaRuntime(3)


def test_host_view_reads_the_same_memory(runtime: FakeCuda) -> None:
    x = runtime.empty((2, 3), np.uint8)
    host_view(x)[...] = 7
    assert np.array_equal(runtime.to_host(x), np.full((2, 3), 7))
