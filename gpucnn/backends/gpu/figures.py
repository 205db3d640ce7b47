"""What the compiler made of kernels: registers, spills, occupancy, and their main loops in SASS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from gpucnn.backends.gpu import sass
from gpucnn.backends.gpu.kernel import Kernel, Module
from gpucnn.backends.gpu.nvrtc import Compiler, Resources
from gpucnn.backends.gpu.occupancy import LIMITS, blocks_per_multiprocessor
from gpucnn.backends.gpu.precompile import Job, compile_all


class Use(NamedTuple):
    """How a kernel is launched: threads of its largest block, most bytes of dynamic shared memory,
    and the blocks that selection plans to be resident on a multiprocessor (0: it plans none)."""

    threads: int
    shared: int = 0
    planned: int = 0

    def joined(self, other: Use) -> Use:
        """What serves both."""
        return Use(*map(max, zip(self, other, strict=True)))


@dataclass(frozen=True)
class Figures:
    """One kernel on one architecture.

    Attributes:
        resources: as ptxas reports them.
        function: its SASS; None where nvdisasm is not installed.
        warnings: of the compiler, about the module.
    """

    kernel: Kernel
    arch: int
    compiler: str
    use: Use
    resources: Resources
    function: sass.Function | None
    warnings: tuple[str, ...] = ()

    @property
    def shared(self) -> int:
        """Bytes of a block, static and dynamic."""
        return self.resources.shared + self.use.shared

    @property
    def spilled(self) -> int:
        """Bytes of spill stores and loads."""
        return self.resources.spill_stores + self.resources.spill_loads

    @property
    def blocks(self) -> int:
        """Blocks that are resident on a multiprocessor together."""
        return blocks_per_multiprocessor(
            self.arch, self.resources.registers, self.shared, self.use.threads
        )

    @property
    def occupancy(self) -> float:
        """Resident warps as a share of those that fit, 0 to 1."""
        return self.blocks * -(-self.use.threads // 32) / LIMITS[self.arch].warps

    @property
    def main_loop(self) -> sass.Loop | None:
        return None if self.function is None else self.function.main_loop

    def row(self) -> dict[str, Any]:
        """Plain data, for a line of JSON. What needs nvdisasm is null without it."""
        module, loop = self.kernel.module, self.main_loop
        mix = None if loop is None else loop.mix
        return {
            "entry": self.kernel.entry,
            "file": module.file,
            "defines": " ".join(f"{name}={value}" for name, value in module.defines),
            "arch": f"sm_{self.arch}",
            "compiler": self.compiler,
            "registers": self.resources.registers,
            "spilled_bytes": self.spilled,
            "stack_bytes": self.resources.stack,
            "shared_bytes": self.shared,
            "threads": self.use.threads,
            "blocks_per_multiprocessor": self.blocks,
            "planned_blocks": self.use.planned or None,
            "occupancy": self.occupancy,
            "instructions": None if self.function is None else self.function.mix.total,
            "local_accesses": None if self.function is None else self.function.mix.local,
            "main_loop": None if mix is None else _loop(mix),
        }


def _loop(mix: sass.Mix) -> dict[str, Any]:
    """The main loop's instructions, the shares of arithmetic, and loads and stores by bits."""
    return {
        "instructions": mix.total,
        "ffma_share": mix.share("FFMA"),
        "hmma_share": mix.share("HMMA"),
        "dfma_share": mix.share("DFMA"),
        "barriers": mix.number("BAR"),
        **{
            label: {str(bits): n for bits, n in mix.widths(name).items()}
            for label, name in _ACCESSES.items()
        },
    }


_ACCESSES = {
    "shared_loads": "LDS",
    "matrix_loads": "LDSM",
    "shared_stores": "STS",
    "global_loads": "LDG",
    "async_copies": "LDGSTS",
    "global_stores": "STG",
}


def figures(
    uses: Mapping[Kernel, Use],
    compiler: Compiler,
    arch: int,
    workers: int | None = None,
    disassemble: bool = True,
) -> list[Figures]:
    """Those of each kernel, compiled by `compiler` for sm_`arch`.

    Raises:
        CompileError: a module does not compile.
        RuntimeError: nvdisasm refuses its code.
    """
    modules: dict[Module, None] = {kernel.module: None for kernel in uses}
    major, name = compiler.version[0], f"sm_{arch}"
    jobs = [Job(major, module.source, module.file, name) for module in modules]
    compiled = dict(zip(modules, compile_all(jobs, workers), strict=True))
    functions: dict[Module, sass.Functions] = {}
    if disassemble and sass.nvdisasm() is not None:
        codes = [compiled[module].code for module in modules]
        functions = dict(zip(modules, sass.read(codes, arch), strict=True))
    return [
        Figures(
            kernel,
            arch,
            repr(compiler),
            use,
            compiled[kernel.module].resources[kernel.entry],
            functions[kernel.module][kernel.entry] if functions else None,
            tuple(compiled[kernel.module].warnings),
        )
        for kernel, use in uses.items()
    ]
