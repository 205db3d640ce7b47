"""The captured step: which recording fits a call, and what a replay does."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpucnn import backends
from gpucnn.core.autograd import is_grad_enabled
from gpucnn.core.device import Device
from gpucnn.core.precision import current_precision
from gpucnn.core.tensor import Tensor
from gpucnn.recorded import memory
from gpucnn.recorded.fusion import Graph, Pattern, rewrite
from gpucnn.recorded.node import Buffer, Node, Ref
from gpucnn.recorded.patterns import INEXACT, OF_THE_CPU, PATTERNS
from gpucnn.recorded.trace import Trace

_BYTE = np.dtype(np.uint8)
_RECORDINGS = 8
"""How many recordings of one key are kept: of a net in training, in evaluation, ..."""


def capture(fn: Callable[..., Any] | None = None, *, fuse: bool | str = True) -> Any:
    """A step that is recorded once and then replayed.

        @gpucnn.capture
        def step(x, y):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

    A call with arguments of new shapes runs as it is, the next one is recorded, and from then on
    the recorded primitives run without Python above them: fused (`fuse`), in memory planned
    beforehand, on a GPU as one CUDA graph. What the step returns is overwritten by its next call;
    `.clone()` keeps it. Learning rates, random numbers and the counters of optimizers move on as
    they do without capture; everything else that Python does inside happens at recording only.

    A replay is valid while the shapes, dtypes and devices of the tensors, the other arguments, the
    modes of the modules, their parameters and the optimizer's options are those of the recording;
    when they change the step is recorded anew. What cannot be replayed (a value read on the host, a
    module with hooks) runs as it is, each time; `step.reason` says why, and a warning once.

    Args:
        fn: takes and returns tensors, in tuples, lists and dictionaries, and plain hashable values.
        fuse: rewrite the recording by the table of `gpucnn.recorded.patterns`; "exact" by those
            patterns alone that keep the bits of the step as it is, False not at all.

    Raises:
        ValueError: `fuse` is none of these.
    """
    if fuse not in (True, False, "exact"):
        raise ValueError(f"capture: fuse must be True, False or 'exact', got {fuse!r}")
    if fn is None:
        return functools.partial(capture, fuse=fuse)
    return CapturedStep(fn, fuse)


class CapturedStep:
    """What `capture` makes of a function.

    Attributes:
        reason: why the last call ran as it is although it was captured, else None.
        launches: of the last replay on a GPU, how many kernels, copies and fills it took.
    """

    def __init__(self, fn: Callable[..., Any], fuse: bool | str = True) -> None:
        functools.update_wrapper(self, fn, updated=())
        self._fn = fn
        self._fuse = fuse
        self._recordings: dict[Hashable, list[_Recording]] = {}
        self._warm: set[Hashable] = set()
        self._failed: dict[Hashable, str] = {}
        self.reason: str | None = None
        self.launches: int | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        tensors: list[Tensor] = []
        key = (_key((args, kwargs), tensors), is_grad_enabled(), current_precision())
        self.reason = self._failed.get(key)
        for recording in self._recordings.get(key, ()):
            if recording.trace.stale() is None:
                result = recording.replay(tensors)
                self.launches = recording.launches
                return result
        if self.reason is None and key in self._warm:
            self._warm.discard(key)
            return self._record(key, args, kwargs, tensors)
        # What is made lazily (buffers of optimizers, compiled kernels) is made now.
        self._warm.add(key)
        return _detached(self._fn(*args, **kwargs))

    def _record(self, key: Hashable, args: Any, kwargs: Any, tensors: list[Tensor]) -> Any:
        statics = [_static(tensor) for tensor in tensors]
        replaced = iter(statics)
        own_args, own_kwargs = _rebuild((args, kwargs), replaced)
        trace = Trace()
        if any(tensor.requires_grad for tensor in tensors):
            trace.fail("an argument requires a gradient")
        with trace:
            result = _detached(self._fn(*own_args, **own_kwargs))
        if trace.reason is not None:
            self._failed[key] = self.reason = trace.reason
            warnings.warn(f"capture: the step runs as it is: {trace.reason}", stacklevel=3)
            return result
        results: list[Tensor] = []
        _collect(result, results)
        trace.finish([tensor.data for tensor in results])
        kept = self._recordings.setdefault(key, [])
        kept.append(_Recording(trace, statics, result, self._fuse))
        del kept[:-_RECORDINGS]
        return result

    def nodes(self) -> list[Node]:
        """The calls of the recording made last, as they are replayed. For looking at."""
        recordings = [r for kept in self._recordings.values() for r in kept]
        return list(recordings[-1].nodes) if recordings else []


class _Recording:
    """One recording, planned and ready to run."""

    def __init__(self, trace: Trace, statics: list[Tensor], result: Any, fuse: bool | str) -> None:
        self.trace = trace
        if trace.device is None:
            raise RuntimeError("capture: the step computes nothing")
        self.nodes = rewrite(trace.nodes, _patterns(fuse))
        if fuse and trace.device.type == "cpu":
            self.nodes = rewrite(self.nodes, OF_THE_CPU)
        self.launches: int | None = None
        self._statics = statics
        self._result = result
        self._replay: backends.Replay | None = None
        self._device: Device = trace.device
        self._backend = backends.get(trace.device)
        self._calls = self._planned()

    def replay(self, tensors: Sequence[Tensor]) -> Any:
        copy = self._backend.primitives["copy"]
        for static, tensor in zip(self._statics, tensors, strict=True):
            copy(tensor.data, static.data)
        for action in self.trace.actions:
            action()
        if self._replay is None:
            self._replay = self._backend.capture(self._run)
            self.launches = self._replay.launches
        else:
            self._replay()
        for version in self.trace.versions:
            version[0] += 1
        return self._result

    def _run(self) -> None:
        for call in self._calls:
            call()

    def _planned(self) -> list[Callable[[], None]]:
        """The calls over arrays in one arena, those on which tensors live in their own memory.

        The arrays of the recording are let go before the arena is made.
        """
        lifetimes = Graph(self.nodes).buffers()
        movable = {buffer: life for buffer, life in lifetimes.items() if not buffer.held}
        offsets, size = memory.plan(movable)
        arguments = [
            [_placed(value, offsets) for value in (*node.inputs, *node.outputs)]
            for node in self.nodes
        ]
        self.nodes = [node.without_arrays() for node in self.nodes]
        self.trace.release()
        arena = self._backend.empty((size,), _BYTE, None)

        def array(value: Any) -> Any:
            if not isinstance(value, _Place):
                return value
            memory = arena if value.memory is None else value.memory.reshape(-1).view(_BYTE)
            piece = memory[value.begin : value.begin + value.whole].view(value.dtype)
            return self._backend.as_strided(piece, value.shape, value.strides)

        return [
            functools.partial(
                self._backend.primitives[node.name], *map(array, values), **node.attributes
            )
            for node, values in zip(self.nodes, arguments)
        ]


class _Place(NamedTuple):
    """An array in the arena, or in memory of its own: where its first element lies, and how many
    bytes follow."""

    memory: Any
    begin: int
    whole: int
    dtype: Any
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _placed(value: Any, offsets: dict[Buffer, int]) -> Any:
    """What a call is given: a place in the arena, or the array (or number) itself."""
    if not isinstance(value, Ref):
        return value
    if value.buffer is None:
        return value.array
    if value.buffer.held and value.array is not None:
        return value.array
    begin = offsets.get(value.buffer, 0) + value.address - value.buffer.start
    whole = max(value.dtype.itemsize, value.stop - value.address)
    return _Place(value.buffer.memory, begin, whole, value.dtype, value.shape, value.strides)


def _patterns(fuse: bool | str) -> tuple[Pattern, ...]:
    if fuse == "exact":
        return tuple(pattern for pattern in PATTERNS if pattern not in INEXACT)
    return PATTERNS if fuse else ()


def _static(tensor: Tensor) -> Tensor:
    """A tensor of the step's own with the values of an argument, in the same memory order."""
    backend = backends.get(tensor.device)
    array = backend.empty(tensor.shape, tensor.dtype, tensor.order)
    backend.primitives["copy"](tensor.data, array)
    return Tensor(array, tensor.device)


def _key(value: Any, tensors: list[Tensor]) -> Hashable:
    """What a recording holds of arguments; their tensors are appended to `tensors`.

    Raises TypeError for a value that is neither a tensor nor hashable.
    """
    if isinstance(value, Tensor):
        tensors.append(value)
        data = value.data
        return Tensor, data.shape, data.dtype, value.device, value.order, value.requires_grad
    if isinstance(value, (tuple, list)):
        return (type(value).__name__, *[_key(item, tensors) for item in value])
    if isinstance(value, dict):
        return ("dict", *[(name, _key(item, tensors)) for name, item in value.items()])
    try:
        hash(value)
    except TypeError:
        raise TypeError(
            f"capture: arguments must be tensors or hashable values, got {type(value).__name__}"
        ) from None
    return (type(value).__name__, value)


def _rebuild(value: Any, tensors: Any) -> Any:
    """The same structure with its tensors replaced, in order, by those of an iterator."""
    if isinstance(value, Tensor):
        return next(tensors)
    if isinstance(value, (tuple, list)):
        items = [_rebuild(item, tensors) for item in value]
        if hasattr(value, "_fields"):
            return type(value)(*items)
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, dict):
        return {name: _rebuild(item, tensors) for name, item in value.items()}
    return value


def _detached(value: Any) -> Any:
    """The same structure, its tensors outside the graph."""
    if isinstance(value, Tensor):
        return value.detach()
    tensors: list[Tensor] = []
    if isinstance(value, (tuple, list, dict)):
        _collect(value, tensors)
        return _rebuild(value, iter([tensor.detach() for tensor in tensors]))
    return value


def _collect(value: Any, tensors: list[Tensor]) -> None:
    if isinstance(value, Tensor):
        tensors.append(value)
    elif isinstance(value, (tuple, list)):
        for item in value:
            _collect(item, tensors)
    elif isinstance(value, dict):
        for item in value.values():
            _collect(item, tensors)
