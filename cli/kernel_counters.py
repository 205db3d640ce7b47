"""What the emulated device counts in one launch of each kernel: conflicts of banks, sectors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpucnn.backends.gpu.emulated import EmulatedLaunch, EmulatedRuntime
    from gpucnn.backends.gpu.figures import Use
    from gpucnn.backends.gpu.kernel import Kernel
    from gpucnn.backends.gpu.runtime import DeviceProperties

Row = dict[str, Any]


def count(kernels: Mapping[Kernel, Use]) -> dict[Kernel, Row]:
    """What the emulated device counts in a launch of each kernel.

    Instances of the convolution and tiles of matrix products run on a small problem that fills
    their tiles; of the others, the launch with the most blocks in rows of the table of cases, of
    which few run.
    """
    from gpucnn.backends.gpu.gemm_tiles import TILES
    from gpucnn.backends.gpu.instances import instances
    from gpucnn.backends.gpu.workers import spread
    from gpucnn.cases.specialisations import is_of, tile_uses

    own = {
        k: (n, "instance") for n, one in enumerate(instances()) for k in kernels if is_of(one, k)
    }
    for number, tile in enumerate(TILES):
        own |= {k: (number, "tile") for k in tile_uses(tile) if k in kernels and _is_float32(k)}
    others = [kernel for kernel in kernels if kernel not in own]
    runs = [*set(own.values()), *_covering(others)]
    best: dict[tuple[str, str], tuple[int, Row]] = {}
    for found in spread(_counted, runs):
        for name, (blocks, row) in found.items():
            if name not in best or best[name][0] < blocks:
                best[name] = blocks, row
    names = {kernel: (str(kernel.module), kernel.entry) for kernel in kernels}
    return {kernel: best[name][1] for kernel, name in names.items() if name in best}


def _covering(kernels: Iterable[Kernel]) -> list[tuple[int, str]]:
    """Rows of the table (their numbers, with a dtype) that launch all kernels that any row does:
    at each step the one that adds most."""
    from gpucnn.backends.gpu.host import recording
    from gpucnn.cases import CASES, run

    launched: dict[tuple[int, str], set[Kernel]] = {}
    for number, case in enumerate(CASES):
        for dtype in ("float32", "float64"):
            with recording() as runtime:
                run(case, "emulated", dtype)
            launched[number, dtype] = {launch.kernel for launch in runtime.launches}
    chosen: list[tuple[int, str]] = []
    left = set(kernels) & set().union(*launched.values())
    while left:
        chosen.append(max(launched, key=lambda row: len(launched[row] & left)))
        left -= launched[chosen[-1]]
    return chosen


def _counted(what: tuple[int, str]) -> dict[tuple[str, str], tuple[int, Row]]:
    """Module and entry -> blocks and counters of the largest launch of the instance or tile of a
    number, or in a row of the table in a dtype."""
    number, kind = what
    found: dict[tuple[str, str], tuple[int, Row]] = {}
    if kind == "instance":
        title, launches = _instance(number)
    else:
        title, launches = _tile(number) if kind == "tile" else _row(number, kind)
    for launch in launches:
        name = str(launch.kernel.module), launch.kernel.entry
        blocks = launch.grid[0] * launch.grid[1] * launch.grid[2]
        if name not in found or found[name][0] < blocks:
            found[name] = blocks, _counters(title, launch)
    return found


def _row(number: int, dtype: str) -> tuple[str, list[EmulatedLaunch]]:
    """A row of the table: its name and its launches."""
    from gpucnn import backends
    from gpucnn.backends.gpu import GpuBackend
    from gpucnn.backends.gpu.host import A100
    from gpucnn.cases import CASES, run
    from gpucnn.core.device import Device

    runtime = _emulated(A100)
    with backends.serving(Device("emulated"), GpuBackend(runtime)):
        run(CASES[number], "emulated", dtype)
    return CASES[number].name, runtime.launches or []


def _instance(number: int) -> tuple[str, list[EmulatedLaunch]]:
    """An instance on a problem that fills its tiles."""
    from gpucnn.backends.gpu.estimate import planned_for
    from gpucnn.backends.gpu.instances import instances
    from gpucnn.backends.gpu.select import forced
    from gpucnn.cases.specialisations import launch_instance, small_size

    instance = instances()[number]
    for arch in (80, 89):  # Winograd's are for GeForce
        properties = planned_for(arch)
        problem = small_size(instance, properties)
        if problem is not None:
            runtime = _emulated(properties)
            with forced(instance.name):
                launch_instance(runtime, instance, problem)
            return f"{instance.direction} of {problem.geometry}", runtime.launches or []
    return "", []


def _tile(number: int) -> tuple[str, list[EmulatedLaunch]]:
    """A tile on products of 128 x 128."""
    from gpucnn.backends.gpu.gemm_tiles import TILES, forced
    from gpucnn.backends.gpu.host import A100
    from gpucnn.cases.specialisations import launch_products

    runtime = _emulated(A100)
    with forced(TILES[number]):
        launch_products(runtime, 128, "float32")
    return "products of 128 x 128", runtime.launches or []


def _is_float32(kernel: Kernel) -> bool:
    return ("real", "double") not in kernel.module.defines


def _emulated(properties: DeviceProperties) -> EmulatedRuntime:
    """It counts, and plans for a device of these properties."""
    from gpucnn import emulator
    from gpucnn.backends.gpu.emulated import EmulatedRuntime

    class Planned(EmulatedRuntime):
        def properties(self) -> DeviceProperties:
            return properties

    runtime = Planned(checks=emulator.NONE, counters=True)
    runtime.launches = []
    return runtime


def _counters(case: str, launch: EmulatedLaunch) -> Row:
    c = launch.report.counters
    wavefronts = c.shared_load_wavefronts + c.shared_store_wavefronts
    ideal = c.shared_load_wavefronts_ideal + c.shared_store_wavefronts_ideal
    return {
        "case": case,
        "grid": launch.grid,
        "bank_conflicts": wavefronts - ideal,
        "load_requests": c.load_requests,
        "load_sectors": c.load_sectors,
        "load_sectors_ideal": c.load_sectors_ideal,
        "store_requests": c.store_requests,
        "store_sectors": c.store_sectors,
        "store_sectors_ideal": c.store_sectors_ideal,
    }
