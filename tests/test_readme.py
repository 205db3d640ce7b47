"""The README's code runs when pasted, in order, in one session."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gpucnn.backends.gpu import nvrtc

README = Path(__file__).parents[1] / "README.md"


def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: object) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 5
    names: dict[str, object] = {}
    for block in blocks:
        if "emulated" in block and not nvrtc.compilers():
            continue  # PTX is made by NVRTC, which only some extras bring
        exec(compile(block, str(README), "exec"), names)
    printed = capsys.readouterr().out  # type: ignore[attr-defined]
    match = re.search(r"test accuracy (\d+\.\d+)%", printed)
    assert match is not None and float(match[1]) > 97
    assert (tmp_path / "digits.safetensors").exists()


def test_it_opens_with_the_two_commands() -> None:
    commands = re.findall(r"```sh\n(.*?)\n```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert commands[0] == "python -m pip install . && gpucnn train"
    assert commands[1] == 'python -m pip install ".[test]" && python -m pytest'
