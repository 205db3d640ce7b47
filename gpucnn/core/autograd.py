"""Reverse-mode differentiation: what is recorded.

Each differentiable operation is a `Function`; applying it records an instance that remembers its
parents. `gpucnn.core.backward` walks the instances.
"""

from __future__ import annotations

import functools
import itertools
import threading
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

from gpucnn.core.device import Device
from gpucnn.core.tensor import Array, Tensor

_sequence = itertools.count()
_Wrapped = TypeVar("_Wrapped", bound=Callable[..., Any])


class State(threading.local):
    enabled = True


state = State()


class _GradMode:
    """Switches recording for the current thread; a context manager and a decorator."""

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._saved: list[bool] = []

    def __enter__(self) -> None:
        self._saved.append(state.enabled)
        state.enabled = self._enabled

    def __exit__(self, *_: object) -> None:
        state.enabled = self._saved.pop()

    def __call__(self, function: _Wrapped) -> _Wrapped:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with _GradMode(self._enabled):
                return function(*args, **kwargs)

        return cast(_Wrapped, wrapper)


def no_grad() -> _GradMode:
    """Operations inside are not recorded: `with no_grad(): ...`, or `@no_grad()`."""
    return _GradMode(False)


def enable_grad() -> _GradMode:
    """Operations inside are recorded again, within a `no_grad`."""
    return _GradMode(True)


def is_grad_enabled() -> bool:
    """Whether the current thread records operations."""
    return state.enabled


class Saved(NamedTuple):
    data: Array
    device: Device
    version: list[int]
    number: int


class Edge(NamedTuple):
    """Where a gradient goes: to output number `output` of an operation, or to a leaf."""

    node: Function | None  # None for a leaf
    leaf: Any  # the leaf Tensor, else None: an operation must not keep its outputs alive
    output: int
    shape: tuple[int, ...]
    dtype: Any

    @classmethod
    def to(cls, tensor: Tensor) -> Edge:
        node, data = tensor.grad_fn, tensor.data
        leaf = tensor if node is None else None
        return cls(node, leaf, tensor._output_index, data.shape, data.dtype)


class Function:
    """A differentiable operation, and the record of one use of it (the `ctx` of its methods).

    Subclass it and write two static methods, then call `MyFunction.apply(...)`:

        class Square(gpucnn.Function):
            @staticmethod
            def forward(ctx, x):
                ctx.save_for_backward(x)
                return x * x

            @staticmethod
            def backward(ctx, dy):
                (x,) = ctx.saved_tensors
                return 2 * x * dy

    `forward` returns a Tensor or a tuple of them; `backward` takes a gradient for each and returns
    one for each argument of `forward` (None where there is none). Neither is itself recorded.

    Attributes:
        needs_input_grad: for each argument of `forward`, whether its gradient will be used.
    """

    needs_input_grad: tuple[bool, ...]

    # What a record has; one that is not kept, because no gradient is wanted, has only the first.
    _saved: tuple[Saved | None, ...] | None = ()
    _edges: tuple[Edge | None, ...]
    _outputs: list[tuple[tuple[int, ...], Any, Device]]
    _sequence: int
    _retained: dict[int, weakref.ref[Tensor]]

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:
        raise NotImplementedError("Function: write a static method forward(ctx, ...)")

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise NotImplementedError("Function: write a static method backward(ctx, ...)")

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors for `backward`; one changed in place until then is an error there."""
        if True not in self.needs_input_grad:
            return
        # Data and version, not the tensor: an output that held its own node would be a cycle.
        self._saved = tuple(
            [
                t if t is None else Saved(t.data, t.device, t._version, t._version[0])
                for t in tensors
            ]
        )

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """What `save_for_backward` kept.

        Raises:
            RuntimeError: a backward pass freed it, or a tensor was changed in place meanwhile.
        """
        if self._saved is None:
            raise RuntimeError(
                "backward: the graph was freed by an earlier backward; "
                "call backward(retain_graph=True) the first time"
            )
        tensors: list[Tensor | None] = []
        for saved in self._saved:
            if saved is None:
                tensors.append(None)
                continue
            if saved.version[0] != saved.number:
                raise RuntimeError(
                    f"backward: a tensor of shape {tuple(saved.data.shape)} that {self.name} saved "
                    f"was changed in place (version {saved.version[0]}, saved at {saved.number}); "
                    "change a clone, or after backward"
                )
            tensors.append(Tensor(saved.data, saved.device, version=saved.version))
        return tuple(tensors)

    @property
    def name(self) -> str:
        return type(self).__name__

    def __repr__(self) -> str:
        return f"<{self.name}Backward>"

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """Run `forward`, and record it when gradients are on and an argument requires one."""
        ctx = cls()
        if not state.enabled:
            ctx.needs_input_grad = (False,) * len(args)
            return cls.forward(ctx, *args)
        needs = tuple([isinstance(a, Tensor) and a.requires_grad for a in args])
        ctx.needs_input_grad = needs
        state.enabled = False
        try:
            result = cls.forward(ctx, *args)
        finally:
            state.enabled = True
        if True not in needs:
            return result
        ctx._edges = tuple([Edge.to(a) if needed else None for a, needed in zip(args, needs)])
        ctx._sequence = next(_sequence)
        ctx._outputs, ctx._retained = [], {}
        if isinstance(result, tuple):
            return tuple([ctx._mark(index, out, args) for index, out in enumerate(result)])
        return ctx._mark(0, result, args)

    def _mark(self, index: int, output: Any, inputs: tuple[Any, ...]) -> Tensor:
        if not isinstance(output, Tensor):
            raise TypeError(
                f"{self.name}.forward: must return tensors, got {type(output).__name__}"
            )
        for value in inputs:
            if output is value:  # returned as it came: the argument must keep its own history
                output = output.detach()
                break
        dtype = output.data.dtype
        self._outputs.append((output.data.shape, dtype, output.device))
        if dtype.kind == "f":
            output.requires_grad = True
            output.grad_fn = self
            output._output_index = index
        return output
