"""What `gpucnn kernels` says of each kernel: a row of plain data, the table, and the documents'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpucnn.backends.gpu.figures import Use
    from gpucnn.backends.gpu.kernel import Kernel
    from gpucnn.backends.gpu.nvrtc import Compiler

Row = dict[str, Any]

START, END = "<!-- kernels:start -->", "<!-- kernels:end -->"
HEAD = [
    "kernel", "defines", "registers", "spills", "local", "shared", "threads", "occupancy", "loop",
    "arithmetic", "LDS", "LDG",
]  # fmt: skip
COUNTED = ["bank conflicts", "sectors loaded", "sectors stored"]


def number(arch: str) -> int:
    """80 of "sm_80" or "80". Raises ValueError where occupancy is not known."""
    from gpucnn.backends.gpu.occupancy import LIMITS

    name = arch.removeprefix("sm_").removeprefix("compute_")
    if not name.isdecimal() or int(name) not in LIMITS:
        known = ", ".join(f"sm_{number}" for number in LIMITS)
        raise ValueError(f"--arch: {arch!r} is not one of {known}")
    return int(name)


def compiler(arch: int, major: int | None = None) -> Compiler:
    """The NVRTC of CUDA `major`, or the oldest that knows the architecture.

    Raises:
        RuntimeError: there is none.
    """
    from gpucnn.backends.gpu.nvrtc import compilers

    found = compilers()
    if not found:
        raise RuntimeError(
            "kernels: no NVRTC is installed; pip install nvidia-cuda-nvrtc-cu12 "
            "(or nvidia-cuda-nvrtc for CUDA 13)"
        )
    for known in found.values():
        if arch in known.architectures() and major in (None, known.version[0]):
            return known
    raise RuntimeError(f"kernels: none of {list(found.values())} knows sm_{arch}")


def selected(only: str, arch: int) -> dict[Kernel, Use]:
    """The kernels for an architecture with `only` in their name or module.

    Raises ValueError where there is none.
    """
    from gpucnn.backends.gpu.estimate import planned_for
    from gpucnn.cases import CASES
    from gpucnn.cases.specialisations import specialisations

    found = {
        kernel: use
        for kernel, use in specialisations(CASES, planned_for(arch)).items()
        if only in f"{kernel.entry} {kernel.module}"
    }
    if not found:
        raise ValueError(f"no kernel has {only!r} in its name")
    return found


def rows(only: str, arch: int, major: int | None, counters: bool) -> list[Row]:
    """A row a kernel, as `Figures.row` has it, with "counters" where they are asked for."""
    from gpucnn.backends.gpu.figures import figures
    from gpucnn.cli.kernel_counters import count

    kernels = selected(only, arch)
    found = {f.kernel: f.row() for f in figures(kernels, compiler(arch, major), arch)}
    if counters:
        counted = count(kernels)
        for kernel, row in found.items():
            row["counters"] = counted.get(kernel)
    return list(found.values())


def cells(row: Row) -> list[str]:
    """A row of the table under `HEAD`, and `COUNTED` where it was counted."""
    loop = row["main_loop"]
    found = [
        row["entry"], row["defines"], str(row["registers"]), str(row["spilled_bytes"]),
        _or_blank(row["local_accesses"]), str(row["shared_bytes"]), str(row["threads"]),
        f"{row['occupancy']:.0%}", _or_blank(loop and loop["instructions"]), _arithmetic(loop),
        _widest(loop, "shared_loads"), _widest(loop, "global_loads", "async_copies"),
    ]  # fmt: skip
    if "counters" in row:
        counted = row["counters"]
        found += ["", "", ""] if counted is None else _counted_cells(counted)
    return found


def _or_blank(value: int | None) -> str:
    return "" if value is None else str(value)


def _arithmetic(loop: Mapping[str, Any] | None) -> str:
    """The largest share, such as "FFMA 83 %"."""
    if loop is None:
        return ""
    share, name = max((loop[f"{n}_share"], n.upper()) for n in ("ffma", "hmma", "dfma"))
    return f"{name} {share:.1%}" if share else ""


def _widest(loop: Mapping[str, Any] | None, *names: str) -> str:
    """Bits and number of loads, such as "128 x 64, 32 x 4"."""
    if loop is None:
        return ""
    found = {int(bits): n for name in names for bits, n in loop[name].items()}
    return ", ".join(f"{bits} x {found[bits]}" for bits in sorted(found, reverse=True))


def _counted_cells(counted: Row) -> list[str]:
    return [
        str(counted["bank_conflicts"]),
        *(
            f"{counted[f'{kind}_sectors']} ({counted[f'{kind}_sectors_ideal']})"
            for kind in ("load", "store")
        ),
    ]


def write_table(path: Path, found: Sequence[Row], command: str) -> None:
    """Put the table between the markers of a Markdown file; the rest of it stays as it is.

    Raises:
        ValueError: it has not exactly one pair of markers, the first before the second.
        OSError: it cannot be read or written.
    """
    text = path.read_text(encoding="utf-8")
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end or START in rest or END in before or END in after:
        raise ValueError(f"{path}: needs one line {START} and after it one line {END}")
    body = "\n".join(markdown(found, command))
    path.write_text(f"{before}{START}\n{body}\n{END}{after}", encoding="utf-8")


def markdown(found: Sequence[Row], command: str) -> list[str]:
    """The lines between the markers."""
    head = HEAD + (COUNTED if "counters" in found[0] else [])
    lines = [
        f"Printed by `{command}`: {found[0]['compiler']}, {found[0]['arch']}.",
        "",
        f"| {' | '.join(head)} |",
        f"| --- | --- |{' ---: |' * (len(head) - 2)}",
    ]
    return lines + [f"| {' | '.join(cells(row))} |" for row in found]
