"""Machine code read back: what the loops of a kernel are made of.

`read` disassembles cubins with NVIDIA's nvdisasm (wheel nvidia-cuda-nvdisasm, no GPU needed) and
counts instructions by class, in whole kernels and in their loops. A loop is what lies between the
target of a backward branch and the branch. The counts are static: an instruction under a predicate
counts, and code that the compiler moved out of the loop's address range does not.
"""

from __future__ import annotations

import bisect
import importlib.metadata
import json
import re
import shutil
import struct
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gpucnn.backends.gpu.store import key, store

INSTALL = "pip install nvidia-cuda-nvdisasm"
"""What to say where there is no disassembler."""

_LINE = re.compile(
    r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+ +)?([A-Z]\w*)((?:\.\w+)*)([^;]*);", re.MULTILINE
)
_TARGET = re.compile(r"(?<!\[)0x([0-9a-f]+)\s*$")
_ACCESSES = {
    "LDS", "STS", "LDG", "STG", "LDGSTS", "LDSM", "STSM", "LDL", "STL", "LD", "ST", "LDC", "RED",
    "ATOM", "ATOMG", "ATOMS",
}  # fmt: skip
_BITS = {"8": 8, "U8": 8, "S8": 8, "16": 16, "U16": 16, "S16": 16, "64": 64, "128": 128}
_INSTRUCTION = 16  # bytes, from sm_70 on


@dataclass(frozen=True)
class Mix:
    """Instructions of a stretch of code: class -> number, such as FFMA, BAR, LDS.128, LDG.32.

    Memory classes carry the bits that a thread moves; LDSM the number of its matrices (LDSM.4).
    """

    counts: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def number(self, name: str) -> int:
        """Instructions of a class, of all widths."""
        return sum(n for kind, n in self.counts.items() if kind.partition(".")[0] == name)

    def share(self, *names: str) -> float:
        """Part of all instructions, 0 to 1."""
        return sum(map(self.number, names)) / max(self.total, 1)

    def widths(self, name: str) -> dict[int, int]:
        """Bits (matrices of LDSM) -> number of instructions of a memory class, widest first."""
        found = {
            int(kind.partition(".")[2]): n
            for kind, n in self.counts.items()
            if kind.startswith(name + ".")
        }
        return dict(sorted(found.items(), reverse=True))

    @property
    def local(self) -> int:
        """Accesses to local memory: spills, and arrays that did not fit registers."""
        return self.number("LDL") + self.number("STL")


@dataclass(frozen=True)
class Loop:
    """The instructions from address `start` to the backward branch at `end` (bytes)."""

    start: int
    end: int
    mix: Mix

    def contains(self, other: Loop) -> bool:
        return self != other and self.start <= other.start and other.end <= self.end


@dataclass(frozen=True)
class Function:
    """One kernel: all its instructions, and its loops by address."""

    name: str
    mix: Mix
    loops: tuple[Loop, ...]

    @property
    def main_loops(self) -> tuple[Loop, ...]:
        """The innermost loops with more than half of the arithmetic of the best, best first.

        A kernel without arithmetic in loops is judged by its memory accesses instead. Remainders
        of unrolled loops, and loops around the main one, are left out by this rule.
        """
        for names in _JUDGED_BY:

            def weight(loop: Loop, names: Sequence[str] = names) -> int:
                return sum(map(loop.mix.number, names))

            best = max(map(weight, self.loops), default=0)
            if best:
                heavy = [loop for loop in self.loops if 2 * weight(loop) > best]
                inner = [loop for loop in heavy if not any(loop.contains(o) for o in heavy)]
                return tuple(sorted(inner, key=lambda loop: -weight(loop)))
        return ()

    @property
    def main_loop(self) -> Loop | None:
        """The first of `main_loops`."""
        return next(iter(self.main_loops), None)


_JUDGED_BY = (("HMMA", "IMMA"), ("FFMA", "DFMA"), tuple(sorted(_ACCESSES)))
Functions = dict[str, Function]


@cache
def nvdisasm() -> Path | None:
    """The disassembler: of the wheel, else of a CUDA installation on PATH, else None."""
    try:
        files = importlib.metadata.files("nvidia-cuda-nvdisasm") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.stem == "nvdisasm":
            path = Path(str(file.locate()))
            if path.is_file():
                return path
    found = shutil.which("nvdisasm")
    return Path(found) if found else None


def read(cubins: Sequence[bytes], arch: int) -> list[Functions]:
    """The kernels of each cubin by name.

    All of them are disassembled in one run, because starting nvdisasm takes longer than its work;
    what was read before comes from the cache folder.

    Args:
        arch: what they were compiled for, as 80 for sm_80.

    Raises:
        RuntimeError: nvdisasm is not installed, or refuses. ValueError: not a cubin.
    """
    tool = nvdisasm()
    if tool is None:
        raise RuntimeError(f"sass: nvdisasm is not installed ({INSTALL})")
    kept, identity = store(), f"{tool.name} {tool.stat().st_size}"
    titles = [key("sass 1", identity, str(arch), cubin) for cubin in cubins]
    found = [_from_json(kept.get(title)) for title in titles]
    missing = [i for i, functions in enumerate(found) if functions is None]
    if missing:
        for i, functions in zip(missing, _read(tool, [cubins[i] for i in missing], arch)):
            found[i] = functions
            kept.put(titles[i], _to_json(functions))
    return [functions or {} for functions in found]


def _read(tool: Path, cubins: Sequence[bytes], arch: int) -> list[Functions]:
    """The code of all cubins in one file without a format, as one run disassembles it."""
    pieces = [list(sections(cubin)) for cubin in cubins]
    code = b"".join(text for piece in pieces for _, text in piece)
    if not code:
        return [{} for _ in cubins]
    lines = [*_instructions(_disassemble(tool, code, arch))]
    result: list[Functions] = []
    first = 0
    for piece in pieces:
        functions: Functions = {}
        for name, text in piece:
            last = first + len(text) // _INSTRUCTION
            functions[name] = _function(name, lines[first:last])
            first = last
        result.append(functions)
    if first != len(lines):
        raise RuntimeError(f"sass: nvdisasm gave {len(lines)} instructions for {first}")
    return result


def _disassemble(tool: Path, code: bytes, arch: int) -> str:
    with tempfile.TemporaryDirectory(prefix="gpucnn-sass-") as folder:
        path = Path(folder) / "code.bin"
        path.write_bytes(code)
        done = subprocess.run(
            [str(tool), "--binary", f"SM{arch}", "--no-dataflow", str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"sass: nvdisasm for sm_{arch}: {done.stderr.strip()}")
    return done.stdout


def sections(cubin: bytes) -> Iterator[tuple[str, bytes]]:
    """Name and code of each kernel of a cubin, a 64-bit ELF file. Raises ValueError."""
    try:
        if cubin[:5] != b"\x7fELF\x02":
            raise ValueError
        (table,) = struct.unpack_from("<Q", cubin, 40)
        size, number, names = struct.unpack_from("<HHH", cubin, 58)
        heads = [struct.unpack_from("<IIQQQQ", cubin, table + i * size) for i in range(number)]
        texts = heads[names][4]
        for head in heads:
            start = texts + head[0]
            name = cubin[start : cubin.index(b"\0", start)].decode()
            if name.startswith(".text."):
                yield name.removeprefix(".text."), cubin[head[4] : head[4] + head[5]]
    except (struct.error, ValueError, IndexError):
        raise ValueError(f"sass: takes a cubin, got {len(cubin)} bytes that are none") from None


def _instructions(text: str) -> Iterator[tuple[int, str, int | None]]:
    """Address, class and, of a branch, its target."""
    for address, name, modifiers, operands in _LINE.findall(text):
        target = None
        if name == "BRA" and (match := _TARGET.search(operands)):
            target = int(match[1], 16)
        yield int(address, 16), _kind(name, modifiers), target


@cache
def _kind(name: str, modifiers: str) -> str:
    if name not in _ACCESSES:
        return name
    parts = modifiers.split(".")
    if name in ("LDSM", "STSM"):
        return f"{name}.{parts[-1]}" if parts[-1] in ("2", "4") else f"{name}.1"
    return f"{name}.{next((_BITS[part] for part in parts if part in _BITS), 32)}"


def _function(name: str, lines: Sequence[tuple[int, str, int | None]]) -> Function:
    # The code ends with a branch to itself and NOPs that fill up the last cache line.
    last = max((i for i, (_, kind, _) in enumerate(lines) if kind != "NOP"), default=-1)
    lines = lines[: last + 1]
    addresses = [address for address, _, _ in lines]
    origin = addresses[0] if addresses else 0
    loops = {}
    for i, (address, _, target) in enumerate(lines):
        if target is not None and origin <= target < address:
            first = bisect.bisect_left(addresses, target)
            start = target - origin
            found = Loop(start, address - origin, _mix(lines[first : i + 1]))
            # Of several branches back to one place the last closes the loop.
            loops[start] = found
    return Function(name, _mix(lines), tuple(loops[start] for start in sorted(loops)))


def _mix(lines: Sequence[tuple[int, str, int | None]]) -> Mix:
    counts = Counter(kind for _, kind, _ in lines)
    return Mix(dict(sorted(counts.items())))


def _to_json(functions: Functions) -> bytes:
    rows = [
        [f.name, f.mix.counts, [[loop.start, loop.end, loop.mix.counts] for loop in f.loops]]
        for f in functions.values()
    ]
    return json.dumps(rows).encode()


def _from_json(data: bytes | None) -> Functions | None:
    if data is None:
        return None
    return {
        name: Function(name, Mix(counts), tuple(Loop(s, e, Mix(c)) for s, e, c in loops))
        for name, counts, loops in json.loads(data)
    }
