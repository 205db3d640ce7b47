"""What the launches that judge mutants are made of: targets, and a runtime that keeps launches."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from gpucnn import emulator
from gpucnn.backends.gpu.emulated import EmulatedRuntime
from gpucnn.backends.gpu.kernel import Kernel, Module
from gpucnn.backends.gpu.operands import CHANNELS_LAST
from gpucnn.backends.gpu.runtime import DeviceProperties

Array = np.ndarray[Any, Any]


class Kept(NamedTuple):
    """An array before a launch: the bytes from its first to its last, and how its elements lie in
    them. A plain copy would lose the steps, which kernels are told.
    """

    data: bytes
    offset: int
    like: Array

    @classmethod
    def of(cls, array: Array) -> Kept:
        ends = [(size - 1) * step for size, step in zip(array.shape, array.strides)]
        offset = -sum(min(end, 0) for end in ends)
        size = offset + sum(max(end, 0) for end in ends) + array.itemsize if array.size else 0
        first = array.__array_interface__["data"][0] - offset
        return cls(ctypes.string_at(first, size), offset, array)

    def put(self, memory: emulator.Memory) -> Array:
        """The array in another memory."""
        raw = memory.empty(len(self.data))
        raw[...] = np.frombuffer(self.data, np.uint8)
        like = self.like
        return np.ndarray(like.shape, like.dtype, raw, self.offset, like.strides)


class Launch(NamedTuple):
    """One launch: `arguments` are as `Kernel.bind` gives them, arrays as `Kept`."""

    kernel: Kernel
    grid: tuple[int, ...]
    block: tuple[int, ...]
    arguments: tuple[Any, ...]
    shared: int


class Recorder(EmulatedRuntime):
    """Carries launches out, keeps those of some entries, and has arrays of random numbers."""

    def __init__(self, entries: Sequence[str]) -> None:
        super().__init__(checks=emulator.NONE)
        self.entries, self.random = entries, np.random.default_rng(7)
        self.kept: list[Launch] = []

    def properties(self) -> DeviceProperties:
        # So few that small problems are not spread over blocks of one warp.
        return replace(super().properties(), multiprocessors=2)

    def launch(
        self,
        kernel: Kernel,
        grid: Sequence[int],
        block: Sequence[int],
        *arguments: Any,
        shared: int = 0,
    ) -> None:
        if kernel.entry in self.entries and 0 not in grid:
            bound = kernel.bind(arguments, self.owns)
            kept = tuple(
                Kept.of(value) if parameter.pointer and value is not None else value
                for parameter, value in zip(kernel.signature, bound)
            )
            self.kept.append(Launch(kernel, tuple(grid), tuple(block), kept, shared))
        super().launch(kernel, grid, block, *arguments, shared=shared)

    def normal(self, *shape: int, last: bool = False, shift: float = 0.0) -> Array:
        array = self.new(*shape, last=last)
        array[...] = self.random.standard_normal(shape) + shift
        return array

    def new(self, *shape: int, last: bool = False, dtype: Any = np.float32) -> Array:
        return self.empty(shape, dtype, CHANNELS_LAST if last else None)


@dataclass(frozen=True)
class Target:
    """Kernels of one file.

    Attributes:
        entries: those that use shared memory or shuffles; the text of others is left out.
        files: whose text is mutated (a header's where its code is told from the others').
        run: calls the primitives.
    """

    file: str
    entries: tuple[str, ...]
    files: tuple[str, ...]
    run: Callable[[Recorder], None]

    def launches(self) -> dict[Module, list[Launch]]:
        """By specialisation, its source cut down to the entries."""
        recorder = Recorder(self.entries)
        self.run(recorder)
        assert {launch.kernel.entry for launch in recorder.kept} == set(self.entries)
        found: dict[Module, list[Launch]] = {}
        for launch in recorder.kept:
            module = launch.kernel.module
            if module.file != self.file:
                continue
            cut = Module(module.file, module.defines, self._cut(module.source))
            found.setdefault(cut, []).append(launch)
        return found

    def _cut(self, source: str) -> str:
        def keep(found: re.Match[str]) -> str:
            return found[0] if found[1] in self.entries else "\n" * found[0].count("\n")

        def named(found: re.Match[str]) -> str:
            return found[0] if any(e.startswith(found[1] + "_") for e in self.entries) else ""

        source = re.sub(r"^\w+_KERNELS\((\w+),.*$", named, source, flags=re.MULTILINE)
        start = r'^extern "C" __global__ void\s(?:\s*__launch_bounds__\([^)]*\))?\s*(\w+)\('
        return re.sub(start + r".*?^\}$", keep, source, flags=re.MULTILINE | re.DOTALL)
