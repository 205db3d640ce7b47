"""`gpucnn kernels profile`: what launches do, counted on the emulated device, and an estimate."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from gpucnn.backends.gpu.emulated import EmulatedLaunch
    from gpucnn.backends.gpu.estimate import Estimate
    from gpucnn.cases import Case

_EPILOG = """\b
Examples:
  gpucnn kernels profile softmax --case softmax
  gpucnn kernels profile implicit_gemm --case "conv2d 3x64" --gpu h100
\b
The row is the first of the table of cases with ROW in its name that launches such a kernel. A
sector is 32 bytes; an ideal request touches no more of them than its bytes fill. A wavefront is a
pass over the 32 banks of shared memory. Counts are exact; times are estimates, not measurements:
the time of the busiest resource, blind to latency and to the rest of the machine."""


@click.command(epilog=_EPILOG)
@click.argument("name")
@click.option("--case", "row", metavar="ROW", default="", help="A row with ROW in its name.")
@click.option("--gpu", default="a100", show_default=True, help="t4, rtx3090, rtx4090, h100, b200.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON line a launch instead.")
def profile(name: str, row: str, gpu: str, as_json: bool) -> None:
    """Count what the kernels with NAME in their name do for a row of the table of cases."""
    from gpucnn.backends.gpu import estimate as estimates

    target = estimates.find(gpu)
    case, launches = _launches(name, row)
    if not as_json:
        click.echo(f"{case.name}{f' ({case.note})' if case.note else ''}")
    for launch in launches:
        threads = launch.block[0] * launch.block[1] * launch.block[2]
        found = estimates.estimate(
            gpu,
            launch.kernel,
            threads,
            launch.report.counters,
            launch.shared,
        )
        if as_json:
            click.echo(json.dumps(_as_dict(case, launch, found)))
        else:
            click.echo("")
            _print(launch, found, f"sm_{estimates.architecture(target)}")


def _launches(name: str, row: str) -> tuple[Case, list[EmulatedLaunch]]:
    """The first fitting row, run with counters, and its launches of such kernels."""
    import numpy as np

    from gpucnn import backends
    from gpucnn.backends.gpu import GpuBackend
    from gpucnn.backends.gpu.emulated import EmulatedRuntime
    from gpucnn.backends.gpu.host import recording
    from gpucnn.cases import CASES, run
    from gpucnn.core.device import Device

    rows = [case for case in CASES if row in case.name]
    if not rows:
        raise ValueError(f"no case has {row!r} in its name")
    for case in rows:
        with recording() as planned:
            run(case, "emulated", np.float32)
        if any(name in launch.kernel.entry for launch in planned.launches):
            break
    else:
        raise ValueError(f"no case with {row!r} in its name launches a kernel {name!r}")
    runtime = EmulatedRuntime(counters=True)
    runtime.launches = []
    with backends.serving(Device("emulated"), GpuBackend(runtime)):
        run(case, "emulated", np.float32)
    return case, [launch for launch in runtime.launches if name in launch.kernel.entry]


def _print(launch: EmulatedLaunch, found: Estimate, arch: str) -> None:
    c = launch.report.counters
    kinds = sorted(c.instructions.items(), key=lambda item: -item[1])
    waves = "" if found.waves is None else f"{found.waves:.2f} waves, "
    click.echo(f"{launch.kernel.entry} ({launch.kernel.module})")
    _line("launch", f"grid {_size(launch.grid)}, block {_size(launch.block)}")
    if found.registers is not None:
        _line(
            arch,
            f"{found.registers} registers, {found.shared or 0:,} bytes shared, "
            f"occupancy {found.occupancy or 0:.0%}",
        )
    _line("instructions", f"{c.warp_instructions:,} of warps, {c.active_lanes:.0%} of lanes active")
    _line("", ", ".join(f"{kind} {count:,}" for kind, count in kinds))
    _line("global loads", _sectors(c.load_requests, c.load_sectors, c.load_sectors_ideal))
    _line("global stores", _sectors(c.store_requests, c.store_sectors, c.store_sectors_ideal))
    _line("shared loads", _waves(c.shared_load_wavefronts, c.shared_load_wavefronts_ideal))
    _line("shared stores", _waves(c.shared_store_wavefronts, c.shared_store_wavefronts_ideal))
    _line("bytes", f"{c.bytes_read:,} read, {c.bytes_written:,} written (in sectors)")
    flops = ", ".join(f"{kind} {count:,}" for kind, count in sorted(c.flops.items()))
    _line("FLOPs", flops or "none")
    _line("barriers", f"{c.barriers:,} passed by warps; {c.divergent_branches:,} branches diverged")
    _line("estimate", str(found))
    _line("", f"{waves}{found.idle:.0%} of the multiprocessors' time idle for want of blocks")


def _line(label: str, text: str) -> None:
    click.echo(f"  {label:<15}{text}")


def _size(sizes: tuple[int, ...]) -> str:
    return " x ".join(map(str, sizes))


def _sectors(requests: int, sectors: int, ideal: int) -> str:
    if not requests:
        return "none"
    return (
        f"{requests:,} requests, {sectors:,} sectors: {sectors / requests:.2f} a request, "
        f"ideal {ideal / requests:.2f}"
    )


def _waves(wavefronts: int, ideal: int) -> str:
    return f"{wavefronts:,} wavefronts, ideal {ideal:,}" if wavefronts else "none"


def _as_dict(case: Case, launch: EmulatedLaunch, found: Estimate) -> dict[str, Any]:
    counters = asdict(launch.report.counters)
    lines = counters.pop("lines")
    return {
        "case": case.name,
        "entry": launch.kernel.entry,
        "file": launch.kernel.module.file,
        "defines": dict(launch.kernel.module.defines),
        "grid": launch.grid,
        "block": launch.block,
        "counters": counters,
        "lines": sorted(f"{file}:{line}" for file, line in lines),
        "estimate, not a measurement": asdict(found),
    }
