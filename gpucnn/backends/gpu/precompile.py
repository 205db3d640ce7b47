"""Many modules compiled at once, on all cores.

NVRTC compiles one program at a time in a process, whatever the threads (measured: two threads take
as long as one with 12.9 and with 13.5), so the work is spread over processes. They hand over what
they made through the cache folder, ours or CuPy's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from gpucnn.backends.gpu.cuda import compile_ahead
from gpucnn.backends.gpu.nvrtc import Compiled, compilers
from gpucnn.backends.gpu.workers import spread


class Job(NamedTuple):
    """One call of `Compiler.compile` with the NVRTC of CUDA `major`."""

    major: int
    source: str
    name: str
    arch: str
    options: tuple[str, ...] = ()


def missing(jobs: Iterable[Job]) -> list[Job]:
    """Those that the cache folder does not have, each once."""
    return [job for job in dict.fromkeys(jobs) if compilers()[job.major].kept(*job[1:]) is None]


def compile_all(jobs: Iterable[Job], workers: int | None = None) -> list[Compiled]:
    """What each job gives, in their order; those that the cache folder has cost nothing.

    Args:
        workers: processes at most; one a core by default, and 1 means this one.

    Raises:
        CompileError: a source does not compile.
    """
    jobs = list(jobs)
    left = missing(jobs)
    made = dict(zip(left, spread(_compile, left, workers), strict=True))
    return [made[job] if job in made else _compile(job) for job in jobs]


def _compile(job: Job) -> Compiled:
    return compilers()[job.major].compile(*job[1:])


def compile_with_cupy(sources: Sequence[str], index: int, workers: int | None = None) -> int:
    """Compile for CUDA device `index` into CuPy's cache, where `CudaRuntime` finds it.

    Returns:
        How many files CuPy's cache has gained: 0 where everything was there.
    """
    before = len(_cupy_cache())
    spread(partial(compile_ahead, index), sources, workers)
    return len(_cupy_cache()) - before


def cupy_folder() -> Path:
    """Where CuPy keeps what it compiled."""
    own = os.environ.get("CUPY_CACHE_DIR")
    return Path(own) if own else Path("~/.cupy/kernel_cache").expanduser()


def _cupy_cache() -> list[Path]:
    try:
        return list(cupy_folder().glob("*.cubin"))
    except OSError:
        return []
