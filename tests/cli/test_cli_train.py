"""`gpucnn train`: results in a folder, resumption, refusals."""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_helpers import Invoke, Process, assert_one_line, command, environment
from safetensors.numpy import load_file

import gpucnn

MODEL = "model.safetensors"
FAST = ["train", "--epochs", "2", "--batch-size", "256"]


def assert_same_tensors(one: Path, two: Path) -> None:
    """Bit by bit."""
    a, b = load_file(one), load_file(two)
    assert list(a) == list(b)
    for name in a:
        assert a[name].tobytes() == b[name].tobytes(), name


def test_the_results(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke(*FAST, "--seed", "5", "--out", "out", "--json", "deep/report.json")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert re.fullmatch(r"device  (cpu, \d+ threads? \(.+\)|cuda:0)", lines[0])
    assert lines[1] == "model   digits_net, 38,282 parameters"
    assert lines[2] == "data    digits: 1,297 training, 500 test images of 1 x 8 x 8, 10 classes"
    assert lines[3].startswith("recipe  2 epochs, batches of 256, sgd, momentum 0.9, one cycle up")
    assert lines[4] == "folder  out"
    assert lines[5].startswith("epoch 1/2  loss ") and lines[6].startswith("epoch 2/2  loss ")
    accuracy = re.fullmatch(r"test accuracy (\d+\.\d\d)%", lines[-1])
    assert accuracy is not None
    names = {"model.safetensors", "history.csv", "checkpoint.safetensors"}
    assert {file.name for file in (tmp_path / "out").iterdir()} == names

    report = json.loads((tmp_path / "deep" / "report.json").read_text())
    assert f"{100 * report['test']['accuracy']:.2f}" == accuracy[1]
    assert report["settings"]["seed"] == 5 and report["settings"]["optimizer"] == "sgd"
    assert [record["epoch"] for record in report["history"]] == [1, 2]
    assert report["versions"]["gpucnn"] == gpucnn.__version__
    assert report["parameters"] == 38282
    rows = list(csv.DictReader((tmp_path / "out" / "history.csv").read_text().splitlines()))
    assert [float(row["loss"]) for row in rows] == [r["loss"] for r in report["history"]]

    measured = invoke("eval", "out/model.safetensors", "--json")
    assert json.loads(measured.stdout)["accuracy"] == report["test"]["accuracy"]
    again = invoke(*FAST, "--seed", "5", "--out", "again", "--threads", "1")
    assert again.stdout.splitlines()[-1] == lines[-1]
    assert_same_tensors(tmp_path / "out" / MODEL, tmp_path / "again" / MODEL)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_options(invoke: Invoke, optimizer: str) -> None:
    result = invoke(
        *["train", "DIGITS", "--model", "Digits-Net", "--epochs", "1", "--batch-size", "300"],
        *["--lr", "0.001", "--optimizer", optimizer, "--weight-decay", "0", "--momentum", "0.8"],
        *["--augment", "--validation", "0.1", "--device", "cpu"],
    )
    assert result.exit_code == 0, result.output
    assert "1,167 training, 130 validation, 500 test images" in result.stdout
    assert f"recipe  1 epoch, batches of 300, {optimizer}, momentum 0.8" in result.stdout
    assert "augmentation, seed 0" in result.stdout and "no augmentation" not in result.stdout
    assert "  validation loss " in result.stdout
    assert "folder  runs/digits-digits_net" in result.stdout.replace("\\", "/")


def test_resume(invoke: Invoke, tmp_path: Path) -> None:
    whole = invoke(*FAST, "--lr", "0.05", "--out", "out")
    (tmp_path / "out" / MODEL).rename(tmp_path / MODEL)
    # Settings that are not given are those of the checkpoint.
    again = invoke("train", "--resume", "--out", "out")
    assert again.exit_code == 0, again.output
    assert "one cycle up to lr 0.05" in again.stdout
    assert "going on from its checkpoint" in again.stdout
    assert "epoch " not in again.stdout.replace("2 epochs", "")
    assert again.stdout.splitlines()[-1] == whole.stdout.splitlines()[-1]
    assert_same_tensors(tmp_path / "out" / MODEL, tmp_path / MODEL)
    other = invoke("train", "--resume", "--out", "out", "--lr", "0.1")
    assert "another training: lr is 0.05 there and 0.1 here" in assert_one_line(other)
    fresh = invoke(*FAST, "--out", "new", "--resume")
    assert "no checkpoint there: beginning" in fresh.stdout
    warned = invoke(*FAST, "--out", "new")
    assert "what is there is replaced; --resume would go on with it" in warned.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_interrupted_and_resumed(tmp_path: Path, process: Process) -> None:
    long = ["train", "--epochs", "12", "--batch-size", "256", "--out", "out"]
    running = subprocess.Popen(
        command(*long),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=environment(PYTHONUNBUFFERED="1"),
    )
    assert running.stdout is not None
    for line in running.stdout:
        if line.startswith("epoch  2/12"):
            break
    time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130, errors
    assert errors.splitlines()[-1] == (
        "gpucnn: interrupted: go on with 'gpucnn train --resume --out out'"
    )
    assert "Traceback" not in errors
    assert not (tmp_path / "out" / "model.safetensors").exists()
    resumed = process("train", "--resume", "--out", "out")
    assert resumed.returncode == 0, resumed.stderr
    whole = process(*long[:-1], "whole")
    assert resumed.stdout.splitlines()[-1] == whole.stdout.splitlines()[-1]
    assert_same_tensors(tmp_path / "out" / MODEL, tmp_path / "whole" / MODEL)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["minst"], "load: unknown data set 'minst', expected one of digits, mnist,.* did you me"),
        (["--model", "lenet6"], "model: there is no 'lenet6'; did you mean 'lenet5'"),
        (["--model", "lenet5"], r"lenet5: input_size must be at least 12 x 12, got \(8, 8\)"),
        (["--device", "gpu"], "device: 'gpu' is not one of 'cpu', 'cuda', 'cuda:N', 'emulated'"),
        (["--device", "cuda:99"], "(device )?cuda:99.*: "),
        (["--batch-size", "5000"], "train: --batch-size 5000 is more than the 1297 training image"),
        (["--data", "here"], "load: digits come with gpucnn"),
        (["mnist", "--data", "missing"], "mnist: .*missing"),
        (["--validation", "0.0001"], "split: validation must be"),
        (["--lr", "1e30", "--epochs", "3"], r"fit: the loss became (nan|inf) in epoch \d; try a "),
    ],
)
def test_refusals(invoke: Invoke, arguments: list[str], message: str) -> None:
    assert re.match(message, assert_one_line(invoke("train", *arguments)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "Invalid value for '--epochs': 0 is not in the range x>=1."),
        (["--lr", "-1"], "Invalid value for '--lr': -1.0 is not in the range x>0."),
        (["--optimizer", "adm"], "Invalid value for '--optimizer': 'adm' is not one of 'sgd', 'a"),
        (["--epochs", "x"], "Invalid value for '--epochs': 'x' is not a valid integer range."),
        (["--wrong"], "No such option '--wrong'."),
        (["digits", "mnist"], "Got unexpected extra argument (mnist)"),
    ],
)
def test_wrong_usage(invoke: Invoke, arguments: list[str], message: str) -> None:
    text = assert_one_line(invoke("train", *arguments), code=2)
    assert text.replace("option:", "option").startswith(message[:20]) and text.endswith(
        "(try 'gpucnn train --help')"
    )


def test_a_damaged_checkpoint_is_refused(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "checkpoint.safetensors").write_bytes(b"x" * 100)
    result = invoke("train", "--resume", "--out", "out")
    assert "checkpoint.safetensors: damaged or not a checkpoint: " in assert_one_line(result)


def test_a_folder_that_cannot_be_written(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    text = assert_one_line(invoke(*FAST, "--out", "file/out"))
    assert "Not a directory" in text or "file" in text
