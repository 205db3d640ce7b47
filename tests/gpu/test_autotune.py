"""Choices by time, on a runtime whose clock follows a script."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from gpucnn.backends.gpu import autotune, conv, cuda, select
from gpucnn.backends.gpu.host import A100, RecordingRuntime
from gpucnn.backends.gpu.instances import Instance, Plan, Problem, instances
from gpucnn.backends.gpu.select import Scored
from gpucnn.ops.geometry import Conv2dGeometry

Launch = Callable[[Instance], None]
GEOMETRY = Conv2dGeometry.of("test", (8, 64, 16, 16), (64, 64, 3, 3), 1, 1, 1, 1)
PROBLEM = Problem("forward", GEOMETRY)
SCORES = {"best": 0.8, "second": 0.7, "third": 0.6, "fourth": 0.5, "poor": 0.3}


def instance(name: str) -> Instance:
    return Instance(name, "forward", "x.cu", "x", (), 64, 64, 8, 256, 2, "fp32", 0.8)


INSTANCES = {name: instance(name) for name in SCORES}


class Clock(RecordingRuntime):
    """Its events stand still but for the launches: each costs what the script says, in us."""

    def __init__(self, costs: Mapping[str, float]) -> None:
        super().__init__(A100)
        self.costs, self.now, self.ran = costs, 0.0, list[str]()

    def record_event(self) -> object:
        return self.now

    def elapsed_ms(self, start: object, end: object) -> float:
        assert isinstance(start, float) and isinstance(end, float)
        return (end - start) / 1e3

    def run(self, chosen: Instance) -> None:
        self.ran.append(chosen.algorithm)
        self.now += self.costs[chosen.algorithm]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("GPUCNN_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("GPUCNN_AUTOTUNE", raising=False)
    monkeypatch.setattr(autotune, "_wanted", None)
    scored = [Scored(INSTANCES[n], s, {}, Plan((1, 1, 1))) for n, s in SCORES.items()]
    monkeypatch.setattr(select, "explain", lambda *a, **k: list(scored))
    autotune.forget()
    yield
    autotune.forget()


def choose(runtime: Clock, problem: Problem = PROBLEM) -> str:
    return autotune.choose(runtime, problem, "auto", runtime.run).algorithm


def file(folder: Path) -> Path:
    return folder / "autotune.json"


def test_the_score_alone_decides_by_default(tmp_path: Path) -> None:
    runtime = Clock({"best": 9, "second": 1, "third": 1})
    assert choose(runtime) == "best" and runtime.ran == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("costs", "chosen"),
    [
        ({"best": 9, "second": 5, "third": 7}, "second"),
        ({"best": 9, "second": 8, "third": 7}, "third"),
        ({"best": 7, "second": 8, "third": 9}, "best"),
        ({"best": 100, "second": 99, "third": 98.5}, "best"),  # within the margin
    ],
)
def test_the_quickest_of_the_best_by_score(costs: dict[str, float], chosen: str) -> None:
    autotune.autotune(True)
    runtime = Clock(costs)
    assert choose(runtime) == chosen
    launches = 1 + autotune.ROUNDS * autotune.LAUNCHES
    assert sorted(runtime.ran) == sorted([*costs] * launches)  # neither the fourth nor the poor one
    # A second time nothing is launched.
    runtime.ran.clear()
    assert choose(runtime) == chosen and runtime.ran == []


def test_the_environment_turns_it_on(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = {"best": 9, "second": 1, "third": 9}
    for value, chosen in (("1", "second"), ("0", "best"), ("", "best")):
        monkeypatch.setenv("GPUCNN_AUTOTUNE", value)
        assert choose(Clock(costs)) == chosen
    monkeypatch.setenv("GPUCNN_AUTOTUNE", "1")
    autotune.autotune(False)
    assert choose(Clock(costs)) == "best"


def test_another_process_finds_the_choice(tmp_path: Path) -> None:
    autotune.autotune(True)
    assert choose(Clock({"best": 9, "second": 5, "third": 7})) == "second"
    autotune.forget()  # as a new process would begin
    runtime = Clock({"best": 1, "second": 5, "third": 7})
    assert choose(runtime) == "second" and runtime.ran == []
    content = json.loads(file(tmp_path).read_text())
    (entry,) = content["choices"].values()
    assert entry["device"] == "A100" and entry["compute_capability"] == [8, 0]
    assert entry["instance"] == INSTANCES["second"].name
    assert entry["microseconds"][INSTANCES["third"].name] == pytest.approx(7)
    assert entry["problem"]["geometry"]["k"] == 64 and entry["problem"]["dtype"] == "float32"


@pytest.mark.parametrize(
    "change",
    [
        lambda patch: patch.setattr(cuda, "_driver_version", lambda: 12090),
        lambda patch: patch.setattr(autotune, "_sources", lambda: "other kernels"),
    ],
)
def test_what_it_depends_on_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[pytest.MonkeyPatch], None]
) -> None:
    autotune.autotune(True)
    assert choose(Clock({"best": 9, "second": 5, "third": 7})) == "second"
    autotune.forget()
    change(monkeypatch)
    assert choose(Clock({"best": 1, "second": 5, "third": 7})) == "best"


def test_problems_are_kept_apart(tmp_path: Path) -> None:
    autotune.autotune(True)
    assert choose(Clock({"best": 9, "second": 5, "third": 7})) == "second"
    for other in (
        Problem("forward", GEOMETRY, "float64"),
        Problem("forward", GEOMETRY, aligned=False),
        Problem("backward_input", GEOMETRY),
    ):
        assert choose(Clock({"best": 9, "second": 8, "third": 3}), other) == "third"
    assert choose(Clock({"best": 1, "second": 9, "third": 9})) == "second"
    assert len(json.loads(file(tmp_path).read_text())["choices"]) == 4


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"format": 1}',
        '{"format": 1, "choices": []}',
        '{"format": 0, "choices": {}}',
    ],
)
def test_a_file_that_makes_no_sense_is_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    file(tmp_path).write_text(text)
    autotune.autotune(True)
    assert choose(Clock({"best": 9, "second": 5, "third": 7})) == "second"
    said = capsys.readouterr().err.splitlines()
    assert said and all(
        line.startswith(f"gpucnn: autotune: {file(tmp_path)} is not used (") for line in said
    )
    autotune.forget()
    runtime = Clock({"best": 1, "second": 5, "third": 7})
    assert choose(runtime) == "second" and runtime.ran == [] and capsys.readouterr().err == ""


def test_an_entry_of_an_instance_that_is_gone_is_measured_anew(tmp_path: Path) -> None:
    autotune.autotune(True)
    choose(Clock({"best": 9, "second": 5, "third": 7}))
    content = json.loads(file(tmp_path).read_text())
    for entry in content["choices"].values():
        entry["instance"] = "of another version"
    file(tmp_path).write_text(json.dumps(content))
    autotune.forget()
    assert choose(Clock({"best": 9, "second": 8, "third": 2})) == "third"


def test_a_folder_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GPUCNN_CACHE_DIR", str(tmp_path / "file"))
    autotune.autotune(True)
    assert choose(Clock({"best": 9, "second": 5, "third": 7})) == "second"
    assert "cannot be written" in capsys.readouterr().err


def test_devices_without_a_clock_go_by_the_score() -> None:
    autotune.autotune(True)
    runtime = RecordingRuntime(A100)
    ran: list[Instance] = []
    assert autotune.choose(runtime, PROBLEM, "auto", ran.append).algorithm == "best"
    assert ran == []


def test_nothing_is_timed_inside_a_capture() -> None:
    """Events cannot be waited for there; what is known already holds."""
    autotune.autotune(True)
    costs = {"best": 9, "second": 5, "third": 7}
    runtime = Clock(costs)
    runtime.capturing = True  # type: ignore[attr-defined]
    assert choose(runtime) == "best" and runtime.ran == []
    assert choose(Clock(costs)) == "second"
    assert choose(runtime) == "second" and runtime.ran == []


@pytest.mark.parametrize("direction", ["forward", "backward_input", "backward_weight"])
def test_convolutions_ask_it(monkeypatch: pytest.MonkeyPatch, direction: str) -> None:
    """The primitives hand over what computes the problem: each instance writes their result."""
    problem = Problem(direction, GEOMETRY)
    wanted = [i for i in instances() if i.algorithm == "generic" and i.direction == direction]
    seen: list[Problem] = []

    def choose(runtime: Clock, problem: Problem, precision: str, launch: Launch) -> Instance:
        seen.append(problem)
        assert precision == "fp32"
        launch(wanted[0])
        return wanted[0]

    monkeypatch.setattr(autotune, "choose", choose)
    runtime = RecordingRuntime(A100)
    g = GEOMETRY
    x, w, y = (
        runtime.empty(shape, "float32", (0, 2, 3, 1)) for shape in (g.x_shape, g.w_shape, g.y_shape)
    )
    primitive, arrays, more = {
        "forward": (conv.conv2d, (x, w, None, None, y), {"relu": True}),
        "backward_input": (conv.conv2d_backward_input, (y, w, None, None, x), {}),
        "backward_weight": (conv.conv2d_backward_weight, (x, y, w), {}),
    }[direction]
    primitive(runtime, *arrays, geometry=g, precision="fp32", **more)  # type: ignore[operator]
    assert seen == []
    by_score = len(runtime.launches)
    autotune.autotune(True)
    primitive(runtime, *arrays, geometry=g, precision="fp32", **more)  # type: ignore[operator]
    assert seen == [problem]
    own = [one for one in runtime.launches[by_score:] if one.kernel.entry == wanted[0].entry]
    assert len(own) == 2 and own[0].grid == own[1].grid
    result = runtime.address(arrays[-1])
    written = [
        one.kernel.entry
        for one in runtime.launches[by_score:]
        if any(isinstance(a, np.ndarray) and runtime.address(a) == result for a in one.arguments)
    ]
    assert len(written) == 2 and written[0] == written[1]


def test_results_in_place_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autotune, "choose", lambda *a: pytest.fail("an operand would be lost"))
    autotune.autotune(True)
    runtime = RecordingRuntime(A100)
    g = GEOMETRY
    x, w = (runtime.empty(shape, "float32", (0, 2, 3, 1)) for shape in (g.x_shape, g.w_shape))
    conv.conv2d(runtime, x, w, None, x, x, geometry=g, relu=False, precision="fp32")
    assert runtime.launches
