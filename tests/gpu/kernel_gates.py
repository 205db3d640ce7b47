"""What must hold of the compiled code, kernel by kernel; and the shares that are held.

`python tests/gpu/kernel_gates.py` writes `held_shares.json`: the share of arithmetic in the main
loop of each instance of the convolution, and of each tile of matrix products, as it is now, minus a
point. A change may raise a share, after which the file is written anew; lowering one takes a
reason.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import gpucnn
from gpucnn.backends.gpu import nvrtc
from gpucnn.backends.gpu.estimate import planned_for
from gpucnn.backends.gpu.figures import Figures, Use, figures
from gpucnn.backends.gpu.gemm_tiles import TILES
from gpucnn.backends.gpu.instances import Instance, instances
from gpucnn.backends.gpu.kernel import Kernel
from gpucnn.cases import CASES
from gpucnn.cases.specialisations import instance_uses, is_of, specialisations, uses
from gpucnn.training.rehearsal import rehearse

HELD = Path(__file__).with_name("held_shares.json")
POINT = 0.01
NETS = ("lenet5", "convnet", "resnet18_cifar", "resnet50")

WHOLE = ((12, 80), (13, 90))
"""CUDA version and architecture for which every kernel is compiled."""
CHOSEN = ((13, 100), (13, 120))
"""Those for which all that training `NETS` launches is."""
FLOAT32 = ((12, 90),)
"""Those for which all instances of the convolution are but those of the tensor cores."""
MAIN = ((12, 75), (12, 86), (12, 89), (13, 80))
"""Those for which the main instances are (see `is_main`)."""
ALL = tuple(
    (major, arch)
    for major, known in ((12, (75, 80, 86, 89, 90)), (13, (75, 80, 86, 89, 90, 100, 120)))
    for arch in known
)
"""Those for which every kernel is compiled with GPUCNN_ALL_ARCHES=1."""

SHARED_PER_BLOCK = {75: 64, 80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}
"""KB that a block may ask for (CUDA C++ Programming Guide, technical specifications)."""
REGISTERS = 65536


@cache
def everything(arch: int) -> dict[Kernel, Use]:
    """All that can be launched on an architecture."""
    return specialisations(CASES, planned_for(arch))


@cache
def of_nets(arch: int) -> dict[Kernel, Use]:
    """What training `NETS` launches there: the choices by score."""
    found: dict[Kernel, Use] = {}
    for name in NETS:
        done = rehearse(gpucnn.models.create(name), 128, planned_for(arch))
        for kernel, use in uses(done.launches).items():
            found[kernel] = use.joined(found.get(kernel, use))
    for instance in instances():
        for kernel, use in instance_uses(instance, planned_for(arch)).items():
            if kernel in found:
                found[kernel] = use.joined(found[kernel])
    return found


def is_main(instance: Instance) -> bool:
    """The large tiles, on which the speed of large layers hangs: of float32 in each direction, of
    the tensor cores forward."""
    if (instance.tile_m, instance.tile_n) != (128, 128):
        return False
    return instance.algorithm == "simt" or (
        instance.direction == "forward" and instance.precision in ("3xtf32", "bf16")
    )


def is_float32(instance: Instance) -> bool:
    """Whether it computes by plain multiply-adds."""
    return instance.precision not in ("3xtf32", "tf32", "bf16", "fp16")


def of_instances(arch: int, which: Callable[[Instance], bool]) -> dict[Kernel, Use]:
    """Those of an architecture that `which` admits."""
    properties = planned_for(arch)
    found = [instance_uses(instance, properties) for instance in instances() if which(instance)]
    return {k: use for uses in found for k, use in uses.items() if instances_of(k)}


def measured(major: int, arch: int, kernels: Mapping[Kernel, Use]) -> list[Figures]:
    """Compiled and disassembled; from the cache folder where nothing has changed."""
    return figures(kernels, nvrtc.compilers()[major], arch)


def broken_by_all(found: Figures) -> Iterator[str]:
    """What is wrong with any kernel."""
    r = found.resources
    yield from found.warnings
    if r.spill_stores or r.spill_loads or r.stack:
        yield f"{found.spilled} bytes spilled, {r.stack} bytes of stack"
    if found.function is not None and found.function.mix.local:
        yield f"{found.function.mix.local} accesses to local memory"
    if r.registers * found.use.threads * max(found.use.planned, 1) > REGISTERS:
        yield (
            f"{r.registers} registers x {found.use.threads} threads x {found.use.planned} planned "
            f"blocks are more than {REGISTERS}"
        )
    if found.shared > 1024 * SHARED_PER_BLOCK[found.arch]:
        yield f"{found.shared} bytes of shared memory, more than a block of sm_{found.arch} has"


@dataclass(frozen=True)
class Floor:
    """What the main loop of some instances needs at least.

    Attributes:
        algorithm, direction, tile, precisions: which instances; None for all.
        unit: "FFMA" or "HMMA".
        share: of all instructions.
        loads: groups of memory classes; nine tenths of what a group moves, and something at all,
            goes by 128 bits (LDSM: by four matrices).
    """

    algorithm: str
    unit: str
    share: float
    loads: tuple[tuple[str, ...], ...]
    direction: str | None = None
    tile: tuple[int, int] | None = None
    precisions: tuple[str, ...] | None = None

    def covers(self, instance: Instance) -> bool:
        return (
            instance.algorithm == self.algorithm
            and self.direction in (None, instance.direction)
            and self.tile in (None, (instance.tile_m, instance.tile_n))
            and (self.precisions is None or instance.precision in self.precisions)
        )

    def broken(self, found: Figures) -> Iterator[str]:
        loop = found.main_loop
        if loop is None:
            yield "no main loop"
            return
        if loop.mix.share(self.unit) < self.share:
            yield f"{self.unit} {loop.mix.share(self.unit):.1%} of the main loop < {self.share:.0%}"
        for group in self.loads:
            widest = 4 if group == ("LDSM",) else 128
            moved = Counter[int]()
            for name in group:
                for width, number in loop.mix.widths(name).items():
                    moved[width] += width * number
            if not moved or moved[widest] < 0.9 * sum(moved.values()):
                yield f"{' and '.join(group)}: {dict(moved)} by width, too little by {widest}"


_LARGE = (128, 128)
FLOORS = (
    Floor("simt", "FFMA", 0.80, (("LDS",), ("LDG", "LDGSTS")), tile=_LARGE),
    Floor("simt", "FFMA", 0.70, (("LDS",), ("LDG", "LDGSTS"))),
    Floor("tensorcore", "HMMA", 0.38, (), tile=_LARGE, precisions=("bf16", "fp16", "tf32")),
    Floor("tensorcore", "HMMA", 0.40, (), tile=_LARGE, precisions=("3xtf32",)),
    Floor("tensorcore", "HMMA", 0.0, (("LDSM",),), precisions=("bf16", "fp16")),
    Floor("tensorcore", "HMMA", 0.0, (("LDGSTS",),)),
)
PRODUCTS = Floor("simt", "FFMA", 0.80, (("LDS",), ("LDG", "LDGSTS")))
"""Of the large tiles of matrix products."""


def instances_of(kernel: Kernel) -> list[Instance]:
    return [instance for instance in instances() if is_of(instance, kernel)]


def is_product(kernel: Kernel) -> bool:
    """Whether it is a tile of matrix products."""
    return any((t.file, t.entry) == (kernel.module.file, kernel.entry) for t in TILES)


def is_held(kernel: Kernel) -> bool:
    """Whether `held_shares.json` has a line of it."""
    return bool(instances_of(kernel)) or is_product(kernel)


def broken_floors(found: Figures) -> Iterator[str]:
    # Of later architectures nobody has said yet what their loops should look like.
    if ("real", "double") in found.kernel.module.defines or found.arch > 90:
        return
    for instance in instances_of(found.kernel):
        for floor in FLOORS:
            if floor.covers(instance):
                yield from floor.broken(found)
    if is_product(found.kernel) and found.kernel.entry == "gemm_simt":
        yield from PRODUCTS.broken(found)


def share(found: Figures) -> float:
    """Of FFMA, HMMA, IMMA or DFMA in the main loop, whichever it is made of."""
    loop = found.main_loop
    if loop is None:
        return 0.0
    return max(loop.mix.share(unit) for unit in ("FFMA", "HMMA", "IMMA", "DFMA"))


def title(kernel: Kernel) -> str:
    return f"{kernel.entry} {kernel.module}"


def target(major: int, arch: int) -> str:
    return f"CUDA {major} sm_{arch}"


@cache
def held() -> dict[str, dict[str, float]]:
    """Kernel -> target -> share that is held."""
    found: dict[str, dict[str, float]] = json.loads(HELD.read_text(encoding="utf-8"))
    return found


def write_held() -> None:
    """The shares of now, minus a point, for the targets of `WHOLE`."""
    found: dict[str, dict[str, float]] = {}
    for major, arch in WHOLE:
        kernels = {k: u for k, u in everything(arch).items() if is_held(k)}
        for one in measured(major, arch, kernels):
            found.setdefault(title(one.kernel), {})[target(major, arch)] = round(
                max(share(one) - POINT, 0.0), 3
            )
    HELD.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_held()
