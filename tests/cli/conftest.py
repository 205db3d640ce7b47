"""A model file, and the command as a call and as a process."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_helpers import Invoke, Process, command, environment
from click.testing import CliRunner, Result

import gpucnn
from gpucnn.cli import main
from gpucnn.training import Preprocessing


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Invoke]:
    """Run the command in a folder of its own, within this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GPUCNN_TRACEBACK", raising=False)
    runner = CliRunner()
    threads = gpucnn.get_num_threads()

    def call(*arguments: str | Path) -> Result:
        return runner.invoke(main, [str(argument) for argument in arguments])

    yield call
    gpucnn.set_default_device(None)
    gpucnn.set_num_threads(threads)


@pytest.fixture
def process(tmp_path: Path) -> Process:
    """Run `python -m gpucnn` as a process in a folder of its own."""

    def call(*arguments: str | Path, **changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments),
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment(**changes),
            timeout=120,
        )

    return call


@pytest.fixture(scope="session")
def digits_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file as `gpucnn train` writes it; the net is not trained."""
    gpucnn.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    recorded = Preprocessing.of(gpucnn.data.load("digits").train)
    model = gpucnn.models.create("digits_net").to("cpu")
    gpucnn.save(model, path, {"dataset": "digits", **recorded.to_metadata()})
    return path
