"""Which instance computes a convolution: the table, the score, and what tests may force."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpucnn.backends.gpu import conv_simt, select
from gpucnn.backends.gpu.estimate import planned_for
from gpucnn.backends.gpu.host import A100
from gpucnn.backends.gpu.instances import DIRECTIONS, MODULES, Problem, algorithm, instances
from gpucnn.cases.algorithms import of_instances
from gpucnn.ops.geometry import Conv2dGeometry

CONVOLUTIONS = ("forward", "backward_input", "backward_weight")


def layer(
    n: int, c: int, size: int, k: int, filter: int = 3, stride: int = 1, groups: int = 1
) -> Conv2dGeometry:
    w = k, c // groups, filter, filter
    return Conv2dGeometry.of("test", (n, c, size, size), w, stride, filter // 2, 1, groups)


WIDE = layer(128, 128, 16, 128)


def test_the_table() -> None:
    """Names are one of a kind, algorithms and directions known, and there are not too many."""
    table = instances()
    assert len({instance.name for instance in table}) == len(table) <= 150
    assert {instance.algorithm for instance in table} == set(MODULES)
    assert {instance.direction for instance in table} <= {*DIRECTIONS, "forward_max_pool"}
    for instance in table:
        assert instance.threads % 32 == 0 and 0 < instance.pipe_cap < 4
        assert instance in algorithm(instance.algorithm).INSTANCES


@pytest.mark.parametrize("direction", CONVOLUTIONS)
def test_explain_lists_all_that_could_best_first(direction: str) -> None:
    scored = select.explain(direction, WIDE, "fp32", A100)
    assert [s.score for s in scored] == sorted((s.score for s in scored), reverse=True)
    assert scored[0].instance == select.choose(direction, WIDE, "fp32", A100)
    assert {"simt", "generic"} <= {s.instance.algorithm for s in scored}
    problem = Problem(direction, WIDE)
    for one in scored:
        run = algorithm(one.instance.algorithm)
        assert run.supports(one.instance, problem, A100)
        assert one.plan == run.plan(one.instance, problem, A100)
        factors = 1.0
        for part in one.parts.values():
            factors *= part
        assert one.score == pytest.approx(factors)
        assert 0 < one.parts["waves"] <= 1 and 0 < one.parts["tiles"] <= 1


def test_large_tiles_for_large_layers_and_small_ones_for_small() -> None:
    def tile(n: int, c: int, k: int) -> int:
        found = select.explain("forward", layer(n, c, 32, k), "fp32", A100)
        best = next(s.instance for s in found if s.instance.algorithm == "simt")
        return best.tile_m * best.tile_n

    assert tile(128, 256, 256) == 128 * 128
    assert tile(128, 64, 64) == 128 * 64
    assert tile(1, 64, 64) == 64 * 64


@pytest.mark.parametrize("direction", CONVOLUTIONS)
def test_the_generic_path_takes_what_the_others_do_not(direction: str) -> None:
    odd = layer(4, 27, 9, 13, 4)
    assert select.choose(direction, odd, "auto", A100).algorithm == "generic"
    for how in ({"dtype": "float64"}, {"aligned": False}):
        scored = select.explain(direction, layer(4, 24, 9, 16, 4), "auto", A100, **how)
        assert {s.instance.algorithm for s in scored} == {"generic"}
    depthwise = select.choose(direction, layer(4, 24, 9, 24, groups=24), "auto", A100)
    assert depthwise.algorithm == "depthwise"


def test_precisions_admit_what_is_more_accurate() -> None:
    for precision, admitted in select.ALLOWED.items():
        found = select.explain("forward", WIDE, precision, planned_for(80))
        assert {s.instance.precision for s in found} <= set(admitted)


def test_statistics_favour_an_epilogue_that_makes_them() -> None:
    """A pass over the output costs what its bytes take; with a shallow depth that is much."""
    shallow = layer(32, 16, 28, 64, 1)
    for scored in select.explain("forward", shallow, "fp32", A100, statistics=True):
        assert ("pass" in scored.parts) == (not scored.instance.statistics)
    plain = {s.instance: s.score for s in select.explain("forward", shallow, "fp32", A100)}
    found = select.explain("forward", shallow, "fp32", A100, statistics=True)
    slower = next(s for s in found if s.instance.algorithm == "generic")
    score = plain[slower.instance]
    # 4 bytes at 16 operations each, beside 2 operations for each of 16 channels.
    assert slower.score == pytest.approx(score / (1 + score * 64 / 32))


def test_forced() -> None:
    name = conv_simt.INSTANCES[0].name
    with select.forced("generic"):
        assert select.choose("forward", WIDE, "auto", A100).algorithm == "generic"
        with select.forced(name):
            assert select.choose("forward", WIDE, "auto", A100).name == name
            # An instance of one direction leaves the others alone.
            found = select.choose("backward_input", WIDE, "fp32", A100)
            assert found == select.explain("backward_input", WIDE, "fp32", A100)[0].instance
        assert select.choose("forward", WIDE, "auto", A100).algorithm == "generic"
    with select.forced("simt"), pytest.raises(ValueError, match="'simt' cannot compute Problem"):
        select.choose("forward", layer(1, 5, 9, 7), "auto", A100)
    with (
        pytest.raises(ValueError, match="no algorithm or instance 'fast'; the algorithms are"),
        select.forced("fast"),
    ):
        pass


def test_wave_share() -> None:
    """Whole rounds of blocks waste nothing but latency; one block more costs a round."""
    instance = conv_simt.INSTANCES[0]
    assert (instance.threads, instance.blocks_per_sm) == (256, 2)
    assert select.wave_share(200, instance, 100) == pytest.approx(16 / 18)
    assert select.wave_share(100, instance, 100) == pytest.approx(8 / 10)
    assert select.wave_share(201, instance, 100) < 0.6
    assert select.wave_share(2000, instance, 100) == pytest.approx(16 / 18)
    assert select.wave_share(0, instance, 100) == 1


def test_tile_share() -> None:
    instance = replace(conv_simt.INSTANCES[0], tile_m=128, tile_n=64, tile_k=16)
    assert select.tile_share(instance, (256, 64, 160)) == pytest.approx(10 / 12)
    assert select.tile_share(instance, (129, 64, 160)) == pytest.approx(129 / 256 * 10 / 12)
    assert select.tile_share(instance, (256, 64, 160), 2) == pytest.approx(5 / 7)
    assert select.tile_share(instance, (0, 64, 160)) == 1


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2, 4])
def test_classes_of_backward_input_are_all_taps_once(stride: int, dilation: int) -> None:
    """Pixels times taps of the classes together: every tap that meets an output row."""
    size, filter, padding = 13, 3, 2
    classes = conv_simt._classes(size, filter, stride, padding, dilation)
    assert sum(pixels for pixels, _ in classes) == size
    met = sum(
        (h + padding - r * dilation) % stride == 0 for h in range(size) for r in range(filter)
    )
    assert sum(pixels * taps for pixels, taps in classes) == met


def test_splits_fill_the_device_and_cover_the_depth() -> None:
    for k in (64, 128, 256, 512):
        g = layer(128, k, 2048 // k, k)
        scored = select.explain("backward_weight", g, "fp32", A100)
        found = next(s for s in scored if s.instance.algorithm == "simt")
        depth = g.n * g.p * g.q
        assert found.plan.each % found.instance.tile_k == 0
        assert found.plan.splits == -(-depth // found.plan.each)
        assert found.plan.workspace == 4 * found.plan.splits * (g.k * g.c * 9 + g.k)
        assert found.parts["waves"] > 0.75


def test_every_instance_has_a_row_for_gpucnn_check() -> None:
    rows = list(of_instances(A100))
    assert {row.algorithm for row in rows} == {instance.name for instance in instances()}
    assert len({row.name for row in rows}) == len(rows)
