"""The runtime over CuPy: the only file that imports it.

CuPy allocates, makes views, copies contiguous memory and launches; it never computes. Everything
runs on CuPy's current stream of the device, so that a user's `with cupy.cuda.Stream():` holds.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from gpucnn.backends.gpu import cuda_graph
from gpucnn.backends.gpu.kernel import Kernel, Module
from gpucnn.backends.gpu.layout import axis_order, is_dense
from gpucnn.backends.gpu.runtime import (
    Array,
    DeviceProperties,
    LaunchError,
    MemoryInfo,
    launch_shape,
)

# CuPy appends -ftz=true itself.
OPTIONS = ("-std=c++17",)


def is_available() -> bool:
    """Whether arrays can be placed and kernels run on a CUDA device."""
    return why_not() is None


@cache
def why_not() -> str | None:
    """Why CUDA cannot be used here, in one sentence, or None when it can."""
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed (pip install 'gpucnn[cuda12]' or 'gpucnn[cuda13]')"
    driver = _driver_version()
    if driver is None:
        return "no NVIDIA driver is installed on this machine"
    try:
        import cupy
    except ImportError as error:
        return f"CuPy cannot be imported: {error}"
    runtime = cupy.cuda.runtime
    if runtime.is_hip:
        return "the installed CuPy is built for AMD's ROCm, not for CUDA"
    built = runtime.runtimeGetVersion() // 1000
    if driver // 1000 < built:
        return (
            f"the NVIDIA driver knows CUDA {_version(driver)} but the installed CuPy needs CUDA "
            f"{built}: update the driver, or install the CuPy of an older CUDA"
        )
    problem = compiler_problem(built)
    if problem is not None:
        return problem
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        return f"the NVIDIA driver finds no usable device: {error}"
    return None if count else "there is no CUDA device"


def compiler_problem(built: int) -> str | None:
    """What is wrong with the NVRTC that CuPy (built for CUDA `built`) loads, or None.

    With the NVRTC wheels of both CUDA 12 and 13 installed, CuPy for CUDA 12 loads 13, whose
    programs a driver for CUDA 12 may refuse.
    """
    from cupy.cuda import nvrtc

    wanted = f"pip install 'gpucnn[cuda{built}]'"
    try:
        major, minor = nvrtc.getVersion()
    except (ImportError, OSError, RuntimeError) as error:
        return f"CuPy finds no NVRTC, the run-time compiler ({wanted}): {error}"
    if major == built:
        return None
    other = "nvidia-cuda-nvrtc" + ("" if major >= 13 else f"-cu{major}")
    return (
        f"CuPy is built for CUDA {built} but loads NVRTC {major}.{minor}: "
        f"pip uninstall {other}, then {wanted}"
    )


def _driver_version() -> int | None:
    """The CUDA version the driver knows, as 12040 for 12.4; None without a driver."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int(0)
    return version.value if driver.cuDriverGetVersion(ctypes.byref(version)) == 0 else None


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def compile_ahead(index: int, source: str) -> None:
    """Compile a module for device `index` into CuPy's cache on disk, where `CudaRuntime` looks."""
    import cupy

    with cupy.cuda.Device(index):
        cupy.RawModule(code=source, options=OPTIONS).compile()


class CudaRuntime:
    """Device `index` through CuPy (see `runtime.Runtime` for the methods).

    With `GPUCNN_SYNC=1` in the environment each launch is waited for, so that an error names the
    kernel that caused it. Raises RuntimeError, with the reason, when CUDA cannot be used.
    """

    def __init__(self, index: int = 0) -> None:
        reason = why_not()
        if reason is not None:
            raise RuntimeError(f"cuda: {reason}")
        import cupy

        count = cupy.cuda.runtime.getDeviceCount()
        if not 0 <= index < count:
            raise RuntimeError(f"cuda:{index}: there are {count} CUDA devices")
        self._setup(cupy, index)

    def _setup(self, cupy: Any, index: int) -> None:
        self.name = f"cuda:{index}"
        self.index = index
        self.synchronous = os.environ.get("GPUCNN_SYNC", "") not in ("", "0")
        self._cupy = cupy
        self._errors = (cupy.cuda.runtime.CUDARuntimeError, cupy.cuda.driver.CUDADriverError)
        self._modules: dict[Module, Any] = {}
        self._functions: dict[Kernel, Any] = {}
        self._shared: dict[Kernel, int] = {}
        self._properties: DeviceProperties | None = None
        self._launches = 0

    def _device(self) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = self._cupy.cuda.Device(self.index)
        return context

    def _allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        return self._cupy.ndarray(shape, dtype)

    def empty(
        self, shape: Sequence[int], dtype: npt.DTypeLike, order: Sequence[int] | None = None
    ) -> Array:
        axes = tuple(range(len(shape)) if order is None else order)
        kind = np.dtype(dtype)
        memory = tuple(int(shape[axis]) for axis in axes)
        with self._device():
            try:
                array = self._allocate(memory, kind)
            except MemoryError as error:
                size = int(np.prod(memory, dtype=np.int64)) * kind.itemsize
                info = self.memory_info()
                raise MemoryError(
                    f"{self.name}: {size:,} bytes wanted for an array of shape {tuple(shape)}, "
                    f"{info.used:,} used, {info.free:,} free of {info.total:,}"
                ) from error
        return array if order is None else array.transpose(tuple(np.argsort(axes)))

    def from_host(self, array: npt.NDArray[Any]) -> Array:
        dense = is_dense(array.shape, array.strides, array.itemsize)
        order = axis_order(array.shape, array.strides) if dense else tuple(range(array.ndim))
        result = self.empty(array.shape, array.dtype, order)
        with self._device():
            result.transpose(order).set(np.ascontiguousarray(array.transpose(order)))
        return result

    def write(self, array: Array, values: npt.NDArray[Any]) -> None:
        order = axis_order(array.shape, array.strides)
        with self._device():
            array.transpose(order).set(np.ascontiguousarray(values.transpose(order)))

    def to_host(self, array: Array) -> npt.NDArray[Any]:
        # A copy of anything else would run an elementwise kernel of CuPy.
        if not is_dense(array.shape, array.strides, array.itemsize):
            raise ValueError(
                f"to_host: takes an array dense in memory, "
                f"got shape {array.shape} with strides {array.strides}"
            )
        order = axis_order(array.shape, array.strides)
        with self._device():
            try:
                host: npt.NDArray[Any] = array.transpose(order).get()
            except self._errors as error:
                raise self._failure("a kernel", error) from error
        result: npt.NDArray[Any] = host.transpose(tuple(np.argsort(order)))
        return result

    def as_strided(self, array: Array, shape: Sequence[int], strides: Sequence[int]) -> Array:
        return self._cupy.ndarray(tuple(shape), array.dtype, array.data, strides=tuple(strides))

    def adopt(self, value: Any) -> Array:
        """The CuPy array over the memory of a `__cuda_array_interface__` or DLPack object."""
        with self._device():
            if hasattr(value, "__cuda_array_interface__"):
                return self._cupy.asarray(value)
            return self._cupy.from_dlpack(value)

    def address(self, array: Array) -> int:
        return int(array.data.ptr)

    def owns(self, array: object) -> bool:
        return isinstance(array, self._cupy.ndarray) and array.data.device_id == self.index

    def launch(
        self,
        kernel: Kernel,
        grid: Sequence[int],
        block: Sequence[int],
        *arguments: Any,
        shared: int = 0,
    ) -> None:
        bound = kernel.bind(arguments, self.owns)
        shape = launch_shape(kernel, grid, block)
        if shape is None:
            return
        with self._device():
            try:
                function = self._function(kernel, shared)
                function(*shape, bound, shared_mem=shared)
                self._launches += 1
                if self.synchronous:
                    self._cupy.cuda.get_current_stream().synchronize()
            except self._errors as error:
                where = f"{kernel.entry} ({kernel.module}), grid {shape[0]}, block {shape[1]}"
                raise self._failure(where, error) from error

    def capture(self, run: Callable[[], None]) -> cuda_graph.CudaGraph | cuda_graph.PlainReplay:
        if self.synchronous:
            before = self._launches
            run()
            return cuda_graph.PlainReplay(run, self._launches - before)
        with self._device():
            try:
                return cuda_graph.capture(self._cupy, run, lambda: self._launches)
            except self._errors as error:
                raise self._failure("capture", error) from error

    def _function(self, kernel: Kernel, shared: int) -> Any:
        """The compiled kernel, allowed `shared` bytes of dynamic shared memory."""
        function = self._functions.get(kernel)
        if function is None:
            module = self._modules.get(kernel.module)
            if module is None:
                module = self._cupy.RawModule(code=kernel.module.source, options=OPTIONS)
                self._modules[kernel.module] = module
            try:
                function = self._functions[kernel] = module.get_function(kernel.entry)
                self._shared[kernel] = function.max_dynamic_shared_size_bytes
            except self._cupy.cuda.compiler.CompileException as error:
                raise LaunchError(f"{kernel.module} does not compile:\n{error}") from error
            except OSError as error:
                raise LaunchError(
                    f"{kernel.module}: CuPy cannot write its cache (set CUPY_CACHE_DIR): {error}"
                ) from error
        if shared > self._shared[kernel]:
            # Beyond what every device gives (48 KB with the static part) a kernel has to ask.
            function.max_dynamic_shared_size_bytes = shared
            self._shared[kernel] = shared
        return function

    def _failure(self, where: str, error: Exception) -> LaunchError:
        hint = "" if self.synchronous else "; set GPUCNN_SYNC=1 to learn which kernel failed"
        return LaunchError(f"{self.name}: {where}: {error}{hint}")

    def synchronize(self) -> None:
        with self._device():
            try:
                self._cupy.cuda.get_current_stream().synchronize()
            except self._errors as error:
                raise self._failure("a kernel", error) from error

    def properties(self) -> DeviceProperties:
        if self._properties is None:
            found = self._cupy.cuda.runtime.getDeviceProperties(self.index)
            self._properties = DeviceProperties(
                name=found["name"].decode(),
                compute_capability=(found["major"], found["minor"]),
                multiprocessors=found["multiProcessorCount"],
                memory=found["totalGlobalMem"],
                max_shared_per_block=found["sharedMemPerBlockOptin"],
                max_threads_per_multiprocessor=found["maxThreadsPerMultiProcessor"],
                l2_cache=found["l2CacheSize"],
            )
        return self._properties

    def memory_info(self) -> MemoryInfo:
        with self._device():
            free, total = self._cupy.cuda.runtime.memGetInfo()
            pool = self._cupy.get_default_memory_pool()
            return MemoryInfo(pool.used_bytes(), free + pool.free_bytes(), total)

    def give_memory_back(self) -> None:
        """Release the memory that CuPy keeps without using it, for other libraries on the GPU."""
        with self._device():
            self._cupy.get_default_memory_pool().free_all_blocks()

    def record_event(self) -> object:
        with self._device():
            event = self._cupy.cuda.Event()
            event.record()
            return event

    def elapsed_ms(self, start: Any, end: Any) -> float:
        end.synchronize()
        return float(self._cupy.cuda.get_elapsed_time(start, end))
