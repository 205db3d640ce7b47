"""Running a step eagerly while every primitive call is kept."""

from __future__ import annotations

import bisect
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpucnn import backends
from gpucnn.core import recording
from gpucnn.core.device import Device
from gpucnn.core.dispatch import Spec
from gpucnn.core.primitive import MUTATED
from gpucnn.core.tensor import Tensor
from gpucnn.recorded.node import Array, Buffer, Node, Ref, extent

_FIRST = 1 << 60
"""Where the addresses of buffers begin: beyond those of memory."""
_ALIGNMENT = 64


class Trace:
    """The recorder of one run of a step (see `gpucnn.core.recording.Recorder`).

    Attributes:
        nodes: the calls, in order.
        device: where they ran; None before the first.
        actions: what a replay does on the host first.
        versions: the counters of tensors that the step changes.
        reason: why the step cannot be replayed, None while it can.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.device: Device | None = None
        self.actions: list[Callable[[], None]] = []
        self.versions: list[list[int]] = []
        self.reason: str | None = None
        self._guards: list[tuple[str, Callable[[], Any], Any]] = []
        self._modules: list[tuple[Any, bool, str | None]] = []
        self._tensors: dict[int, tuple[Tensor, Any, bool]] = {}
        self._gradients: dict[int, tuple[Tensor, Any]] = {}
        self._reset: set[int] = set()
        self._places: list[_Place] = []  # where buffers lie, in the order of their addresses
        self._starts: list[int] = []
        self._next = _FIRST
        self._made: list[weakref.ref[Tensor]] = []
        self._seen_versions: set[int] = set()

    def __enter__(self) -> Trace:
        if recording.state.recorder is not None:
            raise RuntimeError("capture: a captured step cannot record another one inside itself")
        recording.state.recorder = self
        return self

    def __exit__(self, *_: object) -> None:
        recording.state.recorder = None

    # ---- what the engine tells it

    def call(
        self,
        name: str,
        device: Device,
        inputs: Sequence[Any],
        specs: Sequence[Spec],
        attributes: Mapping[str, Any],
        outputs: Sequence[Any] | None,
    ) -> Sequence[Any]:
        """Run the primitive, and keep the call."""
        backend = backends.get(device)
        if self.device is None:
            self.device = device
        elif device is not self.device:
            self.fail(f"it computes on {self.device} and on {device}")
        if outputs is None:
            outputs = [backend.empty(shape, dtype, order) for shape, dtype, order in specs]
            for array in outputs:
                self._add_buffer(backend.address(array), array, keep=device.type != "cpu")
        backend.primitives[name](*inputs, *outputs, **attributes)
        if self.reason is None:
            self.nodes.append(
                Node(
                    name,
                    [self._ref(backend, value) for value in inputs],
                    [self._ref(backend, value) for value in outputs],
                    dict(attributes),
                    MUTATED.get(name, ()),
                )
            )
        return outputs

    def before_replay(self, action: Callable[[], None]) -> None:
        self.actions.append(action)

    def guard(self, what: str, read: Callable[[], Any]) -> None:
        self._guards.append((what, read, read()))

    def changed(self, version: list[int]) -> None:
        if id(version) not in self._seen_versions:
            self._seen_versions.add(id(version))
            self.versions.append(version)

    def enter(self, module: Any) -> None:
        self._modules.append((module, module.training, module.precision))
        for table in (module._parameters, module._buffers):
            for tensor in table.values():
                if tensor is not None:
                    self._tensors[id(tensor)] = (tensor, tensor.data, tensor.requires_grad)

    def made(self, tensor: Tensor) -> None:
        self._made.append(weakref.ref(tensor))

    def fail(self, reason: str) -> None:
        if self.reason is None:
            self.reason = reason

    def read_gradient(self, tensor: Tensor) -> None:
        if id(tensor) not in self._reset and id(tensor) not in self._gradients:
            self._gradients[id(tensor)] = (tensor, _data(tensor.grad))

    def reset_gradient(self, tensor: Tensor) -> None:
        if id(tensor) not in self._gradients:
            self._reset.add(id(tensor))

    # ---- what the captured step asks it

    def stale(self) -> str | None:
        """What has changed since, so that a replay would be another computation; None: nothing."""
        for module, training, precision in self._modules:
            if module.training is not training:
                return "the mode (train or eval) of a module"
            if module.precision != precision:
                return f"the precision of {type(module).__name__}"
        for tensor, data, requires_grad in self._tensors.values():
            if tensor.data is not data or tensor.requires_grad is not requires_grad:
                return "a parameter or buffer of a module"
        for tensor, gradient in self._gradients.values():
            if _data(tensor.grad) is not gradient:
                return "a gradient that the step adds to"
        for what, read, value in self._guards:
            if read() != value:
                return what
        return None

    def finish(self, kept: Sequence[Any]) -> None:
        """Mark the memory on which tensors still live, and the arrays in `kept`."""
        if self.device is None:
            return
        backend = backends.get(self.device)
        living = [made() for made in self._made]
        arrays = [tensor.data for tensor in living if tensor is not None]
        for array in [*arrays, *kept]:
            found = self._find(*extent(backend.address(array), array))
            if found is not None:
                found.buffer.memory = found.owner()
        self._made.clear()

    # ---- memory

    def release(self) -> None:
        """Let the recorded calls and their memory go; what `stale` looks at stays."""
        self.nodes.clear()
        self._places.clear()
        self._starts.clear()

    def _add_buffer(self, address: int, array: Array, keep: bool) -> None:
        """New memory; with `keep` it is not let go before the recording is over."""
        start, stop = extent(address, array)
        if stop <= start:
            return
        first = last = bisect.bisect_left(self._starts, start)
        # What lay here before is gone, or the memory would not have been handed out.
        while first > 0 and self._places[first - 1].stop > start:
            first -= 1
        while last < len(self._places) and self._places[last].start < stop:
            last += 1
        buffer = Buffer(self._next, self._next + stop - start)
        self._next = -(-buffer.stop // _ALIGNMENT) * _ALIGNMENT
        owner = (lambda: array) if keep else weakref.ref(_owner(array))
        self._places[first:last] = [_Place(start, stop, buffer, owner, keep)]
        self._starts[first:last] = [start]

    def _find(self, start: int, stop: int) -> _Place | None:
        """The place of the buffer that has these addresses now."""
        number = bisect.bisect_right(self._starts, start) - 1
        if number < 0 or start >= stop:
            return None
        place = self._places[number]
        return place if stop <= place.stop and place.owner() is not None else None

    def _ref(self, backend: backends.Backend, value: Any) -> Any:
        if value is None or isinstance(value, (int, float, np.generic)):
            return value
        address = backend.address(value)
        start, stop = extent(address, value)
        place = self._find(start, stop)
        shift = 0 if place is None else place.buffer.start - place.start
        return Ref(
            value if place is None or place.keep else None,
            address + shift, start + shift, stop + shift,
            tuple(value.shape), tuple(value.strides), value.dtype,
            None if place is None else place.buffer,
        )  # fmt: skip


class _Place(NamedTuple):
    """Where a buffer lies, and who owns its memory: None once it was let go."""

    start: int
    stop: int
    buffer: Buffer
    owner: Callable[[], Array | None]
    keep: bool


def _owner(array: Array) -> Array:
    """The array whose memory a view looks at."""
    while array.base is not None:
        array = array.base
    return array


def _data(gradient: Tensor | None) -> Any:
    return None if gradient is None else gradient.data
