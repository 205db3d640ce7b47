"""Which instance computes a convolution: the one with the best score on the device.

    score = useful share of the tiles x share of the device that the blocks keep busy
            x share of the units' peak that the instruction mix allows x the units' peak

in units of the device's fp32 peak. It is arithmetic on sizes and a device description: the same
call gets the same instance in every run, and no GPU is needed to ask.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from gpucnn.backends.gpu import conv_tensorcore
from gpucnn.backends.gpu.instances import Instance, Plan, Problem, algorithm, instances
from gpucnn.backends.gpu.runtime import DeviceProperties

if TYPE_CHECKING:
    from gpucnn.ops.geometry import Conv2dGeometry

ALLOWED = {
    "auto": ("fp32", "3xtf32", "winograd"),
    "fp32": ("fp32",),
    "3xtf32": ("fp32", "3xtf32"),
    "tf32": ("fp32", "3xtf32", "tf32"),
    "bf16": ("fp32", "bf16"),
    "fp16": ("fp32", "fp16"),
}
"""What a precision asked for admits: itself, and what is more accurate."""

_GEFORCE = ((7, 5), (8, 6), (8, 9), (12, 0))
"""Where float32 Winograd pays: elsewhere the tensor cores are faster near float32."""

_RATES = {
    # compute capability: peaks of the tensor cores over that of the fp32 lanes
    (7, 5): {"fp16": 8.0},
    (8, 0): {"3xtf32": 8 / 3, "tf32": 8.0, "bf16": 16.0, "fp16": 16.0},
    (8, 6): {"3xtf32": 1 / 3, "tf32": 1.0, "bf16": 2.0, "fp16": 2.0},
    (8, 9): {"3xtf32": 1 / 3, "tf32": 1.0, "bf16": 2.0, "fp16": 2.0},
    # mma.sync reaches about 0.62 of what wgmma does.
    (9, 0): {"3xtf32": 1.5, "tf32": 4.6, "bf16": 9.2, "fp16": 9.2},
    (10, 0): {"3xtf32": 1.5, "tf32": 4.6, "bf16": 9.2, "fp16": 9.2},
    (12, 0): {"3xtf32": 1 / 3, "tf32": 1.0, "bf16": 2.0, "fp16": 2.0},
}

FLOPS_PER_BYTE = 16
"""Operations of the fp32 lanes in the time that a byte takes to or from memory: about what the data
sheets of A100 and H100 say."""

_forced: ContextVar[str | None] = ContextVar("forced", default=None)


class Scored(NamedTuple):
    """An instance with its score, the factors of it, and its launch."""

    instance: Instance
    score: float
    parts: dict[str, float]
    plan: Plan


def choose(
    direction: str,
    geometry: Conv2dGeometry,
    precision: str,
    properties: DeviceProperties,
    *,
    dtype: str = "float32",
    aligned: bool = True,
    statistics: bool = False,
) -> Instance:
    """The instance with the best score.

    Args:
        direction: "forward", "backward_input" or "backward_weight".
        precision: "auto", "fp32", "3xtf32", "tf32", "bf16" or "fp16"; without effect on float64.
        dtype: of the arrays.
        aligned: whether all arrays begin on 16 bytes.
        statistics: whether the output's batch statistics are wanted too.

    Raises:
        ValueError: the instances of `forced` cannot compute it.
        RuntimeError: the device has no tensor cores for the precision.
    """
    problem = Problem(direction, geometry, dtype, aligned, statistics)
    if dtype == "float32":
        conv_tensorcore.check("conv2d", precision, properties)
    return _scores(problem, precision, properties, _forced.get())[0].instance


def explain(
    direction: str,
    geometry: Conv2dGeometry,
    precision: str,
    properties: DeviceProperties,
    *,
    dtype: str = "float32",
    aligned: bool = True,
    statistics: bool = False,
) -> list[Scored]:
    """All instances that could compute it, the best first. Arguments as for `choose`."""
    problem = Problem(direction, geometry, dtype, aligned, statistics)
    return list(_scores(problem, precision, properties, _forced.get()))


@contextmanager
def forced(name: str) -> Iterator[None]:
    """Within it, the algorithm or the one instance of this name, in the directions it has.

    Raises ValueError where there is no such name; `choose` raises where it cannot compute what is
    asked for. Precisions are not looked at.
    """
    if not any(name in (instance.algorithm, instance.name) for instance in instances()):
        known = ", ".join(dict.fromkeys(instance.algorithm for instance in instances()))
        raise ValueError(f"forced: no algorithm or instance {name!r}; the algorithms are {known}")
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def is_forced(instance: Instance) -> bool:
    """Whether `forced` names this instance or its algorithm."""
    return _forced.get() in (instance.algorithm, instance.name)


@lru_cache(maxsize=4096)
def _scores(
    problem: Problem, precision: str, properties: DeviceProperties, only: str | None
) -> tuple[Scored, ...]:
    allowed = ALLOWED[precision]
    if properties.compute_capability not in _GEFORCE:
        allowed = tuple(name for name in allowed if name != "winograd")
    candidates = [i for i in instances() if i.direction == problem.direction]
    named = [i for i in candidates if only in (i.algorithm, i.name)]
    depth = problem.product[2] if precision == "auto" else math.inf
    chosen = named or [i for i in candidates if i.precision in allowed and i.auto_depth <= depth]
    found = [
        _score(instance, problem, properties)
        for instance in chosen
        if algorithm(instance.algorithm).supports(instance, problem, properties)
    ]
    if not found:
        raise ValueError(f"forced: {only!r} cannot compute {problem}")
    return tuple(sorted(found, key=lambda scored: -scored.score))


def _score(instance: Instance, problem: Problem, properties: DeviceProperties) -> Scored:
    plan = algorithm(instance.algorithm).plan(instance, problem, properties)
    parts = {
        "tiles": plan.useful,
        "waves": wave_share(plan.blocks, instance, properties.multiprocessors),
        "pipe": instance.pipe_cap,
        "peak": peak(instance.precision, properties),
    }
    score = parts["tiles"] * parts["waves"] * parts["pipe"] * parts["peak"]
    if problem.statistics and not instance.statistics and score:
        # The output is read once more: 4 bytes each, beside two operations for each depth.
        parts["pass"] = 1 / (1 + score * 4 * FLOPS_PER_BYTE / max(2 * problem.product[2], 1))
        score *= parts["pass"]
    return Scored(instance, score, parts, plan)


def peak(precision: str, properties: DeviceProperties) -> float:
    """Peak of a precision's units over that of the fp32 lanes; 0 where there are none."""
    if precision in ("fp32", "winograd"):
        return 1.0
    major, minor = properties.compute_capability
    rates = _RATES.get((major, minor)) or _RATES.get((major, 0), {})
    return rates.get(precision, 0.0)


def wave_share(blocks: int, instance: Instance, multiprocessors: int) -> float:
    """Share of the device's rate that so many blocks reach.

    The busiest multiprocessor works through its blocks in rounds of those that fit together. A
    round of W warps runs at W / (W + 2) of the peak: the more warps, the less of their latency
    shows (a model, not a measurement).
    """
    if not blocks:
        return 1.0
    most = -(-blocks // multiprocessors)
    rounds, rest = divmod(most, instance.blocks_per_sm)
    warps = instance.threads / 32
    time = rounds * (instance.blocks_per_sm + 2 / warps) + (rest + 2 / warps if rest else 0)
    return blocks / multiprocessors / time


def tile_share(instance: Instance, product: tuple[int, int, int], splits: int = 1) -> float:
    """Share of the tiles' multiply-adds that a product (rows, columns, depth) needs.

    Each block's first fetch and last stores cost about two steps more.
    """
    m, n, k = product
    if not (m and n and k):
        return 1.0
    steps = -(-k // splits // instance.tile_k) + 2
    rows = -(-m // instance.tile_m) * instance.tile_m
    columns = -(-n // instance.tile_n) * instance.tile_n
    return m * n * k / (rows * columns * steps * instance.tile_k * splits)
