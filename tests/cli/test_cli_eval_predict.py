"""`gpucnn eval` and `gpucnn predict`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import Invoke, assert_one_line
from PIL import Image

import gpucnn
from gpucnn import data, models


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A test digit as a picture, eight times its size."""
    pixels = data.load("digits").test.images[0, 0].astype(np.float32) * (255 / 16)
    image = Image.fromarray(pixels.round().astype(np.uint8))
    image.resize((64, 64), Image.Resampling.NEAREST).save(tmp_path / "digit.png")
    return tmp_path / "digit.png"


def test_eval(invoke: Invoke, digits_model: Path) -> None:
    result = invoke("eval", digits_model)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[1].endswith("model.safetensors: digits_net, 38,282 parameters")
    assert lines[2] == "data    digits: 500 test images"
    assert re.fullmatch(r"test accuracy \d+\.\d\d%", lines[-1])
    assert re.fullmatch(r"test loss \d\.\d{4}", lines[-2])
    content = json.loads(invoke("eval", digits_model, "digits", "--json").stdout)
    confusion = np.array(content["confusion"])
    assert confusion.shape == (10, 10) and confusion.sum() == content["images"] == 500
    assert np.trace(confusion) / 500 == content["accuracy"]
    assert lines[-1] == f"test accuracy {100 * content['accuracy']:.2f}%"
    # The table of the classes agrees: name, images, accuracy.
    row = next(line.split() for line in lines if re.match(r" *3 ", line))
    assert row[1] == str(confusion[3].sum())
    assert row[2] == f"{100 * confusion[3, 3] / confusion[3].sum():.2f}%"


def test_eval_of_the_training_images(invoke: Invoke, digits_model: Path) -> None:
    content = json.loads(invoke("eval", digits_model, "--split", "train", "--json").stdout)
    assert content["images"] == 1297 and content["split"] == "train"


def test_predict(invoke: Invoke, digits_model: Path, picture: Path) -> None:
    result = invoke("predict", digits_model, picture, picture, "--top", "2")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[2] == "images  become 8 x 8 pixels, grey, (value - 0.306) / 0.3766"
    assert re.fullmatch(r".*digit\.png: \d \d+\.\d\d%, \d \d+\.\d\d%", lines[3])
    assert lines[3] == lines[4] and len(lines) == 5
    content = json.loads(invoke("predict", digits_model, picture, "--json").stdout)
    assert content["image"] == str(picture) and len(content["top"]) == 3
    found = content["top"][0]
    assert lines[3].split(": ")[1].startswith(f"{found['class']} {100 * found['probability']:.2f}%")


def test_predict_sees_what_the_data_set_holds(
    invoke: Invoke, digits_model: Path, picture: Path
) -> None:
    """The picture is the test image, so the probabilities are those of the test image."""
    digits = data.load("digits")
    model = gpucnn.load(digits_model, "cpu")
    values = (digits.test.images[:1] / np.float32(16) - 0.3060) / 0.3766
    with gpucnn.no_grad():
        expected = model(gpucnn.from_numpy(values.astype(np.float32))).softmax(1).numpy()[0]
    top = json.loads(invoke("predict", digits_model, picture, "--top", "10", "--json").stdout)
    found = {guess["class"]: guess["probability"] for guess in top["top"]}
    # The picture's pixels are rounded to 8 bits, and bilinear filtering blends the blocks.
    for name, probability in found.items():
        assert abs(probability - expected[int(name)]) < 0.02
    inverted = invoke("predict", digits_model, picture, "--top", "10", "--json", "--invert")
    assert json.loads(inverted.stdout)["top"] != top["top"]


def test_files_that_are_no_models(invoke: Invoke, digits_model: Path, tmp_path: Path) -> None:
    missing = assert_one_line(invoke("eval", "missing.safetensors"))
    assert missing == "missing.safetensors: No such file or directory"
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(digits_model.read_bytes()[:-10])
    for arguments in (["eval", cut], ["predict", cut, "x.png"]):
        text = assert_one_line(invoke(*arguments))
        assert text.startswith(f"{cut}: not a safetensors file, or truncated (")
    text = assert_one_line(invoke("eval", tmp_path))
    assert "irectory" in text or "ermission" in text
    silent = tmp_path / "silent.safetensors"
    gpucnn.save(models.create("digits_net").to("cpu"), silent)
    text = assert_one_line(invoke("eval", silent), code=2)
    assert "does not say what it was trained on: name a DATASET (try 'gpucnn eval --help')" in text
    assert invoke("eval", silent, "digits").exit_code == 0
    damaged = tmp_path / "damaged.safetensors"
    gpucnn.save(models.create("digits_net").to("cpu"), damaged, {"preprocessing": "{}"})
    text = assert_one_line(invoke("predict", damaged, "x.png"))
    assert "damaged.safetensors: the recorded preprocessing is damaged" in text


def test_a_data_set_that_does_not_fit(invoke: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "lenet.safetensors"
    gpucnn.save(models.create("lenet5").to("cpu"), path)
    text = assert_one_line(invoke("eval", path, "digits"))
    assert text.endswith("takes images of 1 x 28 x 28 but digits has images of 1 x 8 x 8")
    few = tmp_path / "few.safetensors"
    gpucnn.save(models.create("digits_net", num_classes=3).to("cpu"), few)
    text = assert_one_line(invoke("eval", few, "digits"))
    assert text.endswith("few.safetensors knows 3 classes but digits has 10")


def test_pictures_that_are_none(invoke: Invoke, digits_model: Path, tmp_path: Path) -> None:
    text = assert_one_line(invoke("predict", digits_model, "missing.png"))
    assert text == "missing.png: No such file or directory"
    (tmp_path / "text.png").write_text("hello")
    text = assert_one_line(invoke("predict", digits_model, "text.png"))
    assert text == "text.png: not a picture of a known format"
    text = assert_one_line(invoke("predict", digits_model), code=2)
    assert text == "Missing argument 'IMAGE...'. (try 'gpucnn predict --help')"
