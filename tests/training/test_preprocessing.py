"""Pictures become what a net wants, and the model file remembers what that is."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gpucnn import data, models, nn
from gpucnn.data import DataError
from gpucnn.training import Preprocessing
from gpucnn.training.preprocessing import KEY

GREY = Preprocessing(1, 4, 6, (0.5,), (0.25,), ("a", "b"))
COLOUR = Preprocessing(3, 4, 4, (0.0, 0.5, 1.0), (1.0, 2.0, 4.0), ("a", "b"))


def test_there_and_back_through_metadata() -> None:
    recorded = Preprocessing.of(data.load("digits").train)
    assert (recorded.channels, recorded.height, recorded.width) == (1, 8, 8)
    assert recorded.classes == tuple("0123456789")
    model = models.create("digits_net")
    assert Preprocessing.from_metadata(recorded.to_metadata(), model) == recorded
    assert str(recorded) == "8 x 8 pixels, grey, (value - 0.306) / 0.3766"


def test_a_file_that_says_nothing() -> None:
    found = Preprocessing.from_metadata({}, models.create("convnet"))
    assert found == Preprocessing(3, 32, 32, (0.0,) * 3, (1.0,) * 3, tuple("0123456789"))
    with pytest.raises(ValueError, match="does not say what images"):
        Preprocessing.from_metadata({}, nn.Sequential(nn.Flatten()))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"channels": 0, "height": 1, "width": 1, "mean": [], "std": [], "classes": []}',
        '{"channels": 1, "height": 1e9, "width": 1, "mean": [0], "std": [1], "classes": []}',
        '{"channels": 1, "height": 1, "width": 1, "mean": [0, 1], "std": [1], "classes": []}',
        '{"channels": 1, "height": 1, "width": 1, "mean": [NaN], "std": [1], "classes": []}',
        '{"channels": 1, "height": 1, "width": 1, "mean": [0], "std": [1], "classes": [3]}',
        "[" * 100_000,
    ],
)
def test_damaged_metadata(text: str) -> None:
    with pytest.raises(ValueError, match="the recorded preprocessing is damaged"):
        Preprocessing.from_metadata({KEY: text}, models.create("lenet5"))


def saved(folder: Path, image: Image.Image, name: str = "x.png") -> Path:
    image.save(folder / name)
    return folder / name


def test_a_picture_of_the_right_size_is_only_normalised(tmp_path: Path) -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
    path = saved(tmp_path, Image.fromarray(pixels))
    expected = (pixels / 255 - 0.5) / 0.25
    batch = GREY.load([path, path])
    assert batch.shape == (2, 1, 4, 6) and batch.dtype == np.float32
    np.testing.assert_allclose(batch[1, 0], expected, atol=1e-6)
    np.testing.assert_allclose(GREY.load([path], invert=True)[0, 0], -expected, atol=1e-6)


def test_channels_are_in_order(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.new("RGB", (4, 4), (255, 0, 51)))
    np.testing.assert_allclose(COLOUR.load([path])[0, :, 0, 0], [1.0, -0.25, -0.2], atol=1e-6)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_mode_becomes_grey_and_colour(tmp_path: Path, mode: str) -> None:
    white = {"I;16": 65535, "I": 65535, "F": 255.0}.get(mode)
    if mode.startswith("I") or mode == "F":
        kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        image = Image.fromarray(np.full((8, 12), white, kind))
    else:
        image = Image.new("RGB", (12, 8), "white").convert(mode)
    path = saved(tmp_path, image, "x.tiff")
    np.testing.assert_allclose(GREY.load([path]), 2.0, atol=1e-2)
    np.testing.assert_allclose(COLOUR.load([path])[:, 0], 1.0, atol=1e-2)


def test_what_is_transparent_becomes_white(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.new("RGBA", (6, 4), (0, 0, 0, 0)))
    np.testing.assert_allclose(GREY.load([path]), 2.0, atol=1e-6)


def test_the_middle_is_kept_in_proportion(tmp_path: Path) -> None:
    wide = np.zeros((40, 100), np.uint8)
    wide[:, 25:75] = 255  # the square in the middle, and what the filter reaches beyond it
    path = saved(tmp_path, Image.fromarray(wide))
    np.testing.assert_allclose(COLOUR.load([path])[0, 0], 1.0, atol=1e-6)


def test_files_that_are_no_pictures(tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("not a picture")
    with pytest.raises(DataError, match=re.escape(f"{text}: not a picture of a known format")):
        GREY.load([text])
    whole = saved(tmp_path, Image.effect_noise((64, 64), 50.0))
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:1000])
    with pytest.raises(DataError, match="cut.png: not a picture that can be read: "):
        GREY.load([cut])
    with pytest.raises(FileNotFoundError):
        GREY.load([tmp_path / "missing.png"])
    with pytest.raises(DataError, match="the net takes 2 channels, a picture has 1 or 3"):
        Preprocessing(2, 4, 4, (0.0,) * 2, (1.0,) * 2, ()).load([whole])
