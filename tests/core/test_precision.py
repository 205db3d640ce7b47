"""The name of the precision in force: contexts, threads, models, and what primitives are told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import backends, nn
from gpucnn.core.device import CPU
from gpucnn.core.precision import PRECISIONS


@pytest.fixture(autouse=True)
def default() -> Iterator[None]:
    yield
    gpucnn.set_precision("auto")


class Listening:
    """The cpu's backend, keeping the precision that each primitive is called with."""

    def __init__(self) -> None:
        self._backend = backends.get(CPU)
        self.heard: list[tuple[str, str]] = []
        self.primitives = {n: self._heard(n, p) for n, p in self._backend.primitives.items()}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def _heard(self, name: str, primitive: Callable[..., None]) -> Callable[..., None]:
        def call(*arrays: Any, **attributes: Any) -> None:
            if "precision" in attributes:
                self.heard.append((name, attributes["precision"]))
            primitive(*arrays, **attributes)

        return call


@contextmanager
def listening() -> Iterator[list[tuple[str, str]]]:
    backend = Listening()
    with backends.serving(CPU, backend):  # type: ignore[arg-type]
        yield backend.heard


def test_contexts_nest() -> None:
    assert gpucnn.current_precision() == "auto"
    with gpucnn.precision("tf32") as outer:
        assert gpucnn.current_precision() == outer.name == "tf32"
        with gpucnn.precision("bf16"):
            assert gpucnn.current_precision() == "bf16"
            with pytest.raises(KeyError), outer:
                assert gpucnn.current_precision() == "tf32"
                raise KeyError
            assert gpucnn.current_precision() == "bf16"
        assert gpucnn.current_precision() == "tf32"
    assert gpucnn.current_precision() == "auto"


def test_a_decorator() -> None:
    @gpucnn.precision("fp32")
    def inside(x: int) -> tuple[int, str]:
        """Its own text."""
        return x, gpucnn.current_precision()

    assert inside(3) == (3, "fp32") and inside.__doc__ == "Its own text."
    assert gpucnn.current_precision() == "auto"


def test_the_default_is_that_of_all_threads_and_a_context_of_one() -> None:
    seen: list[str] = []

    def look() -> None:
        seen.append(gpucnn.current_precision())

    gpucnn.set_precision("tf32")
    assert gpucnn.get_precision() == gpucnn.current_precision() == "tf32"
    with gpucnn.precision("fp16"):
        assert gpucnn.get_precision() == "tf32" and gpucnn.current_precision() == "fp16"
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    assert seen == ["tf32"]


@pytest.mark.parametrize("name", ["float32", "", None, 16, ["fp32"]])
def test_unknown_names(name: Any) -> None:
    names = ", ".join(PRECISIONS)
    assert names == "auto, fp32, 3xtf32, tf32, bf16, fp16"
    for call, use in (
        ("precision", gpucnn.precision),
        ("set_precision", gpucnn.set_precision),
        ("Module.precision", lambda name: setattr(nn.ReLU(), "precision", name)),
    ):
        if name is None and call == "Module.precision":
            continue
        with pytest.raises(ValueError) as error:
            use(name)
        assert str(error.value) == f"{call}: must be one of {names}, got {name!r}"
    assert gpucnn.get_precision() == "auto"


def test_backward_computes_as_forward_did() -> None:
    convolution, linear = nn.Conv2d(2, 3, 3), nn.Linear(3, 4)
    x = gpucnn.randn(2, 2, 5, 5)
    with listening() as heard:
        with gpucnn.precision("bf16"):
            y = convolution(x)
        z = linear(y.mean((2, 3)))
        with gpucnn.precision("fp16"):
            z.sum().backward()
    assert [p for n, p in heard if n.startswith("conv2d")] == ["bf16"] * 2
    assert {p for n, p in heard if not n.startswith("conv2d")} == {"auto"}


def test_a_model_has_its_own() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 2, 1))
    assert model.precision is None
    model.precision = "bf16"
    model[2].precision = "fp32"
    x = gpucnn.randn(1, 1, 7, 7)
    with listening() as heard:
        with gpucnn.precision("fp16"):
            y = model(x)
            assert gpucnn.current_precision() == "fp16"
        y.sum().backward()
    forward = [precision for name, precision in heard if name == "conv2d"]
    assert forward == ["bf16", "fp32", "bf16"]
    backward = [precision for name, precision in heard if name.startswith("conv2d_backward")]
    assert sorted(backward) == ["bf16"] * 3 + ["fp32"] * 2
    model.precision = None
    with listening() as heard:
        model(x)
    assert [precision for _, precision in heard] == ["auto", "fp32", "auto"]
    assert "precision" not in model.state_dict()


def test_a_captured_step_is_recorded_anew_for_another_precision() -> None:
    model = nn.Conv2d(1, 2, 3)

    @gpucnn.capture
    def step(x: Any) -> Any:
        return model(x).sum()

    x = gpucnn.randn(1, 1, 5, 5)
    for name in ("bf16", "tf32", None):
        model.precision = name
        with listening() as heard:
            for _ in range(3):
                step(x)
        assert {precision for _, precision in heard} <= {name or "auto"}
        assert {node.attributes["precision"] for node in step.nodes() if node.name == "conv2d"} == {
            name or "auto"
        }


def test_fp32_on_the_cpu_has_no_winograd() -> None:
    """Where "auto" takes it: the results differ in their last bits."""
    x, w = gpucnn.randn(4, 64, 32, 32), gpucnn.randn(64, 64, 3, 3)
    results = {}
    for name in ("auto", "fp32", "tf32", "bf16"):
        with gpucnn.precision(name):
            results[name] = nn.functional.conv2d(x, w, padding=1).numpy()
    assert not np.array_equal(results["auto"], results["fp32"])
    assert np.allclose(results["auto"], results["fp32"], rtol=1e-3, atol=1e-2)
    for name in ("tf32", "bf16"):
        assert np.array_equal(results["auto"], results[name])
