"""The group itself: help, errors, exit codes, real processes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from cli_helpers import Invoke, Process, assert_one_line, command, environment

import gpucnn
from gpucnn import cli
from gpucnn.cli.errors import run_and_exit

COMMANDS = list(cli._COMMANDS)


def test_alone_it_teaches(invoke: Invoke) -> None:
    result = invoke()
    assert result.exit_code == 0
    assert result.output == invoke("--help").output == invoke("-h").output
    for name in COMMANDS:
        assert re.search(rf"^  {name} +\S", result.output, re.MULTILINE)
        assert f"gpucnn {name}" in result.output
    assert max(map(len, result.output.splitlines())) <= 100


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(invoke: Invoke, name: str) -> None:
    result = invoke(name, "--help")
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"Usage: gpucnn {name} ")
    # What the overview says of it, and what it says itself, exist.
    assert len(result.output.splitlines()) > 5


def test_every_example_is_a_command(invoke: Invoke) -> None:
    text = invoke().output + "".join(invoke(name, "--help").output for name in COMMANDS)
    examples = re.findall(r"^    +gpucnn (\w+)", text, re.MULTILINE)
    assert len(examples) > 15
    assert set(examples) <= set(cli._COMMANDS)


def test_version(invoke: Invoke) -> None:
    assert invoke("--version").output == f"gpucnn {gpucnn.__version__}\n"


def test_unknown_commands(invoke: Invoke) -> None:
    text = assert_one_line(invoke("trian"), code=2)
    assert text.startswith("there is no command 'trian'; did you mean 'train'? the commands are ")
    assert assert_one_line(invoke("--wrong"), code=2).startswith("No such option")


def test_info(invoke: Invoke) -> None:
    result = invoke("info")
    assert result.exit_code == 0, result.output
    facts = json.loads(invoke("info", "--json").stdout)
    assert facts["gpucnn"] == gpucnn.__version__
    assert facts["default device"] == str(gpucnn.default_device())
    assert facts["cpu"]["gpucnn threads"] == gpucnn.get_num_threads()
    assert facts["kernels"]["kernels"] > facts["kernels"]["files"] > 10
    assert all(library["threads"] >= 1 for library in facts["blas"])
    reason = gpucnn.cuda.why_not()
    if reason is not None:
        assert facts["cuda"] == f"is not used: {reason}" and reason in result.stdout
    for name, value in facts.items():
        assert re.search(rf"^{re.escape(name)} ", result.stdout, re.MULTILINE)
        if isinstance(value, str):
            assert value in result.stdout


def test_info_with_a_wrong_environment(process: Process) -> None:
    done = process("info", GPUCNN_DEVICE="gpu")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^default device +none \(GPUCNN_DEVICE: device: 'gpu' is", done.stdout, re.M)


# ---- exit codes and the one line


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("conv2d: wrong"), "conv2d: wrong"),
        (TypeError("wrong"), "wrong"),
        (RuntimeError("several\n\tlines"), "several lines"),
        (FileNotFoundError(2, "No such file or directory", "x"), "x: No such file or directory"),
        (OSError("plain"), "plain"),
        (MemoryError(), "out of memory"),
        (gpucnn.data.DataError("file: byte 3"), "file: byte 3"),
        (gpucnn.serialization.FormatError("m", "cut"), "m: cut"),
        (ValueError(), "ValueError"),
        (click.ClickException("theirs"), "theirs"),
    ],
)
def test_one_line_an_error(capsys: pytest.CaptureFixture[str], error: Exception, text: str) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        run_and_exit(fail)
    assert caught.value.code == 1
    assert capsys.readouterr().err == f"gpucnn: error: {text}\n"


def test_a_bug_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        run_and_exit(lambda: 1 // 0)


def test_interrupts_and_codes(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as caught:
        run_and_exit(interrupt)
    assert caught.value.code == 130
    assert capsys.readouterr().err == "gpucnn: interrupted\n"
    for value, code in ((None, 0), (3, 3)):
        with pytest.raises(SystemExit) as caught:
            run_and_exit(lambda value=value: value)  # type: ignore[misc]
        assert caught.value.code == code


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["train", "minst"], 1), (["eval", "missing"], 1), (["train", "--epochs", "x"], 2)],
)
def test_a_real_process_fails_in_one_line(
    process: Process, arguments: list[str], code: int
) -> None:
    done = process(*arguments)
    assert done.returncode == code
    assert re.fullmatch(r"gpucnn: error: [^\n]+\n", done.stderr)
    assert done.stdout == "" or "device" in done.stdout


def test_a_traceback_on_request(process: Process) -> None:
    done = process("train", "minst", GPUCNN_TRACEBACK="1")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback ")
    assert done.stderr.splitlines()[-1].startswith("gpucnn: error: load: unknown data set")


def test_the_device_of_the_environment(process: Process) -> None:
    done = process("train", GPUCNN_DEVICE="nowhere")
    assert done.returncode == 1
    assert done.stderr.startswith("gpucnn: error: GPUCNN_DEVICE: device: 'nowhere' is not one of")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX pipes")
def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    running = subprocess.Popen(
        command("info"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=environment(),
    )
    assert running.stdout is not None and running.stderr is not None
    running.stdout.close()
    errors = running.stderr.read()
    running.wait(60)
    running.stderr.close()
    assert b"Traceback" not in errors and b"Exception" not in errors
