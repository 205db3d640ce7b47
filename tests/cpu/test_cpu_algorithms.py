"""The choice of algorithms: names, what each is for, and that forcing one is honest."""

from __future__ import annotations

import re

import pytest

from gpucnn.backends.cpu import algorithms
from gpucnn.backends.cpu.algorithms import ALGORITHMS, CHWN, NHWC, explain, forced, order
from gpucnn.ops.geometry import Conv2dGeometry

DIRECTIONS = ("forward", "backward_input", "backward_weight")


def conv(n, c, size, k, r, stride=1, padding=None, groups=1, dilation=1):
    padding = r // 2 if padding is None else padding
    return Conv2dGeometry.of(
        "t", (n, c, size, size), (k, c // groups, r, r), stride, padding, dilation, groups
    )


# geometry, the algorithm of forward, backward_input, backward_weight
CHOICES = {
    "LeNet-5, first": (conv(128, 1, 28, 6, 5), ["batch_last"] * 3),
    "LeNet-5, second": (conv(128, 6, 14, 16, 5, padding=0), ["batch_last"] * 3),
    "ResNet, 32 x 32": (conv(64, 64, 32, 64, 3), ["winograd4"] * 3),
    "ResNet, 4 x 4": (conv(64, 512, 4, 512, 3), ["winograd4"] * 3),
    "ResNet, stride 2": (conv(64, 128, 16, 256, 3, 2), ["winograd4"] * 3),
    "ResNet, shortcut": (conv(64, 64, 32, 128, 1, 2), ["patches", "scatter", "patches"]),
    "bottleneck": (conv(64, 256, 32, 64, 1), ["pointwise"] * 3),
    "three channels": (conv(64, 3, 32, 64, 3), ["patches", "winograd4", "patches"]),
    "5x5": (conv(64, 64, 16, 64, 5), ["winograd2"] * 3),
    "a single pixel": (conv(1, 4, 1, 4, 3), ["patches"] * 3),
    "one small image": (conv(1, 512, 4, 512, 3), ["patches", "scatter", "patches"]),
    "depthwise": (
        conv(64, 128, 16, 128, 3, groups=128),
        ["depthwise_winograd", "depthwise_winograd", "depthwise"],
    ),
    "depthwise, stride 2": (conv(8, 32, 16, 32, 3, 2, groups=32), ["depthwise"] * 3),
    "dilated": (conv(8, 64, 32, 64, 3, dilation=2), ["patches"] * 3),
    "wide padding": (conv(8, 32, 8, 32, 3, padding=3), ["patches", "scatter", "patches"]),
}


@pytest.mark.parametrize("case", CHOICES)
def test_choices(case):
    g, expected = CHOICES[case]
    for direction, name in zip(DIRECTIONS, expected):
        found = explain(g, direction)
        times = [choice.milliseconds for choice in found]
        assert found[0].name == name and times == sorted(times) and times[0] > 0
        exact = [choice.name for choice in explain(g, direction, "fp32")]
        assert exact == [c.name for c in found if "winograd" not in c.name]


def test_the_order_of_the_images():
    assert order(CHOICES["LeNet-5, second"][0]) == CHWN
    assert order(CHOICES["ResNet, 32 x 32"][0]) == NHWC
    assert order(conv(2, 6, 14, 16, 5)) == NHWC  # no batch to make rows of
    in_nhwc = explain(CHOICES["LeNet-5, second"][0], "forward", images=NHWC)
    assert "batch_last" not in [choice.name for choice in in_nhwc]


def test_groups_have_none_of_their_own():
    assert explain(conv(8, 32, 16, 64, 3, groups=4), "forward") == ()


def test_the_table_in_the_documentation_names_every_algorithm():
    assert algorithms.__doc__ is not None
    rows = re.findall(r"^(\w+) {2,}.*\de-\d", algorithms.__doc__, re.MULTILINE)
    assert rows == [algorithm.name for algorithm in ALGORITHMS]


def test_forced():
    g = CHOICES["ResNet, 32 x 32"][0]
    with forced("patches"):
        assert explain(g, "forward")[0].name == "patches"
        with forced("scatter"):
            assert explain(g, "backward_input")[0].name == "scatter"
            assert explain(g, "forward")[0].name == "winograd4"  # it cannot
        assert explain(g, "backward_input")[0].name == "patches"
    assert explain(g, "forward")[0].name == "winograd4"
    with pytest.raises(ValueError, match="forced: there is no algorithm 'fft'; there are patches,"):
        with forced("fft"):
            pass
