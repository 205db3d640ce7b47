"""Reverse-mode differentiation: the recorded graph and its backward pass.

Each differentiable operation is a `Function`; applying it records an instance that remembers its
parents. `run_backward` visits the instances in the reverse order of their creation, which is a
topological order, so depth costs no recursion.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar, cast

from gpucnn.core.device import Device
from gpucnn.core.memory import copy, full
from gpucnn.core.tensor import Array, Tensor

_sequence = itertools.count()
_Wrapped = TypeVar("_Wrapped", bound=Callable[..., Any])


class _State(threading.local):
    enabled = True


_state = _State()


class _GradMode:
    """Switches recording for the current thread; a context manager and a decorator."""

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._saved: list[bool] = []

    def __enter__(self) -> None:
        self._saved.append(_state.enabled)
        _state.enabled = self._enabled

    def __exit__(self, *_: object) -> None:
        _state.enabled = self._saved.pop()

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
    return _state.enabled


class _Saved(NamedTuple):
    data: Array
    device: Device
    version: list[int]
    number: int


class _Edge(NamedTuple):
    node: Function | None  # the parent operation, or
    leaf: Tensor | None  # the leaf itself
    output: int  # which output of the parent
    shape: tuple[int, ...]


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

    def __init__(self) -> None:
        self._saved: tuple[_Saved | None, ...] | None = ()
        self._edges: tuple[_Edge | None, ...] = ()
        self._outputs: list[tuple[tuple[int, ...], Any, Device]] = []
        self._sequence = 0
        self._retained: dict[int, weakref.ref[Tensor]] = {}

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:
        raise NotImplementedError("Function: write a static method forward(ctx, ...)")

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise NotImplementedError("Function: write a static method backward(ctx, ...)")

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors for `backward`; one changed in place until then is an error there."""
        # Data and version, not the tensor: an output that held its own node would be a cycle.
        self._saved = tuple(
            t if t is None else _Saved(t.data, t.device, t._version, t._version[0]) for t in tensors
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
        needs = tuple(isinstance(a, Tensor) and a.requires_grad for a in args)
        record = _state.enabled and any(needs)
        ctx.needs_input_grad = needs if record else (False,) * len(needs)
        enabled, _state.enabled = _state.enabled, False
        try:
            result = cls.forward(ctx, *args)
        finally:
            _state.enabled = enabled
        if not record:
            return result
        ctx._edges = tuple(
            _Edge(a.grad_fn, a if a.grad_fn is None else None, a._output_index, a.shape)
            if needed
            else None
            for a, needed in zip(args, needs)
        )
        ctx._sequence = next(_sequence)
        outputs = result if isinstance(result, tuple) else (result,)
        inputs = {id(a) for a in args}
        marked = [ctx._mark(index, out, id(out) in inputs) for index, out in enumerate(outputs)]
        return tuple(marked) if isinstance(result, tuple) else marked[0]

    def _mark(self, index: int, output: Tensor, is_input: bool) -> Tensor:
        if is_input:  # returned as it came: the argument must keep its own history
            output = output.detach()
        self._outputs.append((output.shape, output.dtype, output.device))
        if output.is_floating_point:
            output.requires_grad = True
            output.grad_fn = self
            output._output_index = index
        return output


def run_backward(
    roots: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    retain_graph: bool = False,
    create_graph: bool = False,
    inputs: Sequence[Tensor] | None = None,
) -> list[Tensor | None]:
    """Propagate gradients from `roots`.

    With `inputs`, the gradients of exactly these tensors are returned and no `.grad` is touched;
    without, `.grad` of every leaf reached is added to.
    """
    if create_graph:
        raise RuntimeError("backward: create_graph (gradients of gradients) is not supported")
    wanted = None if inputs is None else _Wanted(inputs)
    pending: dict[Function, list[Tensor | None]] = {}
    heap: list[tuple[int, Function]] = []

    def send(edge: _Edge, gradient: Tensor) -> None:
        if edge.leaf is not None:
            if wanted is None:
                _accumulate(edge.leaf, gradient)
            else:
                wanted.add_leaf(edge.leaf, gradient)
            return
        node = cast(Function, edge.node)
        if node not in pending:
            pending[node] = [None] * len(node._outputs)
            heapq.heappush(heap, (-node._sequence, node))
        slot = pending[node]
        present = slot[edge.output]
        slot[edge.output] = gradient if present is None else present + gradient

    enabled, _state.enabled = _state.enabled, False
    try:
        for root, gradient in zip(roots, gradients):
            edge = _Edge(root.grad_fn, root if root.is_leaf else None, root._output_index, ())
            send(edge, _root_gradient(root, gradient))
        while heap:
            _, node = heapq.heappop(heap)
            node_gradients = pending.pop(node)
            if wanted is not None:
                wanted.add_node(node, node_gradients)
            for index, reference in node._retained.items():
                if (tensor := reference()) is not None:
                    tensor.grad = node_gradients[index]
            for parent, result in zip(node._edges, _call(node, node_gradients)):
                if parent is not None and result is not None:
                    _check(node, parent, result)
                    send(parent, result)
            if not retain_graph:
                node._saved = None if node._saved else node._saved
    finally:
        _state.enabled = enabled
    return [] if wanted is None else wanted.result


class _Wanted:
    """The gradients that `grad` was asked for."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        self.inputs = inputs
        self.result: list[Tensor | None] = [None] * len(inputs)

    def add_leaf(self, leaf: Tensor, gradient: Tensor) -> None:
        for number, tensor in enumerate(self.inputs):
            if tensor is leaf:
                present = self.result[number]
                self.result[number] = gradient if present is None else present + gradient

    def add_node(self, node: Function, gradients: list[Tensor | None]) -> None:
        for number, tensor in enumerate(self.inputs):
            if tensor.grad_fn is node:
                self.result[number] = gradients[tensor._output_index]


def grad(
    outputs: Tensor,
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | None = None,
    retain_graph: bool = False,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> tuple[Tensor | None, ...]:
    """The gradients of `outputs` for `inputs`, without touching any `.grad`.

    Raises:
        RuntimeError: an input is not part of the graph (unless `allow_unused`), and the cases of
            `Tensor.backward`.
    """
    sources = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    result = run_backward([outputs], [grad_outputs], retain_graph, create_graph, sources)
    if not allow_unused and any(g is None for g in result):
        number = next(i for i, g in enumerate(result) if g is None)
        raise RuntimeError(f"grad: input {number} is not part of the graph of the output")
    return tuple(result)


def _root_gradient(root: Tensor, gradient: Tensor | None) -> Tensor:
    if not root.requires_grad:
        raise RuntimeError("backward: the tensor does not require grad and has no graph")
    if gradient is None:
        if root.numel() != 1:
            raise RuntimeError(
                f"backward: a tensor of shape {root.shape} needs an explicit gradient; "
                "only one element has an implicit one"
            )
        return full(root.shape, 1, root.dtype, root.device)
    if gradient.shape != root.shape or gradient.device is not root.device:
        raise RuntimeError(
            f"backward: gradient of shape {gradient.shape} on {gradient.device} for a tensor of "
            f"shape {root.shape} on {root.device}"
        )
    return gradient


def _call(node: Function, gradients: list[Tensor | None]) -> tuple[Tensor | None, ...]:
    complete = [
        full(shape, 0, dtype, device) if gradient is None and dtype.kind == "f" else gradient
        for gradient, (shape, dtype, device) in zip(gradients, node._outputs)
    ]
    result = node.backward(node, *complete)
    results = result if isinstance(result, tuple) else (result,)
    if len(results) != len(node._edges):
        raise RuntimeError(
            f"{node.name}.backward: returned {len(results)} gradients for "
            f"{len(node._edges)} arguments of forward"
        )
    return results


def _check(node: Function, edge: _Edge, gradient: Tensor) -> None:
    if not isinstance(gradient, Tensor) or gradient.shape != edge.shape:
        what = gradient.shape if isinstance(gradient, Tensor) else type(gradient).__name__
        raise RuntimeError(
            f"{node.name}.backward: gradient {what} for an argument of shape {edge.shape}"
        )


def _accumulate(leaf: Tensor, gradient: Tensor) -> None:
    if leaf.grad is not None:
        leaf.grad.add_(gradient)
        return
    slot = leaf._grad_slot
    if slot is not None and slot.shape == leaf.shape and slot.device is leaf.device:
        leaf.grad = slot.copy_(gradient)
    else:
        # A copy: the same array may be on its way to another leaf as well.
        leaf.grad = copy(gradient, dtype=leaf.dtype, order=leaf.order)
