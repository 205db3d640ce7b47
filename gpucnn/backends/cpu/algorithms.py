"""Which algorithm a convolution takes: the one that `algorithm_times` finds fastest for its sizes.

name                what                                             error, of the largest result
patches             blocks of a patch matrix; few pixels: of lines   1e-6 (a float32 sum)
pointwise           1 x 1 filters: the images are the patch matrix   1e-6
scatter             backward_input: products added where they go     1e-6
batch_last          few channels, the batch innermost in memory      1e-6
depthwise           one filter a channel: shifted images             1e-6
winograd4           3 x 3, stride 1 or 2: tiles of 4 x 4 outputs     1e-5
winograd2           3 x 3 or 5 x 5, stride 1: tiles of 2 x 2         1e-5
depthwise_winograd  3 x 3 or 5 x 5, stride 1, one filter a channel   1e-5

Winograd's filtering is for float32, and for every precision but "fp32".
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from gpucnn.backends.cpu import algorithm_times as times
from gpucnn.backends.cpu.algorithm_times import BACKWARD_INPUT, BACKWARD_WEIGHT, FORWARD
from gpucnn.backends.cpu.patches import is_pointwise, turned
from gpucnn.ops.geometry import Conv2dGeometry

NHWC = (0, 2, 3, 1)
CHWN = (1, 2, 3, 0)


class Algorithm(NamedTuple):
    """An algorithm by its name in the module's table."""

    name: str
    fits: Callable[[Conv2dGeometry, str], bool]
    time: Callable[[Conv2dGeometry, str], float]  # nanoseconds of one thread
    order: tuple[int, ...] = NHWC  # of the images in memory
    exact: bool = True  # as a float32 sum is


def _is_depthwise(g: Conv2dGeometry, direction: str) -> bool:
    return g.groups > 1 and g.groups == g.c == g.k


def _is_single(g: Conv2dGeometry, direction: str) -> bool:
    """One group, and a forward convolution of dy where there must be one."""
    return g.groups == 1 and (direction != BACKWARD_INPUT or turned(g) is not None)


def _is_pointwise(g: Conv2dGeometry, direction: str) -> bool:
    return _is_single(g, direction) and is_pointwise(g)


def _is_scattered(g: Conv2dGeometry, direction: str) -> bool:
    return g.groups == 1 and direction == BACKWARD_INPUT


def _has_few_channels(g: Conv2dGeometry, direction: str) -> bool:
    """So few that the next layers will have few as well, and a batch to make rows of."""
    return g.groups == 1 and g.c <= 8 and g.k <= 16 and g.n >= 16 and g.dilation_h == 1


def _is_tiled(g: Conv2dGeometry, *sizes: tuple[int, int]) -> bool:
    """Whether the filters are square, and of one of these (side, stride)."""
    same = (g.r, g.stride_h, g.dilation_h, 1) == (g.s, g.stride_w, 1, g.dilation_w)
    if not same or (g.r, g.stride_h) not in sizes:
        return False
    if g.stride_h == 2:
        return g.pad_top == g.pad_left == 1
    return max(g.pad_top, g.pad_left, g.pad_bottom, g.pad_right) < g.r


def _is_winograd(m: int, g: Conv2dGeometry, direction: str) -> bool:
    sizes = ((3, 1), (3, 2)) if m == 4 else ((3, 1), (5, 1))
    return g.groups == 1 and _is_tiled(g, *sizes)


def _is_depthwise_winograd(g: Conv2dGeometry, direction: str) -> bool:
    tiled = direction != BACKWARD_WEIGHT and _is_tiled(g, (3, 1), (5, 1))
    return tiled and _is_depthwise(g, direction)


ALGORITHMS = (
    Algorithm("patches", _is_single, times.patches),
    Algorithm("pointwise", _is_pointwise, times.pointwise),
    Algorithm("scatter", _is_scattered, times.scatter),
    Algorithm("batch_last", _has_few_channels, times.batch_last, order=CHWN),
    Algorithm("depthwise", _is_depthwise, times.depthwise),
    Algorithm("winograd4", partial(_is_winograd, 4), partial(times.winograd, 4), exact=False),
    Algorithm("winograd2", partial(_is_winograd, 2), partial(times.winograd, 2), exact=False),
    Algorithm("depthwise_winograd", _is_depthwise_winograd, times.depthwise_winograd, exact=False),
)


class Choice(NamedTuple):
    """An algorithm's name and its time by the model, of one thread."""

    name: str
    milliseconds: float


@functools.lru_cache(maxsize=4096)
def _choices(
    g: Conv2dGeometry, direction: str, exact: bool, order: tuple[int, ...]
) -> tuple[Choice, ...]:
    found = [
        Choice(a.name, a.time(g, direction) / 1e6)
        for a in ALGORITHMS
        if a.order == order and (a.exact or not exact) and a.fits(g, direction)
    ]
    return tuple(sorted(found, key=lambda choice: choice.milliseconds))


@functools.lru_cache(maxsize=1024)
def order(g: Conv2dGeometry) -> tuple[int, ...]:
    """How the images that a convolution makes lie in memory: its choice for the layers around.

    Channels last, or the batch last where the three directions together are faster with it.
    """
    directions = (FORWARD, BACKWARD_INPUT, BACKWARD_WEIGHT)
    if not all(_choices(g, direction, True, CHWN) for direction in directions):
        return NHWC
    channels_last, batch_last = (
        sum(_choices(g, direction, True, order)[0].milliseconds for direction in directions)
        for order in (NHWC, CHWN)
    )
    return CHWN if batch_last < channels_last else NHWC


_forced: str | None = None


@contextlib.contextmanager
def forced(name: str) -> Iterator[None]:
    """Take the algorithm `name` wherever it can compute at all; for tests and measurements.

    Raises:
        ValueError: there is no such algorithm.
    """
    global _forced
    if name not in {algorithm.name for algorithm in ALGORITHMS}:
        known = ", ".join(algorithm.name for algorithm in ALGORITHMS)
        raise ValueError(f"forced: there is no algorithm {name!r}; there are {known}")
    before, _forced = _forced, name
    try:
        yield
    finally:
        _forced = before


def explain(
    geometry: Conv2dGeometry,
    direction: str,
    precision: str = "auto",
    images: tuple[int, ...] | None = None,
) -> tuple[Choice, ...]:
    """The algorithms that can compute one direction, the chosen one first.

    Args:
        geometry: of one group; `forward`'s, in every direction.
        direction: "forward", "backward_input" or "backward_weight".
        precision: "fp32" leaves out what is less exact than a float32 sum.
        images: their order in memory, if it is not the one preferred.

    Returns:
        Names with the model's time of one thread; empty only for groups that are not depthwise,
        which are computed one by one.
    """
    found = _choices(geometry, direction, precision == "fp32", images or order(geometry))
    if _forced is not None:
        found = tuple(sorted(found, key=lambda choice: choice.name != _forced))
    return found
