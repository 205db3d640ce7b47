"""Checkpoints: killed at any moment, resumed to the same bits; damaged files are refused."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from small_training import BATCHES, EPOCHS, digest, loaders, make_trainer

import gpucnn
from gpucnn.training import Callback, CheckpointError, Trainer, checkpoints

PROGRAM = Path(__file__).with_name("small_training.py")
needs_kill = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="SIGKILL and /proc are Linux's"
)


class StopAfter(Callback):
    """Stops a training after some batches, as Ctrl-C would."""

    def __init__(self, batches: int) -> None:
        self.left = batches

    def on_batch_end(self, trainer: Trainer) -> None:
        self.left -= 1
        if self.left == 0:
            trainer.stop()


def uninterrupted(optimizer: str = "sgd", scheduler: str = "one cycle") -> str:
    trainer = make_trainer(None, optimizer, scheduler)
    trainer.fit(*loaders(), epochs=EPOCHS)
    return digest(trainer)


@pytest.fixture(scope="module")
def expected() -> str:
    return uninterrupted()


# ---- the same bits


@pytest.mark.parametrize("batches", [1, BATCHES - 1, BATCHES, BATCHES + 2, EPOCHS * BATCHES])
def test_stopped_and_resumed_is_the_same(tmp_path: Path, expected: str, batches: int) -> None:
    stopped = make_trainer(tmp_path, callbacks=[StopAfter(batches)])
    stopped.fit(*loaders(), epochs=EPOCHS)
    assert stopped.stopped
    # The validation of an epoch whose last batch is done still belongs to it.
    assert len(stopped.history) == batches // BATCHES
    resumed = make_trainer(tmp_path)
    gpucnn.manual_seed(99)
    history = resumed.fit(*loaders(), epochs=EPOCHS, resume=True)
    assert [record.epoch for record in history] == [1, 2, 3]
    assert digest(resumed) == expected


@pytest.mark.parametrize(
    ("optimizer", "scheduler"), [("adam", "one cycle"), ("adamw", "step"), ("sgd", "")]
)
def test_every_kind_of_state_is_resumed(tmp_path: Path, optimizer: str, scheduler: str) -> None:
    first = make_trainer(tmp_path, optimizer, scheduler, [StopAfter(BATCHES + 1)])
    first.fit(*loaders(), epochs=EPOCHS)
    second = make_trainer(tmp_path, optimizer, scheduler)
    second.fit(*loaders(), epochs=EPOCHS, resume=True)
    assert digest(second) == uninterrupted(optimizer, scheduler)


def test_a_finished_training_is_resumed_to_its_end(tmp_path: Path, expected: str) -> None:
    make_trainer(tmp_path).fit(*loaders(), epochs=EPOCHS)
    again = make_trainer(tmp_path)
    again.fit(*loaders(), epochs=EPOCHS, resume=True)
    assert again.state.epoch == EPOCHS
    assert digest(again) == expected


def test_more_epochs_can_follow(tmp_path: Path) -> None:
    whole = make_trainer(None, scheduler="step")
    whole.fit(*loaders(), epochs=3)
    make_trainer(tmp_path, scheduler="step").fit(*loaders(), epochs=2)
    rest = make_trainer(tmp_path, scheduler="step")
    rest.fit(*loaders(), epochs=3, resume=True)
    assert digest(rest) == digest(whole)


def test_a_loader_that_is_not_ours_is_resumed_too(tmp_path: Path) -> None:
    batches = list(loaders()[1])
    whole = make_trainer(None, scheduler="")
    whole.fit(batches, epochs=2)
    expected = digest(whole)
    make_trainer(tmp_path, scheduler="", callbacks=[StopAfter(1)]).fit(batches, epochs=2)
    rest = make_trainer(tmp_path, scheduler="")
    rest.fit(batches, epochs=2, resume=True)
    assert digest(rest) == expected


def test_without_a_checkpoint_resume_begins(tmp_path: Path, expected: str) -> None:
    trainer = make_trainer(tmp_path / "new" / "folder")
    trainer.fit(*loaders(), epochs=EPOCHS, resume=True)
    assert digest(trainer) == expected
    assert (tmp_path / "new" / "folder" / checkpoints.FILE).exists()


# ---- kill -9


def child(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(PROGRAM), str(folder), *arguments]
    # Where the tests import gpucnn from, installed or not.
    environment = {**os.environ, "PYTHONPATH": str(Path(gpucnn.__file__).parents[1])}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def finish(folder: Path) -> str:
    process = child(folder)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return output.strip()


@needs_kill
@pytest.mark.parametrize(
    ("moment", "count"), [("half", 1), ("half", 6), ("whole", 3), ("renamed", 5)]
)
def test_killed_while_writing(tmp_path: Path, expected: str, moment: str, count: int) -> None:
    process = child(tmp_path, moment, str(count))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, errors
    path = tmp_path / checkpoints.FILE
    done = count if moment == "renamed" else count - 1
    leftovers = [file for file in tmp_path.iterdir() if file != path]
    assert len(leftovers) == (moment != "renamed")
    if done:
        there = checkpoints.load(path)
        # After each batch one checkpoint, and one more at the end of an epoch.
        epoch, batch = divmod(done, BATCHES + 1)
        assert (there.epoch, there.batch) == (epoch, batch)
    else:
        assert not path.exists()
    assert finish(tmp_path) == expected
    assert [file.name for file in tmp_path.iterdir()] == [checkpoints.FILE]


@needs_kill
def test_killed_from_outside_at_any_time(tmp_path: Path, expected: str) -> None:
    path = tmp_path / checkpoints.FILE
    for wanted in (1, 2):
        process = child(tmp_path)
        seen, before, end = 0, path.stat().st_mtime_ns if path.exists() else 0, time.time() + 60
        while seen < wanted and process.poll() is None and time.time() < end:
            now = path.stat().st_mtime_ns if path.exists() else 0
            seen, before = seen + (now != before), now
        process.kill()
        process.communicate()
        assert path.exists()
        checkpoints.load(path)
    assert finish(tmp_path) == expected


# ---- files that are refused


@pytest.fixture
def written(tmp_path: Path) -> Path:
    make_trainer(tmp_path, callbacks=[StopAfter(2)]).fit(*loaders(), epochs=1)
    return tmp_path / checkpoints.FILE


def resume(folder: Path, **options: Any) -> None:
    make_trainer(folder, **options).fit(*loaders(), epochs=EPOCHS, resume=True)


@pytest.mark.parametrize("length", [0, 5, 200, -1])
def test_a_truncated_file_is_refused(written: Path, length: int) -> None:
    data = written.read_bytes()
    written.write_bytes(data[: length if length >= 0 else len(data) + length])
    with pytest.raises(CheckpointError, match=f"{re.escape(str(written))}: damaged or not a check"):
        resume(written.parent)
    assert written.exists()


def test_a_foreign_file_is_refused(written: Path) -> None:
    written.write_bytes(b"PK\x03\x04" + bytes(1000))
    with pytest.raises(CheckpointError, match="damaged or not a checkpoint"):
        resume(written.parent)
    save_file({"x": np.zeros(3, np.float32)}, written)
    with pytest.raises(CheckpointError, match="a safetensors file, but not a checkpoint of gpucnn"):
        resume(written.parent)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("not json", "metadata is damaged"),
        ("[]", "metadata is damaged"),
        ({"epoch": None}, "metadata is damaged"),
        ({"random": [1]}, "metadata is damaged"),
        ({"format": 7}, "a checkpoint of another version, gpucnn "),
        ({"optimizer": {"state": [], "param_groups": []}}, "metadata is damaged"),
        ({"history": [{"epoch": 1}]}, "does not fit this training"),
    ],
)
def test_damaged_metadata_is_refused(written: Path, change: Any, message: str) -> None:
    from safetensors import safe_open

    with safe_open(written, "numpy") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
        metadata = file.metadata()
    (key,) = metadata
    if isinstance(change, dict):
        content = {**json.loads(metadata[key]), **change}
        content = {name: value for name, value in content.items() if value is not None}
        change = json.dumps(content)
    save_file(tensors, written, {key: change})
    with pytest.raises(CheckpointError, match=message):
        resume(written.parent)


def test_another_training_is_refused(written: Path) -> None:
    with pytest.raises(CheckpointError, match="seed is None there and 3 here"):
        resume(written.parent, run={"seed": 3})
    with pytest.raises(CheckpointError, match="optimizer class is 'SGD' there and 'Adam' here"):
        resume(written.parent, optimizer="adam")
    with pytest.raises(CheckpointError, match="scheduler class is 'OneCycleLR' there and 'NoneTyp"):
        resume(written.parent, scheduler="")
    other = make_trainer(written.parent)
    other.model[0] = gpucnn.nn.Conv2d(1, 4, 5, padding=2)
    with pytest.raises(CheckpointError, match="(?s)does not fit this training: .*size mismatch"):
        other.fit(*loaders(), epochs=EPOCHS, resume=True)
    with pytest.raises(CheckpointError, match="an epoch of 4 batches, the loader has 3"):
        make_trainer(written.parent).fit(loaders()[1], epochs=1, resume=True)


def test_a_failed_write_leaves_the_old_checkpoint(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = written.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        resume(written.parent)
    assert written.read_bytes() == before
    assert [file.name for file in written.parent.iterdir()] == [written.name]


def test_state_that_is_not_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="checkpoint: the training has state that is not data"):
        make_trainer(tmp_path, run={"function": print}).fit(*loaders(), epochs=1)


def test_resume_needs_a_folder() -> None:
    with pytest.raises(ValueError, match="fit: resume needs a Trainer with checkpoint_dir"):
        make_trainer(None).fit(*loaders(), epochs=1, resume=True)
    with pytest.raises(ValueError, match="save_checkpoint: the Trainer has no checkpoint_dir"):
        make_trainer(None).save_checkpoint()
