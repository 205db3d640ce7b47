"""Model files: there and back, and every kind of file that is not one."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest

import gpucnn
from gpucnn import models, nn, serialization
from gpucnn.serialization import FormatError


def trained(model: nn.Module) -> nn.Module:
    """With values that no constructor gives."""
    rng = np.random.default_rng(3)
    with gpucnn.no_grad():
        for value in model.state_dict().values():
            value.copy_(gpucnn.tensor(rng.integers(1, 50, value.shape) / 7))
    return model


def assert_same_state(one: nn.Module, two: nn.Module) -> None:
    a, b = one.state_dict(), two.state_dict()
    assert list(a) == list(b)
    for key in a:
        assert a[key].dtype == b[key].dtype and a[key].order == b[key].order
        np.testing.assert_array_equal(np.asarray(a[key]), np.asarray(b[key]))


@pytest.mark.parametrize("name", models.names())
def test_models_come_back(tmp_path: Path, name: str) -> None:
    model = trained(models.create(name, in_channels=2, num_classes=7))
    path = tmp_path / "net.safetensors"
    gpucnn.save(model, path)
    state = gpucnn.random.get_state()
    again = gpucnn.load(path)
    assert gpucnn.random.get_state() == state
    assert type(again) is type(model) and again.architecture == model.architecture
    assert not any(m.training for m in again.modules())
    assert all(p.requires_grad and isinstance(p, nn.Parameter) for p in again.parameters())
    assert_same_state(again, model)
    x = gpucnn.randn(3, *model.input_shape)
    np.testing.assert_array_equal(again(x).detach().numpy(), model.eval()(x).detach().numpy())


def make_sequential() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding="same"),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Sequential(nn.Dropout(0.1), nn.Linear(4 * 5 * 6, 3)),
    )


def test_sequentials_come_back_in_their_dtypes(tmp_path: Path) -> None:
    net = trained(make_sequential().double())
    net[4][1].float()
    path = tmp_path / "net.safetensors"
    gpucnn.save(net, os.fspath(path))
    again = gpucnn.load(os.fspath(path), device="cpu")
    assert repr(again) == repr(net)
    assert_same_state(again, net)
    assert again[1].num_batches_tracked.dtype == np.int64


def test_flat_storage_and_views_are_stored_by_value(tmp_path: Path) -> None:
    net = make_sequential()
    gpucnn.optim.SGD(net.parameters())
    gpucnn.save(net, tmp_path / "net")
    assert_same_state(gpucnn.load(tmp_path / "net"), net)


def test_other_readers_of_safetensors_read_the_file(tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.numpy import load_file

    net = trained(make_sequential())
    path = tmp_path / "net.safetensors"
    gpucnn.save(net, path, metadata={"accuracy": "0.99"})
    arrays = load_file(path)
    np.testing.assert_array_equal(arrays["0.weight"], np.asarray(net[0].weight))
    assert arrays["0.weight"].shape == (4, 1, 3, 3)
    assert arrays["1.num_batches_tracked"].shape == ()
    with safe_open(path, framework="np") as file:
        metadata = file.metadata()
    assert metadata["accuracy"] == "0.99" and metadata == serialization.load_metadata(path)
    assert json.loads(metadata["architecture"])["layer"] == "Sequential"


def test_a_state_dict_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    state = {
        "a": gpucnn.tensor([1.5, 2.5]),
        "b": np.array([[True, False]]),
        "c": gpucnn.tensor(3),
        "d": gpucnn.arange(6).float().reshape(2, 3).transpose(0, 1),
        "e": np.zeros((0, 2), np.uint8),
        "f": np.array([-1], np.int32),
        "g": np.array(0.1),
    }
    gpucnn.save(state, path)
    again = serialization.load_state(path)
    assert sorted(again) == sorted(state)
    for key, value in state.items():
        assert again[key].dtype == value.dtype and again[key].shape == value.shape
        np.testing.assert_array_equal(np.asarray(again[key]), np.asarray(value))
    with pytest.raises(FormatError, match="the file has no architecture; .*load_state"):
        gpucnn.load(path)


def test_what_cannot_be_saved_says_so_and_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "net"

    class Mine(nn.Module):
        pass

    with pytest.raises(ValueError, match=r"save: it is a Mine, .* save model.state_dict\(\)"):
        gpucnn.save(Mine(), path)
    changed = models.create("lenet5")
    changed.classifier[5] = nn.Linear(84, 3)
    with pytest.raises(ValueError, match="save: the LeNet5 was changed after it was made"):
        gpucnn.save(changed, path)
    grown = models.create("lenet5")
    grown.classifier.append(nn.Softmax(1))
    with pytest.raises(ValueError, match="was changed after it was made"):
        gpucnn.save(grown, path)
    for state in ({"a": [1.0]}, {"a": "text"}, {"a": np.array([1j])}):
        with pytest.raises(TypeError, match="save: 'a'"):
            gpucnn.save(state, path)
    with pytest.raises(TypeError, match="metadata must be strings, got 'epoch': 3"):
        gpucnn.save(models.create("lenet5"), path, metadata={"epoch": 3})
    with pytest.raises(ValueError, match="metadata key 'architecture' is used by the file itself"):
        gpucnn.save(models.create("lenet5"), path, metadata={"architecture": "{}"})
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        gpucnn.save({}, tmp_path / "nowhere" / "net")


def test_a_failure_while_writing_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net"
    gpucnn.save({"a": gpucnn.ones(1)}, path)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        gpucnn.save({"a": gpucnn.zeros(1)}, path)
    monkeypatch.undo()
    assert serialization.load_state(path)["a"].tolist() == [1]
    assert list(tmp_path.iterdir()) == [path]


# ---- files that are not model files


@pytest.fixture
def good(tmp_path: Path) -> bytes:
    path = tmp_path / "good"
    gpucnn.save(trained(make_sequential()), path)
    return path.read_bytes()


def check_refused(path: Path, data: bytes, text: str) -> None:
    path.write_bytes(data)
    for read in (gpucnn.load, serialization.load_state):
        with pytest.raises(FormatError) as error:
            read(path)
        assert str(error.value).startswith(f"{path}: ") and text in str(error.value)


def test_truncated_and_foreign_files(tmp_path: Path, good: bytes) -> None:
    header = 8 + struct.unpack("<Q", good[:8])[0]
    path, text = tmp_path / "bad", "not a safetensors file, or truncated"
    for length in (0, 1, 7, 8, 9, header // 2, header - 1, header, header + 1, len(good) - 1):
        check_refused(path, good[:length], text)
    check_refused(path, good + b"\0", text)
    check_refused(path, b"PK\3\4" + bytes(200), text)
    check_refused(path, b"\x80\x04\x95" + bytes(200), text)  # a pickle
    for size in (0, 2, header - 9, header, 2**31, 2**63, 2**64 - 1):
        check_refused(path, struct.pack("<Q", size) + good[8:], text)


def test_flipped_bytes_never_do_worse_than_an_error(tmp_path: Path, good: bytes) -> None:
    header = 8 + struct.unpack("<Q", good[:8])[0]
    path = tmp_path / "bad"
    rng = np.random.default_rng(0)
    for position in rng.integers(0, header, 300):
        data = bytearray(good)
        data[position] ^= int(rng.integers(1, 256))
        path.write_bytes(data)
        try:
            gpucnn.load(path)
        except FormatError:
            pass


def rebuild(good: bytes, change: object) -> bytes:
    """The file with its header changed by a function."""
    size = struct.unpack("<Q", good[:8])[0]
    header = json.loads(good[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + good[8 + size :]


def architecture(header: dict, value: object) -> None:
    header["__metadata__"]["architecture"] = value if isinstance(value, str) else json.dumps(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("", "the architecture is not valid JSON"),
        ("{", "the architecture is not valid JSON"),
        ("[" * 100_000, "the architecture is not valid JSON"),
        ("1" * 5000, "the architecture is not valid JSON"),
        ("null", "architecture: expected an object"),
        ({"layer": "Evil", "options": {}}, "architecture: there is no layer 'Evil'"),
        ({"model": "lenet9", "options": {}}, "architecture: model: there is no 'lenet9'"),
        ({"model": "lenet5", "options": {}}, "is larger than what is left to fill it"),
        ({"model": "digits_net", "options": {"input_size": 10**9}}, "is larger than what is left"),
        (
            {"layer": "Linear", "options": {"in_features": 10**18, "out_features": 10**18}},
            "is larger than what is left to fill it",
        ),
        ({"layer": "ReLU", "options": {}}, "tensor '0.bias' has no place in the architecture"),
        (
            {"layer": "Sequential", "children": []},
            "tensor '0.bias' has no place in the architecture",
        ),
        (
            {"layer": "Linear", "options": {"in_features": 2, "out_features": 3}},
            "tensor 'weight' is missing",
        ),
    ],
)
def test_hostile_architectures(tmp_path: Path, good: bytes, value: object, text: str) -> None:
    path = tmp_path / "bad"
    path.write_bytes(rebuild(good, lambda header: architecture(header, value)))
    with pytest.raises(FormatError) as error:
        gpucnn.load(path)
    assert str(error.value).startswith(f"{path}: ") and text in str(error.value)
    assert len(str(error.value)) < 500
    assert len(serialization.load_state(path)) == 9  # the tensors themselves are whole


def test_tensors_that_do_not_fit_the_architecture(tmp_path: Path, good: bytes) -> None:
    path = tmp_path / "bad"

    def refused(change: object, text: str) -> None:
        path.write_bytes(rebuild(good, change))
        with pytest.raises(FormatError) as error:
            gpucnn.load(path)
        assert text in str(error.value)

    def reshape(header: dict) -> None:
        header["0.weight"]["shape"] = [4, 3, 3, 1]

    def retype(header: dict) -> None:
        header["0.bias"]["dtype"] = "I32"

    def rename(header: dict) -> None:
        header["0.b"] = header.pop("0.bias")

    def half(header: dict) -> None:
        header["0.bias"].update(dtype="F16", shape=[8])

    refused(reshape, "tensor '0.weight' has shape (4, 3, 3, 1), the architecture (4, 1, 3, 3)")
    refused(retype, "tensor '0.bias' has dtype int32, the architecture float32")
    refused(rename, "tensor '0.bias' is missing")
    refused(half, "tensor '0.bias' has dtype F16, which is not read")
    refused(lambda h: h["__metadata__"].pop("architecture"), "the file has no architecture")
    refused(lambda h: h.pop("__metadata__"), "the file has no architecture")
    refused(lambda h: h["__metadata__"].update(gpucnn="7"), "layout version '7'")
    refused(lambda h: h["__metadata__"].pop("gpucnn"), "layout version None")


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for read in (gpucnn.load, serialization.load_state, serialization.load_metadata):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "none")
        with pytest.raises((IsADirectoryError, PermissionError)):
            read(tmp_path)


def test_nothing_but_the_named_packages_is_imported() -> None:
    import subprocess
    import sys

    code = (
        "import gpucnn.serialization, sys;"
        "assert 'safetensors' not in sys.modules and 'pickle' not in vars(gpucnn.serialization)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
