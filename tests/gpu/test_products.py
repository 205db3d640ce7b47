"""Matrix products with every tile: operands that lie anyhow, sums split over blocks, batches."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from gpucnn.backends.gpu import gemm, nvrtc
from gpucnn.backends.gpu.gemm_tiles import TILES, Tile, choose, forced
from gpucnn.backends.gpu.operands import ceil_div

if not nvrtc.compilers():
    pytest.skip("no NVRTC to make PTX", allow_module_level=True)

from gpucnn.backends.gpu.emulated import EmulatedLaunch, EmulatedRuntime  # noqa: E402
from gpucnn.cases.compare import assert_close  # noqa: E402

OLDEST, *NEWER = [EmulatedRuntime(c, counters=True) for c in nvrtc.compilers().values()]
by_tile = pytest.mark.parametrize("tile", TILES, ids=lambda t: f"{t.entry}-{t.m}x{t.n}")
SIMT = [tile for tile in TILES if tile.is_simt]
SLICED = [tile for tile in TILES if not tile.is_simt]


@pytest.fixture
def runtime() -> EmulatedRuntime:
    OLDEST.launches = []
    return OLDEST


def put(runtime: EmulatedRuntime, values: Any, how: str = "C") -> Any:
    """On the device: "C", "T" (the last two axes the other way round in memory), "S" (every second
    element), "R" (backwards), "U" (not on 16 bytes).
    """
    if how == "T":
        return put(runtime, values.swapaxes(-1, -2)).swapaxes(-1, -2)
    if how == "S":
        return put(runtime, np.repeat(values, 2, -1))[..., ::2]
    if how == "R":
        return put(runtime, values[..., ::-1])[..., ::-1]
    start = 1 if how == "U" else 0
    result = runtime.empty((values.size + start,), values.dtype)[start:].reshape(values.shape)
    result[...] = values
    return result


def multiply(
    runtime: EmulatedRuntime, a: Any, b: Any, how: str = "CC", dtype: Any = np.float32,
    full: bool = True,
) -> EmulatedLaunch:  # fmt: skip
    """Check y = a b, with bias, ReLU and mask where `full`; the first launch."""
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal(a).astype(dtype), rng.standard_normal(b).astype(dtype)
    expected = a.astype(np.float64) @ b.astype(np.float64)
    bias = rng.standard_normal(b.shape[-1]).astype(dtype) if full else None
    mask = rng.standard_normal(expected.shape).astype(dtype) if full else None
    if full:
        expected = np.where(mask <= 0, 0, np.maximum(expected + bias, 0))
    y = runtime.empty(expected.shape, dtype)
    gemm.matmul(
        runtime, put(runtime, a, how[0]), put(runtime, b, how[1]),
        None if bias is None else put(runtime, bias), None if mask is None else put(runtime, mask),
        y, relu=full, precision="auto",
    )  # fmt: skip
    assert_close(y, expected, 2e-6 if dtype == np.float32 else 1e-14)
    assert runtime.launches is not None
    return runtime.launches[-2 if runtime.launches[-1].kernel.entry == "split_k_finish" else -1]


def no_conflicts(launch: EmulatedLaunch) -> None:
    c = launch.report.counters
    assert c.shared_load_wavefronts == c.shared_load_wavefronts_ideal
    assert c.shared_store_wavefronts == c.shared_store_wavefronts_ideal


@pytest.mark.parametrize("runtime", [OLDEST, *NEWER], ids=lambda r: str(r.compiler))
@pytest.mark.parametrize("how", ["CC", "CT", "TC", "TT"])
@by_tile
def test_quads_beyond_a_tile(runtime: EmulatedRuntime, tile: Tile, how: str) -> None:
    """A few rows, columns and depths more than one tile and step; and no conflict of banks."""
    runtime.launches = []
    with forced(tile):
        launch = multiply(runtime, (tile.m + 4, 36), (36, tile.n + 4), how)
    assert launch.kernel.entry == tile.entry
    no_conflicts(launch)


@pytest.mark.parametrize("how", ["".join(pair) for pair in itertools.product("CTSRU", repeat=2)])
@pytest.mark.parametrize("tile", SLICED, ids=lambda t: t.m)
def test_operands_that_lie_anyhow(runtime: EmulatedRuntime, tile: Tile, how: str) -> None:
    with forced(tile):
        multiply(runtime, (19, 37), (37, 21), how)


@pytest.mark.parametrize("tile", SLICED, ids=lambda t: t.m)
def test_double(runtime: EmulatedRuntime, tile: Tile) -> None:
    with forced(tile):
        multiply(runtime, (33, 70), (70, 36), dtype=np.float64)
        multiply(runtime, (5, 2100), (2100, 7), "TR", np.float64)


def _long(tile: Tile) -> int:
    """A depth that is split."""
    return 700 if tile.is_simt else 2600


@by_tile
def test_a_long_sum_over_few_results(runtime: EmulatedRuntime, tile: Tile) -> None:
    with forced(tile):
        launch = multiply(runtime, (8, _long(tile)), (_long(tile), 12))
    assert launch.grid[1] > 1


@by_tile
def test_batches(runtime: EmulatedRuntime, tile: Tile) -> None:
    with forced(tile):
        for a, b in (((2, 3, 8, 20), (20, 12)), ((2, 1, 8, 20), (1, 3, 20, 12)),
                     ((3, 8, 20), (3, 20, 12))):  # fmt: skip
            multiply(runtime, a, b)
        multiply(runtime, (2, 1, 3, 4, 8), (1, 3, 1, 8, 4))  # three axes that do not join


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 0, 4), (5, 3, 1), (1, 700, 1)])
def test_next_to_nothing(runtime: EmulatedRuntime, shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    multiply(runtime, (m, k), (k, n))


@pytest.mark.parametrize("splits", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@by_tile
def test_gradients_of_a_linear_layer(
    runtime: EmulatedRuntime, tile: Tile, with_bias: bool, splits: bool
) -> None:
    rng, rows = np.random.default_rng(2), _long(tile) if splits else 36
    x = rng.standard_normal((rows, 20)).astype(np.float32)
    dy = rng.standard_normal((rows, 36)).astype(np.float32)
    dw, db = runtime.empty((36, 20), np.float32), runtime.empty((36,), np.float32)
    with forced(tile):
        gemm.linear_backward_weight(
            runtime, put(runtime, x), put(runtime, dy), dw, db if with_bias else None,
            precision="auto",
        )  # fmt: skip
    assert_close(dw, dy.T.astype(np.float64) @ x.astype(np.float64), 5e-6)
    if with_bias:
        assert_close(db, dy.astype(np.float64).sum(axis=0), 5e-6)
    assert runtime.launches is not None
    assert [launch.kernel.entry for launch in runtime.launches] == (
        [tile.entry, "split_k_sum"] if splits else [tile.entry]
    )
    no_conflicts(runtime.launches[0])


# ---- which tile
def test_small_layers_are_one_launch() -> None:
    """LeNet's and a small ResNet's at batch 128, in each direction."""
    for m, k, n in ((128, 400, 120), (128, 120, 84), (128, 84, 10), (128, 512, 10)):
        for shape in ((m, n, k), (m, k, n), (n, k, m)):
            _, splits = choose(*shape, 1, 4 * shape[0] * shape[1], quads=True)
            assert splits == 1, shape


def test_large_layers_take_large_tiles() -> None:
    for m, n, k in ((128, 4096, 9216), (128, 4096, 4096), (4096, 4096, 4096)):
        tile, splits = choose(m, n, k, 1, 4 * m * n, quads=True)
        assert tile.is_simt and tile.m == 128 and splits * tile.count(m, n) > 64
        assert not choose(m, n, k, 1, 4 * m * n, quads=False)[0].is_simt


def test_shares_fit_their_workspace() -> None:
    for m, n, k in ((8, 8, 10**6), (1000, 1000, 10**6), (10, 10, 500)):
        tile, splits = choose(m, n, k, 1, 4 * m * n, quads=True)
        each = ceil_div(ceil_div(k, splits), tile.step) * tile.step
        assert splits == ceil_div(k, each), "no share is empty"
        assert splits == 1 or splits * 4 * m * n <= 1 << 26
