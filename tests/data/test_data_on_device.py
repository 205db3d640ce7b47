"""Transforms that a device carries out: the host's bits, a quarter of the bytes, one launch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import gpucnn
from gpucnn import backends
from gpucnn.backends.gpu import GpuBackend, nvrtc
from gpucnn.core.device import Device
from gpucnn.core.dispatch import CHANNELS_LAST
from gpucnn.data import ArrayDataset, Compose, DataLoader, Normalize, RandomCrop
from gpucnn.data import RandomHorizontalFlip as Flip
from gpucnn.data.on_device import Preparation
from gpucnn.data.transforms import apply

if not nvrtc.compilers():
    pytest.skip("no NVRTC to make PTX", allow_module_level=True)

from gpucnn.backends.gpu.emulated import EmulatedRuntime  # noqa: E402

NORMALIZE = Normalize((0.3, 0.5, 0.6), (0.2, 0.25, 0.3))
STEPS: dict[str, list[Any]] = {
    "nothing": [],
    "normalised": [NORMALIZE],
    "cut": [RandomCrop(5, 2)],
    "cut and mirrored": [RandomCrop((6, 5), (1, 3)), Flip(), NORMALIZE],
    "mirrored and cut": [Flip(), RandomCrop((6, 5), (1, 3)), NORMALIZE],
    "mirrored, cut, mirrored": [Flip(0.7), RandomCrop((4, 9), (0, 2)), Flip(), NORMALIZE],
    "mirrored twice": [Flip(), Flip(0.3), NORMALIZE],
}
by_steps = pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS.keys())


def dataset(count: int = 11, maximum: float | None = None) -> ArrayDataset:
    rng = np.random.default_rng(4)
    images = rng.integers(0, 256, (count, 3, 7, 9)).astype(np.uint8)
    return ArrayDataset(images, rng.integers(0, 3, count), maximum=maximum)


class Counting(EmulatedRuntime):
    """Keeps its launches and the bytes it is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.launches = []
        self.sent: list[NDArray[Any]] = []

    def from_host(self, array: NDArray[Any]) -> Any:
        self.sent.append(array)
        return super().from_host(array)


@pytest.fixture
def runtime() -> Iterator[Counting]:
    runtime = Counting()
    with backends.serving(Device("emulated"), GpuBackend(runtime)):
        yield runtime


@pytest.mark.parametrize("maximum", [None, 16])
@by_steps
def test_the_same_bits_as_on_the_host(
    runtime: Counting, steps: list[Any], maximum: float | None
) -> None:
    loaders = [
        DataLoader(dataset(maximum=maximum), 4, True, transform=Compose(steps), device=device)
        for device in ("emulated", "cpu")
    ]
    for _ in range(2):  # epochs
        batches = list(zip(*loaders, strict=True))
        assert len(batches) == 3
        for (ours, labels), (theirs, expected) in batches:
            assert ours.device.type == "emulated" and ours.dtype == np.float32
            assert ours.numpy().tobytes() == theirs.numpy().tobytes()
            np.testing.assert_array_equal(labels.numpy(), expected.numpy())


def test_what_is_sent_and_launched(runtime: Counting) -> None:
    loader = DataLoader(dataset(8), 8, transform=Compose(STEPS["cut and mirrored"]),
                        device="emulated")  # fmt: skip
    ((images, _),) = loader
    assert images.shape == (8, 3, 6, 5) and images.order == CHANNELS_LAST
    assert runtime.launches is not None
    assert [launch.kernel.entry for launch in runtime.launches] == ["prepare_images"]
    assert sorted((str(a.dtype), a.shape) for a in runtime.sent) == [
        ("float32", (3,)), ("float32", (3,)), ("int32", (8, 3)), ("int64", (8,)),
        ("uint8", (8, 3, 7, 9)),
    ]  # fmt: skip


def test_a_default_device_that_is_no_cpu(runtime: Counting) -> None:
    before = gpucnn.default_device()
    gpucnn.set_default_device("emulated")
    try:
        ((images, _),) = DataLoader(dataset(2), 2)
    finally:
        gpucnn.set_default_device(before)
    assert images.device.type == "emulated" and images.order == CHANNELS_LAST


def halved(images: NDArray[Any], generator: Any) -> NDArray[Any]:
    return images / 2


class OtherCrop(RandomCrop):
    """May draw and cut as it likes."""


@pytest.mark.parametrize(
    "steps",
    [
        [halved], [NORMALIZE, Flip()], [RandomCrop(5, 1), RandomCrop(4)], [NORMALIZE, NORMALIZE],
        [OtherCrop(5, 1), NORMALIZE], [RandomCrop(5), halved, NORMALIZE],
    ],
)  # fmt: skip
def test_other_transforms_stay_on_the_host(runtime: Counting, steps: list[Any]) -> None:
    assert Preparation.of(steps, 3, 1 / 255) is None
    data, transform = dataset(5), Compose(steps)
    ((ours, _),) = DataLoader(data, 5, transform=transform, device="emulated")
    ((theirs, _),) = DataLoader(data, 5, transform=transform)
    assert ours.numpy().tobytes() == theirs.numpy().tobytes() and runtime.launches == []


def test_floats_stay_on_the_host(runtime: Counting) -> None:
    data = ArrayDataset(np.random.default_rng(1).random((4, 3, 5, 5), np.float32), np.arange(4))
    ((images, _),) = DataLoader(data, 4, transform=NORMALIZE, device="emulated")
    assert images.shape == (4, 3, 5, 5) and runtime.launches == []


def test_wrong_channels_are_refused_as_on_the_host(runtime: Counting) -> None:
    loader = DataLoader(dataset(2), 2, transform=Normalize((0.5,), (0.5,)), device="emulated")
    with pytest.raises(ValueError, match="mean and std have 1 values but the images have 3"):
        next(iter(loader))


def test_a_crop_that_does_not_fit_is_refused(runtime: Counting) -> None:
    loader = DataLoader(dataset(2), 2, transform=RandomCrop(10), device="emulated")
    with pytest.raises(ValueError, match=r"RandomCrop: size \(10, 10\) is larger than the padded"):
        next(iter(loader))


@by_steps
def test_places_and_factors_say_what_the_steps_do(steps: list[Any]) -> None:
    """Without a kernel: read pixel by pixel where the places point."""
    images = dataset(6).images
    preparation = Preparation.of(steps, 3, 1 / 255)
    assert preparation is not None
    placed = preparation.place(images, np.random.default_rng(9))
    expected = apply(steps, images.copy(), 1 / 255, np.random.default_rng(9))
    height, width = placed.size
    assert expected.shape == (6, 3, height, width)
    for n, (top, left, flip) in enumerate(placed.places.tolist()):
        for i in range(height):
            for j in range(width):
                h, w = top + i, left + (width - 1 - j if flip else j)
                inside = 0 <= h < 7 and 0 <= w < 9
                pixel = images[n, :, h, w].astype(np.float32) if inside else np.zeros(3, np.float32)
                value = pixel * preparation.factor + preparation.offset
                np.testing.assert_array_equal(value, expected[n, :, i, j])


# ---- the operation
def prepare(**changed: Any) -> Any:
    from gpucnn.ops.augment import prepare as operation

    arguments: dict[str, Any] = {
        "images": gpucnn.zeros(2, 3, 4, 5, dtype=gpucnn.uint8),
        "places": gpucnn.zeros(2, 3, dtype=gpucnn.int32),
        "factor": gpucnn.ones(3), "offset": gpucnn.ones(3), "size": (4, 5),
    }  # fmt: skip
    return operation(**{**arguments, **changed})


def test_one_channel_may_go_without_an_axis() -> None:
    images = gpucnn.tensor(np.arange(12, dtype=np.uint8).reshape(1, 3, 4))
    y = prepare(
        images=images, places=gpucnn.tensor([[0, 1, 1]], dtype=gpucnn.int32),
        factor=gpucnn.ones(1), offset=gpucnn.zeros(1), size=(2, 3),
    )  # fmt: skip
    np.testing.assert_array_equal(y.numpy(), [[[[3, 2, 1], [7, 6, 5]]]])


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"images": gpucnn.zeros(2, 3, 4, 5)},
         r"prepare_images: images must be uint8 .N, C, H, W. or .N, H, W., got float32 .2, 3, 4"),
        ({"places": gpucnn.zeros(2, 2, dtype=gpucnn.int32)},
         r"places must be int32 of shape .2, 3. for images .2, 3, 4, 5., got int32 .2, 2."),
        ({"places": gpucnn.zeros(2, 3, dtype=gpucnn.int64)}, "places must be int32 .* got int64"),
        ({"factor": gpucnn.ones(2)}, r"factor must be float32 of shape .3,. .* got float32 .2,."),
        ({"size": (0, 5)}, r"size must be at least .1, 1., got .0, 5."),
    ],
)  # fmt: skip
def test_errors_name_the_argument(changed: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        prepare(**changed)
