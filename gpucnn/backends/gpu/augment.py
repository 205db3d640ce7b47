"""Images from stored bytes to normalised floats."""

from __future__ import annotations

from gpucnn.backends.gpu import elementwise, kernel
from gpucnn.backends.gpu.operands import (
    CHANNELS_LAST,
    aligned,
    ceil_div,
    check_limit,
    dense,
    struct,
    written_in,
)
from gpucnn.backends.gpu.runtime import Array, Runtime

THREADS, MOST_CHANNELS, TILE_BYTES = 256, 16, 16384  # of kernels/augment.cu
PIXELS = 1024
"""Of a block, about."""


def prepare_images(
    runtime: Runtime,
    images: Array,
    places: Array,
    factor: Array,
    offset: Array,
    y: Array,
    *,
    height: int,
    width: int,
) -> None:
    """y (N, C, height, width) float32 from images (N, C, H, W) uint8, in one launch.

    Image n is cut at row places[n, 0] and column places[n, 1] (int32, zeros outside), mirrored
    where places[n, 2], multiplied by factor (C,) and shifted by offset (C,), float32.
    """
    n, channels, h, w = images.shape
    check_limit("prepare_images", "the size of one image", channels * max(h * w, height * width))
    images, places = _on_16_bytes(runtime, dense(runtime, images)), dense(runtime, places)
    factor, offset = dense(runtime, factor), dense(runtime, offset)
    rows = max(min(ceil_div(PIXELS, max(width, 1)), height), 1)
    while rows > 1 and _tile_bytes(channels, rows, w) > TILE_BYTES:
        rows = ceil_div(rows, 2)
    with written_in(runtime, y, CHANNELS_LAST) as out:
        tiled = channels <= MOST_CHANNELS and n <= 65535
        tiled = tiled and _tile_bytes(channels, rows, w) <= TILE_BYTES
        entry = "prepare_images" if tiled else "prepare_images_direct"
        function = kernel.get("augment.cu", entry)
        line = width * channels
        vector = rows * line % 4 == 0 and height * line % 4 == 0 and aligned(runtime, out)
        problem = struct(
            function, "Images", None,
            channels=channels, h=h, w=w, height=height, width=width, rows=rows,
            count=images.size, vector=vector,
        )  # fmt: skip
        arrays = (images, places, factor, offset, out, problem)
        if out.size == 0:
            return
        if tiled:
            runtime.launch(function, (ceil_div(height, rows), n), (THREADS,), *arrays)
        else:
            grid = min(ceil_div(out.size, THREADS), 32 * runtime.properties().multiprocessors)
            runtime.launch(function, (grid,), (THREADS,), *arrays, out.size)


def _tile_bytes(channels: int, rows: int, w: int) -> int:
    """Shared memory that the rows under a block take, with what the words reach beyond."""
    return channels * (rows * w // 16 + 2) * 16


def _on_16_bytes(runtime: Runtime, images: Array) -> Array:
    """The images where they can be read in 16-byte words."""
    if aligned(runtime, images):
        return images
    result = runtime.empty(images.shape, images.dtype)
    elementwise.copy(runtime, images, result)
    return result
