"""NVRTC, NVIDIA's run-time compiler, from the pip wheels of CUDA 12 and 13: needs no GPU.

The tests and tools compile every module with both, to PTX and to machine code, and read registers
and spills from the log. What was compiled once is kept in the user's cache folder (see `store`), so
that an unchanged source costs nothing the next time. (CuPy does its own compiling, and keeps its
own cache, when kernels run on a GPU.)
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gpucnn.backends.gpu.store import key, store

# CuPy always appends -ftz=true: with it here, all paths see the same arithmetic.
OPTIONS = ("-std=c++17", "-ftz=true")
_LIBRARIES = ("*/lib/libnvrtc.so.*", "*/bin/nvrtc64_*_0.dll", "*/bin/*/nvrtc64_*_0.dll")
_ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'")
_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


class CompileError(RuntimeError):
    """The source does not compile; the text is NVRTC's log."""


@dataclass(frozen=True)
class Resources:
    """What one kernel takes, as ptxas reports it: registers per thread, the rest in bytes."""

    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    shared: int


@dataclass(frozen=True)
class Compiled:
    """PTX text (arch `compute_NN`) or cubin (`sm_NN`), the log, and for a cubin its kernels."""

    code: bytes
    log: str
    resources: dict[str, Resources]

    @property
    def warnings(self) -> list[str]:
        """The lines of the log that are neither ptxas' report nor empty."""
        return [
            line
            for line in self.log.splitlines()
            if line.strip(" \0") and not line.startswith("ptxas info") and not _SPILLS.search(line)
        ]


class Compiler:
    """One NVRTC library.

    Attributes:
        version: (major, minor).
        compilations: how many times this process made it compile; what the cache folder gave is
            not among them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.compilations = 0
        self._library = ctypes.CDLL(str(path))
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
        major, minor = ctypes.c_int(0), ctypes.c_int(0)
        self._check(self._library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
        self.version = (major.value, minor.value)
        # NVRTC does not tell its build, which its size does.
        self._identity = f"{self!r} {path.name} {path.stat().st_size}"

    def __repr__(self) -> str:
        return f"NVRTC {self.version[0]}.{self.version[1]}"

    def architectures(self) -> tuple[int, ...]:
        """The targets it knows, as 80 for compute_80."""
        count = ctypes.c_int(0)
        self._check(self._library.nvrtcGetNumSupportedArchs(ctypes.byref(count)))
        found = (ctypes.c_int * count.value)()
        self._check(self._library.nvrtcGetSupportedArchs(found))
        return tuple(found)

    def compile(self, source: str, name: str, arch: str, options: Sequence[str] = ()) -> Compiled:
        """Compile for `arch`: "compute_80" gives PTX, "sm_80" a cubin. Raises CompileError."""
        found = self.kept(source, name, arch, options)
        if found is None:
            flags = _flags(arch, options)
            found = self._compile(source, name, arch, flags)
            store().put(self._title(source, name, flags), _pack(found))
        return found

    def kept(
        self, source: str, name: str, arch: str, options: Sequence[str] = ()
    ) -> Compiled | None:
        """What `compile` would give, if the cache folder has it."""
        return _unpack(store().get(self._title(source, name, _flags(arch, options))))

    def _title(self, source: str, name: str, flags: Sequence[str]) -> str:
        return key("nvrtc 1", self._identity, *flags, "", name, source)

    def _compile(self, source: str, name: str, arch: str, flags: Sequence[str]) -> Compiled:
        self.compilations += 1
        encoded = [flag.encode() for flag in flags]
        program = ctypes.c_void_p()
        self._check(
            self._library.nvrtcCreateProgram(
                ctypes.byref(program), source.encode(), name.encode(), 0, None, None
            )
        )
        try:
            status = self._library.nvrtcCompileProgram(
                program, len(encoded), (ctypes.c_char_p * len(encoded))(*encoded)
            )
            log = self._read(program, "ProgramLog").rstrip(b"\0").decode("utf-8", "replace")
            if status != 0:
                raise CompileError(f"{name} for {arch} with {self!r}:\n{log.strip()}")
            code = self._read(program, "CUBIN" if arch.startswith("sm_") else "PTX")
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))
        return Compiled(code, log, _resources(log))

    def _read(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t(0)
        self._check(getattr(self._library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
        buffer = ctypes.create_string_buffer(size.value)
        self._check(getattr(self._library, f"nvrtcGet{what}")(program, buffer))
        return buffer.raw

    def _check(self, status: int) -> None:
        if status != 0:
            message = self._library.nvrtcGetErrorString(status).decode()
            raise RuntimeError(f"{self.path.name}: {message}")


@cache
def compilers() -> dict[int, Compiler]:
    """The NVRTC of each installed wheel by CUDA major version; empty when there is none.

    Both can be used in one process.
    """
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    found = [
        Compiler(path)
        for folder in folders
        for pattern in _LIBRARIES
        for path in sorted(Path(folder).glob(pattern))
        if ".alt." not in path.name
    ]
    return {compiler.version[0]: compiler for compiler in sorted(found, key=lambda c: c.version)}


def _flags(arch: str, options: Sequence[str]) -> list[str]:
    report = ["--ptxas-options=-v"] if arch.startswith("sm_") else []
    return [f"--gpu-architecture={arch}", *OPTIONS, *options, *report]


def _pack(compiled: Compiled) -> bytes:
    """One line of JSON, then the code."""
    return json.dumps({"log": compiled.log}).encode() + b"\n" + compiled.code


def _unpack(data: bytes | None) -> Compiled | None:
    if data is None:
        return None
    head, _, code = data.partition(b"\n")
    log = json.loads(head)["log"]
    return Compiled(code, log, _resources(log))


def _resources(log: str) -> dict[str, Resources]:
    """The report of `ptxas -v` by kernel."""
    found: dict[str, Resources] = {}
    parts = _ENTRY.split(log)
    for name, text in zip(parts[1::3], parts[3::3], strict=True):
        spills, registers, shared = (
            pattern.search(text) for pattern in (_SPILLS, _REGISTERS, _SHARED)
        )
        if registers is None:
            continue
        stack, stores, loads = (int(n) for n in spills.groups()) if spills else (0, 0, 0)
        found[name] = Resources(
            int(registers[1]), stack, stores, loads, int(shared[1]) if shared else 0
        )
    return found
