"""Which instance computes a convolution, by time instead of by score: optional, off by default.

With `GPUCNN_AUTOTUNE=1` or `autotune(True)`, the first time that a convolution is met on a GPU the
best few by score are run on its own arrays and timed by events; the quickest is kept, in memory
and in `autotune.json` in the cache folder, under the device, its compute capability, the driver,
the kernels' source, the problem and the candidates. Instances differ in the order of their sums:
two machines, or two tunings, may then differ in the last bits. Without it the score alone decides,
and the same call gives the same bits in every run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from gpucnn.backends.gpu import cuda, select
from gpucnn.backends.gpu.instances import Instance, Problem
from gpucnn.backends.gpu.kernel import KERNELS
from gpucnn.backends.gpu.runtime import DeviceProperties, Runtime
from gpucnn.backends.gpu.store import folder

CANDIDATES = 3
"""How many of the best by score are timed."""
WORTH_TIMING = 0.5
"""An instance with less than this share of the best score is not."""
ROUNDS, LAUNCHES = 5, 3
"""Each candidate is timed this often, so many launches at a time; the median counts."""
MARGIN = 0.98
"""A lower score must take less than this share of the time to be preferred."""
_FORMAT = 1

_wanted: bool | None = None
_known: dict[tuple[Any, ...], Instance] = {}


def autotune(on: bool = True) -> None:
    """Choose kernels of convolutions by time (on a GPU), or by score alone.

    Overrides the environment's `GPUCNN_AUTOTUNE`.
    """
    global _wanted
    _wanted = on


def enabled() -> bool:
    """Whether kernels are chosen by time."""
    if _wanted is not None:
        return _wanted
    return os.environ.get("GPUCNN_AUTOTUNE", "") not in ("", "0")


def choose(
    runtime: Runtime, problem: Problem, precision: str, launch: Callable[[Instance], None]
) -> Instance:
    """The instance for a problem: by time where that is wanted and can be had, else by score.

    Args:
        precision: as of `select.choose`.
        launch: computes the problem by an instance, in full and as often as it is called.

    Raises:
        ValueError: the instances of `select.forced` cannot compute it.
    """
    properties = runtime.properties()
    scored = select.explain(
        problem.direction,
        problem.geometry,
        precision,
        properties,
        dtype=problem.dtype,
        aligned=problem.aligned,
        statistics=problem.statistics,
    )
    best = scored[0].instance
    if not enabled():
        return best
    candidates = tuple(
        one.instance for one in scored[:CANDIDATES] if one.score >= WORTH_TIMING * scored[0].score
    )
    if len(candidates) < 2:
        return best
    name = (properties, problem, candidates)
    if name not in _known:
        found = _tuned(runtime, properties, problem, candidates, launch)
        if found is None:
            return best
        _known[name] = found
    return _known[name]


def forget() -> None:
    """Drop what this process has chosen; the file stays."""
    _known.clear()


def _tuned(
    runtime: Runtime,
    properties: DeviceProperties,
    problem: Problem,
    candidates: Sequence[Instance],
    launch: Callable[[Instance], None],
) -> Instance | None:
    """That of the file, or the quickest; None where no time can be measured now."""
    facts = _facts(properties, problem, candidates)
    title = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    entry = _read(_file()).get(title)
    for instance in candidates:
        if isinstance(entry, dict) and entry.get("instance") == instance.name:
            return instance
    times = _times(runtime, candidates, launch)
    if times is None:
        return None
    quickest = candidates[0]
    for instance in candidates[1:]:
        if times[instance.name] < MARGIN * times[quickest.name]:
            quickest = instance
    _add(_file(), title, {**facts, "instance": quickest.name, "microseconds": times})
    return quickest


def _times(
    runtime: Runtime, candidates: Iterable[Instance], launch: Callable[[Instance], None]
) -> dict[str, float] | None:
    """Microseconds of each by name; None on a device without a clock, or inside a capture."""
    if getattr(runtime, "capturing", False):
        return None
    try:
        runtime.record_event()
    except RuntimeError:
        return None
    order = list(candidates)
    measured: dict[str, list[float]] = {instance.name: [] for instance in order}
    for instance in order:
        launch(instance)  # compiles
    for _ in range(ROUNDS):
        for instance in order:
            start = runtime.record_event()
            for _ in range(LAUNCHES):
                launch(instance)
            elapsed = runtime.elapsed_ms(start, runtime.record_event())
            measured[instance.name].append(1e3 * elapsed / LAUNCHES)
    return {name: statistics.median(values) for name, values in measured.items()}


def _facts(
    properties: DeviceProperties, problem: Problem, candidates: Iterable[Instance]
) -> dict[str, Any]:
    """All that the choice depends on."""
    return {
        "device": properties.name,
        "compute_capability": list(properties.compute_capability),
        "driver": cuda._driver_version(),
        "sources": _sources(),
        "problem": asdict(problem),
        "candidates": [instance.name for instance in candidates],
    }


@cache
def _sources() -> str:
    """A hash of all kernels."""
    digest = hashlib.sha256()
    for path in sorted(KERNELS.glob("*.cu*")):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _file() -> Path:
    return folder() / "autotune.json"


def _read(path: Path) -> dict[str, Any]:
    """The choices of the file. One that cannot be read counts as empty, with a line on stderr."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] == _FORMAT and isinstance(content["choices"], dict):
            return dict(content["choices"])
        reason = "it is of another version"
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
    print(f"gpucnn: autotune: {path} is not used ({reason})", file=sys.stderr)
    return {}


def _add(path: Path, title: str, entry: dict[str, Any]) -> None:
    """Add a choice to the file, which other processes may be reading and replacing."""
    part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    content = {"format": _FORMAT, "choices": {**_read(path), title: entry}}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(content, indent=1), encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        print(f"gpucnn: autotune: {path} cannot be written ({error})", file=sys.stderr)
