"""Reverse-mode differentiation: the backward pass over the recorded graph.

Operations are visited in the reverse order of their creation, which is a topological order, so
depth costs no recursion.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

from gpucnn.core.autograd import Edge, Function, state
from gpucnn.core.memory import copy, full
from gpucnn.core.recording import state as recording
from gpucnn.core.tensor import Tensor


def run_backward(
    roots: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    retain_graph: bool = False,
    create_graph: bool = False,
    inputs: Sequence[Tensor] | None = None,
) -> list[Tensor | None]:
    """Propagate gradients from `roots`.

    With `inputs`, the gradients of exactly these tensors are returned, no leaf's `.grad` is
    touched, and only operations between them and the roots run; without, `.grad` of every leaf
    reached is added to.
    """
    if create_graph:
        raise RuntimeError("backward: create_graph (gradients of gradients) is not supported")
    wanted = None if inputs is None else _Wanted(roots, inputs)
    pending: dict[Function, list[Tensor | None]] = {}
    heap: list[tuple[int, Function]] = []

    def send(edge: Edge, gradient: Tensor) -> None:
        if edge.node is None:
            if wanted is None:
                _accumulate(edge.leaf, gradient)
            else:
                wanted.add_leaf(edge.leaf, gradient)
            return
        node = edge.node
        if wanted is not None and not wanted.reaches(node):
            return
        if node not in pending:
            pending[node] = [None] * len(node._outputs)
            heapq.heappush(heap, (-node._sequence, node))
        slot = pending[node]
        present = slot[edge.output]
        slot[edge.output] = gradient if present is None else present + gradient

    enabled, state.enabled = state.enabled, False
    try:
        for root, gradient in zip(roots, gradients, strict=True):
            send(Edge.to(root), _root_gradient(root, gradient))
        while heap:
            _, node = heapq.heappop(heap)
            node_gradients = pending.pop(node)
            if node._retained:
                _retain(node, node_gradients)
            if wanted is not None:
                wanted.add_node(node, node_gradients)
                if node not in wanted.between:
                    continue
            for parent, result in zip(node._edges, _call(node, node_gradients)):
                if parent is not None and result is not None:
                    send(parent, _checked(node, parent, result))
            if not retain_graph:
                node._saved = None if node._saved else node._saved
    finally:
        state.enabled = enabled
    return [] if wanted is None else wanted.result


class _Wanted:
    """The gradients that `grad` was asked for.

    Attributes:
        between: the operations on a path from the roots to one of these tensors.
    """

    def __init__(self, roots: Sequence[Tensor], inputs: Sequence[Tensor]) -> None:
        self.inputs = inputs
        self.result: list[Tensor | None] = [None] * len(inputs)
        self.sources = {t.grad_fn for t in inputs}
        leaves = {id(t) for t in inputs if t.grad_fn is None}
        self.between: set[Function] = set()
        for node in sorted(_reachable(roots), key=lambda node: node._sequence):  # parents first
            for edge in node._edges:
                if edge is None:
                    continue
                if id(edge.leaf) in leaves if edge.node is None else self.reaches(edge.node):
                    self.between.add(node)
                    break

    def reaches(self, node: Function) -> bool:
        return node in self.between or node in self.sources

    def add_leaf(self, leaf: Tensor, gradient: Tensor) -> None:
        for number, tensor in enumerate(self.inputs):
            if tensor is leaf:
                present = self.result[number]
                self.result[number] = gradient if present is None else present + gradient

    def add_node(self, node: Function, gradients: list[Tensor | None]) -> None:
        for number, tensor in enumerate(self.inputs):
            if tensor.grad_fn is node:
                self.result[number] = gradients[tensor._output_index]


def _reachable(roots: Sequence[Tensor]) -> set[Function]:
    found = {root.grad_fn for root in roots if root.grad_fn is not None}
    unseen = list(found)
    while unseen:
        for edge in unseen.pop()._edges:
            if edge is not None and edge.node is not None and edge.node not in found:
                found.add(edge.node)
                unseen.append(edge.node)
    return found


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    *,
    allow_unused: bool = False,
) -> tuple[Tensor | None, ...]:
    """The gradients of (the sum of) `outputs` for `inputs`, without touching any leaf's `.grad`.

    Args:
        grad_outputs: the upstream gradient of each output, as in `Tensor.backward`.
        retain_graph, create_graph: as in `Tensor.backward`.
        allow_unused: return None for an input that the outputs do not depend on.

    Raises:
        RuntimeError: an input is not part of the graph (unless `allow_unused`), and the cases of
            `Tensor.backward`.
    """
    sources = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    roots = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    given: list[Any] = [None] * len(roots)
    if grad_outputs is not None:
        given = [grad_outputs] if isinstance(grad_outputs, Tensor) else list(grad_outputs)
    if len(given) != len(roots):
        raise RuntimeError(f"grad: {len(given)} grad_outputs for {len(roots)} outputs")
    result = run_backward(roots, given, bool(retain_graph), create_graph, sources)
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
    if not isinstance(gradient, Tensor):
        raise TypeError(f"backward: gradient must be a Tensor, got {type(gradient).__name__}")
    if gradient.shape != root.shape or gradient.device is not root.device:
        raise RuntimeError(
            f"backward: gradient of shape {gradient.shape} on {gradient.device} for a tensor of "
            f"shape {root.shape} on {root.device}"
        )
    return _as_dtype(gradient, root.dtype)


def _as_dtype(gradient: Tensor, dtype: Any) -> Tensor:
    return gradient if gradient.dtype == dtype else copy(gradient, dtype=dtype)


def _call(node: Function, gradients: list[Tensor | None]) -> tuple[Tensor | None, ...]:
    for index, gradient in enumerate(gradients):
        if gradient is None:
            shape, dtype, device = node._outputs[index]
            if dtype.kind == "f":
                gradients[index] = full(shape, 0, dtype, device)
    result = node.backward(node, *gradients)
    results = result if isinstance(result, tuple) else (result,)
    if len(results) != len(node._edges):
        raise RuntimeError(
            f"{node.name}.backward: returned {len(results)} gradients for "
            f"{len(node._edges)} arguments of forward"
        )
    return results


def _checked(node: Function, edge: Edge, gradient: Any) -> Tensor:
    """What an operation returned for an argument, in that argument's dtype."""
    if not isinstance(gradient, Tensor) or gradient.data.shape != edge.shape:
        what = gradient.shape if isinstance(gradient, Tensor) else type(gradient).__name__
        raise RuntimeError(
            f"{node.name}.backward: gradient {what} for an argument of shape {edge.shape}"
        )
    return gradient if gradient.data.dtype is edge.dtype else _as_dtype(gradient, edge.dtype)


def _retain(node: Function, gradients: list[Tensor | None]) -> None:
    """Add to `.grad` of those outputs that asked for it."""
    for index, reference in node._retained.items():
        tensor, gradient = reference(), gradients[index]
        if tensor is not None and gradient is not None:
            _accumulate(tensor, gradient)


def _accumulate(tensor: Tensor, gradient: Tensor) -> None:
    if recording.recorder is not None:
        recording.recorder.read_gradient(tensor)
    if tensor.grad is not None:
        tensor.grad.add_(gradient)
        return
    slot = tensor._grad_slot
    if slot is not None and slot.shape == tensor.shape and slot.device is tensor.device:
        if gradient._version is slot._version and gradient.data is not slot.data:
            gradient = copy(gradient)  # another view of the same memory
        tensor.grad = copy(gradient, out=slot)
    else:
        # A copy: the same array may be on its way to another tensor as well.
        tensor.grad = copy(gradient, dtype=tensor.dtype, order=tensor.order)
