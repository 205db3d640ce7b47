"""The code in the documents runs when pasted, in order; the output they show is what it prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gpucnn.backends.gpu import nvrtc

DOCS = Path(__file__).parents[1] / "docs"
STEP = re.compile(r"```python\n(.*?)```(?:\s*<!-- output -->\s*```text\n(.*?)```)?", re.DOTALL)


def settled(text: str) -> str:
    """Without what depends on the compiler's version or on what ran before: addresses, counts."""
    text = re.sub(r"0x7f[0-9a-f]+", "0x7f..", text)
    text = re.sub(r"least \d+\.\d+ us", "least N us", text)
    return re.sub(r"\d+ times", "N times", text).strip()


@pytest.mark.parametrize(
    "name", ["capture.md", "precision.md", "writing-a-kernel.md", "emulated-device.md"]
)
def test_code_and_output(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not nvrtc.compilers():
        pytest.skip("no NVRTC to make PTX")
    monkeypatch.delenv("GPUCNN_EMULATED_CHECKS", raising=False)
    path = DOCS / name
    steps = STEP.findall(path.read_text(encoding="utf-8"))
    assert steps
    names: dict[str, object] = {}
    for code, shown in steps:
        exec(compile(code, str(path), "exec"), names)
        assert settled(capsys.readouterr().out) == settled(shown), code


def test_links_lead_somewhere() -> None:
    for path in DOCS.glob("*.md"):
        prose = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#:]+)\)", prose):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
