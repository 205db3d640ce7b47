"""Reverse-mode differentiation: the backward pass over the recorded graph.

Operations are visited in the reverse order of their creation, which is a topological order, so
depth costs no recursion.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import cast

from gpucnn.core.autograd import Edge, Function, state
from gpucnn.core.memory import copy, full
from gpucnn.core.tensor import Tensor


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

    def send(edge: Edge, gradient: Tensor) -> None:
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

    enabled, state.enabled = state.enabled, False
    try:
        for root, gradient in zip(roots, gradients):
            edge = Edge(root.grad_fn, root if root.is_leaf else None, root._output_index, ())
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
        state.enabled = enabled
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


def _check(node: Function, edge: Edge, gradient: Tensor) -> None:
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
