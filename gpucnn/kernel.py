"""CUDA kernels of your own, on tensors: `gpucnn.Kernel`.

The text is compiled by NVRTC and launched on the tensors' device: a GPU, or the emulated device,
which executes the same PTX, checks every access and counts what decides speed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from gpucnn import backends, emulator
from gpucnn.backends.gpu import kernel as sources
from gpucnn.backends.gpu.layout import is_dense
from gpucnn.backends.gpu.runtime import LaunchError, Runtime
from gpucnn.core import autograd
from gpucnn.core.device import Device, default_device
from gpucnn.core.recording import changed
from gpucnn.core.tensor import Tensor

if TYPE_CHECKING:
    from gpucnn.backends.gpu.emulated import EmulatedRuntime
    from gpucnn.backends.gpu.estimate import Estimate
    from gpucnn.backends.gpu.signature import Parameter

__all__ = ["Kernel", "LaunchError", "Profile", "strided"]

_EMULATED = Device("emulated")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Strided:
    """A tensor whose strides the kernel is told (see `strided`)."""

    tensor: Tensor


def strided(tensor: Tensor) -> Strided:
    """Mark an argument of a launch that may be any view: pass its strides to the kernel too."""
    return Strided(tensor)


@dataclass(frozen=True)
class Profile(emulator.Report):
    """What one launch did on the emulated device.

    Attributes:
        findings: what the checks found; empty when the kernel is right.
        counters: instructions, global sectors, shared wavefronts, barriers, ...
        grid, block: of the launch.
    """

    kernel: sources.Kernel
    grid: tuple[int, ...]
    block: tuple[int, ...]
    shared: int

    def estimate(self, gpu: str = "a100") -> Estimate:
        """What a GPU would need at least, from the counters: an estimate, not a measurement.

        Raises:
            ValueError: `gpu` is not in the table; the text lists it.
        """
        from gpucnn.backends.gpu.estimate import estimate

        size = int(np.prod(self.block))
        return estimate(gpu, self.kernel, size, self.counters, self.shared)


class Kernel:
    """A kernel of your own CUDA text.

        axpy = gpucnn.Kernel(source, "axpy")
        axpy((4,), (256,), a, x, y, 1000)

    Args:
        source: the text itself (a string with a line break or `__global__` in it), or the path of
            a `.cu` file. `#include "x.cuh"` is looked for beside the file and among gpucnn's own
            kernels; NVRTC has no `<...>` headers.
        entry: the name of the `__global__` function.
        defines: name -> value, written in front of the text as `#define`s.

    Calling it launches it: `kernel(grid, block, *arguments, shared=0)`. One argument for each
    parameter: a dense Tensor of the parameter's dtype or None for a pointer, a number for a number,
    a structured NumPy scalar for a struct. The device is that of the tensors. A tensor behind a
    pointer that is not `const` counts as changed in place. An int32 tensor serves `unsigned*` too.

    Attributes:
        entry: the name.
        signature: the parameters: name, declaration, dtype, pointer, const.
        source: the text with its includes in place.

    Raises:
        FileNotFoundError: there is no such file, or one that it includes.
        LookupError: the text has no kernel `entry`; the error names those it has.
        ValueError: the signature cannot be read.
    """

    def __init__(
        self,
        source: str | Path,
        entry: str,
        defines: Mapping[str, str | int | float] | None = None,
    ) -> None:
        if isinstance(source, str) and ("\n" in source or "__global__" in source):
            self._kernel = sources.from_source(source, f"{entry}.cu", entry, defines)
        else:
            path = Path(source)
            if not path.is_file():
                raise FileNotFoundError(f"Kernel: there is no file {path}")
            text = path.read_text(encoding="utf-8")
            self._kernel = sources.from_source(text, path.name, entry, defines, path.parent)

    @property
    def entry(self) -> str:
        return self._kernel.entry

    @property
    def signature(self) -> tuple[Parameter, ...]:
        return self._kernel.signature

    @property
    def source(self) -> str:
        return self._kernel.module.source

    def struct(self, name: str) -> np.dtype[Any]:
        """The NumPy dtype of a struct of the text: `np.array((3, 0.5), kernel.struct("Shape"))`."""
        return self._kernel.struct(name)

    def __repr__(self) -> str:
        parameters = ", ".join(parameter.declaration for parameter in self.signature)
        return f"Kernel({self.entry}({parameters}))"

    def __call__(
        self, grid: Sequence[int], block: Sequence[int], *arguments: Any, shared: int = 0
    ) -> None:
        """Launch `grid` blocks of `block` threads with `shared` bytes of dynamic shared memory.

        On a GPU it returns before the kernel has run.

        Raises:
            TypeError, ValueError, OverflowError: an argument does not fit its parameter.
            RuntimeError: tensors of more than one device, or on the cpu; a tensor to be written
                whose gradient is recorded.
            LaunchError: it does not compile or run; on the emulated device, whatever its checks
                found: kernel, source line, block, thread, address, the other party of a race.
        """
        values, written = self._values(arguments)
        launch = _runtime(self.entry, self._device(arguments)).launch
        _changing(written, lambda: launch(self._kernel, grid, block, *values, shared=shared))

    def profile(
        self, grid: Sequence[int], block: Sequence[int], *arguments: Any, shared: int = 0
    ) -> Profile:
        """Run it once on the emulated device, checked and counted; findings are returned.

        Tensors of another device are copied there and stay as they are.

        Raises:
            ValueError: the grid is empty. Else what a call raises, findings excepted.
        """
        moved = [_moved(argument) for argument in arguments]
        values, written = self._values(moved)
        runtime: EmulatedRuntime = _runtime(self.entry, _EMULATED)
        report = _changing(
            written,
            lambda: runtime.report(
                self._kernel, grid, block, *values, shared=shared, counters=True
            ),
        )
        if report is None:
            raise ValueError(f"{self.entry}: grid {tuple(grid)} has no blocks to profile")
        return Profile(
            report.findings,
            report.counters,
            self._kernel,
            tuple(grid),
            tuple(block),
            shared,
        )

    def _values(self, arguments: Sequence[Any]) -> tuple[list[Any], list[Tensor]]:
        """What the runtime takes for the arguments, and the tensors that will be written."""
        if len(arguments) != len(self.signature):
            self._kernel.bind(arguments, lambda array: True)  # says so
        values, written = [], []
        for parameter, argument in zip(self.signature, arguments):
            tensor = _tensor(argument)
            if tensor is None or not parameter.pointer:
                if parameter.pointer and argument is not None:
                    # On the emulated device a NumPy array would pass: no array is anyone's here.
                    alone = replace(self._kernel, signature=(parameter,))
                    alone.bind([argument], lambda array: False)
                values.append(argument)
                continue
            data = _as_dtype(tensor.data, parameter.dtype)
            values.append(sources.strided(data) if isinstance(argument, Strided) else data)
            if not parameter.const:
                if tensor.requires_grad and autograd.is_grad_enabled():
                    raise RuntimeError(
                        f"{self.entry}: argument '{parameter.name}' requires a gradient, which a "
                        "launch does not record; launch inside a gpucnn.Function, or in no_grad()"
                    )
                written.append(tensor)
        return values, written

    def _device(self, arguments: Sequence[Any]) -> Device:
        found: dict[Device, str] = {}
        for parameter, argument in zip(self.signature, arguments):
            tensor = _tensor(argument)
            if tensor is not None:
                found.setdefault(tensor.device, parameter.name)
        if len(found) > 1:
            places = ", ".join(f"'{name}' is on {device}" for device, name in found.items())
            raise RuntimeError(f"{self.entry}: takes tensors of one device, but {places}")
        return next(iter(found)) if found else default_device()


def _runtime(entry: str, device: Device) -> Any:
    if device.type == "cpu":
        raise RuntimeError(
            f"{entry}: a CUDA kernel does not run on cpu; move the tensors to a GPU, "
            "x.to('cuda'), or to the emulated device, x.to('emulated')"
        )
    backend: Any = backends.get(device)
    runtime: Runtime = backend.runtime
    return runtime


def _changing(written: Sequence[Tensor], launch: Callable[[], _Result]) -> _Result:
    """Launch, and count the tensors as changed; after a failed launch too, which may have begun."""
    try:
        result = launch()
    except LaunchError:
        _count(written)
        raise
    _count(written)
    return result


def _count(written: Sequence[Tensor]) -> None:
    for tensor in written:
        changed(tensor)


def _tensor(argument: Any) -> Tensor | None:
    if isinstance(argument, Strided):
        argument = argument.tensor
    return argument if isinstance(argument, Tensor) else None


def _moved(argument: Any) -> Any:
    """The argument for the emulated device: tensors of another one are copied."""
    tensor = _tensor(argument)
    if tensor is None or tensor.device is _EMULATED:
        return argument
    data = tensor.data
    if isinstance(argument, Strided) and not is_dense(data.shape, data.strides, data.itemsize):
        raise RuntimeError(
            "profile: a copy of a strided view has other strides; make the view on 'emulated'"
        )
    copy = tensor.detach().to(_EMULATED)
    return Strided(copy) if isinstance(argument, Strided) else copy


def _as_dtype(data: Any, dtype: np.dtype[Any]) -> Any:
    """The same bits as the kernel's integers: `unsigned` behind an int32 tensor."""
    integers = data.dtype.kind in "iu" and dtype.kind in "iu"
    if integers and data.dtype != dtype and data.dtype.itemsize == dtype.itemsize:
        return data.view(dtype)
    return data
