"""Work in other processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpucnn.backends.gpu import workers


def test_results_come_in_order_and_from_elsewhere() -> None:
    found = workers.spread(os.path.basename, [f"a/{i}" for i in range(20)], workers=3)
    assert found == [str(i) for i in range(20)]
    places = set(workers.spread(_pid, list(range(12)), workers=2))
    assert os.getpid() not in places and 1 <= len(places) <= 2


def test_few_items_stay_here() -> None:
    assert set(workers.spread(_pid, [1, 2], workers=8)) == {os.getpid()}
    assert set(workers.spread(_pid, [1] * 9, workers=1)) == {os.getpid()}


def test_the_first_error_is_raised() -> None:
    with pytest.raises(ValueError, match="invalid literal for int.*: 'x3'"):
        workers.spread(int, ["1", "2", "x3", "4", "x5", "6"], workers=2)


def test_a_process_that_dies_is_named() -> None:
    with pytest.raises(RuntimeError, match="a process for _exit ended with code 7"):
        workers.spread(os._exit, [7] * 6, workers=2)


def test_prints_do_not_come_between_the_answers(capfd: pytest.CaptureFixture[str]) -> None:
    assert workers.spread(print, ["noise"] * 6, workers=2) == [None] * 6
    assert capfd.readouterr().out == ""


def test_a_script_without_the_main_idiom(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys, os; sys.path[:0] = {sys.path!r}\n"
        "from gpucnn.backends.gpu.workers import spread\n"
        "print(*spread(os.path.basename, ['a/1'] * 6, 2))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert done.stdout == "1 1 1 1 1 1\n"


def _pid(_: object) -> int:
    return os.getpid()
