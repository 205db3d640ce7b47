"""The recording of a step, as the rest of the engine sees it.

`gpucnn.capture` runs a step once with a `Recorder` in force: every primitive call then passes it,
and what happens outside primitives (numbers made on the host, counters, reads) tells it what a
replay has to do again, or that it cannot be replayed. Without a recorder all of this costs a look
at one variable.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from gpucnn import backends

if TYPE_CHECKING:
    from gpucnn.core.device import Device
    from gpucnn.core.dispatch import Spec
    from gpucnn.core.tensor import Tensor


class Recorder(Protocol):
    """What records a step."""

    def call(
        self,
        name: str,
        device: Device,
        inputs: Sequence[Any],
        specs: Sequence[Spec],
        attributes: Mapping[str, Any],
        outputs: Sequence[Any] | None,
    ) -> Sequence[Any]:
        """Run a primitive as `dispatch` does, and remember it."""

    def before_replay(self, action: Callable[[], None]) -> None:
        """Have `action` called before each replay."""

    def guard(self, what: str, read: Callable[[], Any]) -> None:
        """Let a replay be valid only while `read()` gives what it gives now."""

    def changed(self, version: list[int]) -> None:
        """Have this version counter count up at each replay."""

    def enter(self, module: Any) -> None:
        """A module is called: the step depends on its mode, its precision and its tensors."""

    def made(self, tensor: Tensor) -> None:
        """A tensor came to be; if it still lives after the step, somebody holds it."""

    def fail(self, reason: str) -> None:
        """Say that the step cannot be replayed, and why."""

    def read_gradient(self, tensor: Tensor) -> None:
        """The step depends on whether this tensor has a gradient."""

    def reset_gradient(self, tensor: Tensor) -> None:
        """The step takes this tensor's gradient away."""


class _State(threading.local):
    recorder: Recorder | None = None


state = _State()


def changed(tensor: Tensor) -> None:
    """Count the tensor's version up: its values changed in place."""
    tensor._version[0] += 1
    if state.recorder is not None:
        state.recorder.changed(tensor._version)


def forget_gradient(tensor: Tensor) -> None:
    """Set the tensor's gradient to None."""
    tensor.grad = None
    if state.recorder is not None:
        state.recorder.reset_gradient(tensor)


def unrepeatable(reason: str) -> None:
    """Say that what happens now cannot be part of a replayed step; nothing outside a recording."""
    if state.recorder is not None:
        state.recorder.fail(reason)


def guard(what: str, read: Callable[[], Any]) -> None:
    """Let a replay of the step be valid only while `read()` gives what it gives now."""
    if state.recorder is not None:
        state.recorder.guard(what, read)


def each_time(action: Callable[[], None]) -> None:
    """Do `action` on the host, now and before each replay of the step."""
    action()
    if state.recorder is not None:
        state.recorder.before_replay(action)


def host_values(compute: Callable[[], Any], dtype: Any, device: Device) -> Any:
    """A small array on the device, of numbers that the host computes anew for each replay.

    What changes from step to step (learning rates, keys of random numbers) reaches kernels this
    way: a captured graph holds the arguments of its launches, but not what lies in memory.
    """
    backend = backends.get(device)
    array = backend.from_host(np.array(compute(), dtype))
    if state.recorder is not None:
        state.recorder.before_replay(lambda: backend.write(array, np.array(compute(), dtype)))
    return array
