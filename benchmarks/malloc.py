"""The settings of glibc's malloc, which it reads when a process begins.

With the stock ones large arrays come fresh from the system each time, page by page, zeroed. The
tuned ones keep them; both libraries gain.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

TUNED = {
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
    "MALLOC_TOP_PAD_": "500000000",
}
_OTHERS = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
"""Variables that begin so may set another malloc, or this one otherwise."""


def state(environment: Mapping[str, str]) -> str:
    """ "tuned", "stock", or "as set" for something else."""
    found = {k: v for k, v in environment.items() if k.startswith(_OTHERS)}
    return "stock" if not found else "tuned" if found == TUNED else "as set"


def apply(wanted: str | None) -> None:
    """Begin the process anew with other settings, where they are not those that are wanted.

    Args:
        wanted: "tuned", "stock", or None for those in force.

    Raises:
        ValueError: another malloc is preloaded, or set by GLIBC_TUNABLES.
    """
    if wanted is None or state(os.environ) == wanted:
        return
    foreign = [name for name in ("GLIBC_TUNABLES", "LD_PRELOAD") if name in os.environ]
    if foreign:
        raise ValueError(f"--malloc {wanted}: {foreign[0]} is set, which changes malloc as well")
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    sys.stdout.flush()
    sys.stderr.flush()
    more = TUNED if wanted == "tuned" else {}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**kept, **more})
