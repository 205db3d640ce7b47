"""The table of patterns: calls next to each other that one primitive does in one pass.

Each pattern looks at one call (the last of its group), and rewrites the graph where it fits. Where
a value has a second reader, or a tensor of the user's on it, it does not. All but the statistics
of a batch norm keep the bits of the calls that they replace.
"""

from __future__ import annotations

from gpucnn.backends.cpu.conv import reads_images
from gpucnn.recorded.fusion import Graph, Pattern, changed, with_inputs
from gpucnn.recorded.node import Node, Ref

# Places of the optional operands in the primitives' inputs.
_ADDEND = {"conv2d": 3, "batch_norm": 5, "conv2d_backward_input": 2}
_MASK = {"conv2d_backward_input": 3, "matmul": 3}


def _is(node: Node | None, name: str, op: str) -> bool:
    return node is not None and node.name == name and node.attributes.get("op") == op


def relu_behind(graph: Graph, node: Node) -> bool:
    """relu(convolution, product, batch norm) -> the same with its ReLU."""
    if not _is(node, "unary", "relu"):
        return False
    maker = graph.feeding(node.inputs[0], "conv2d", "matmul", "batch_norm")
    if maker is None or maker.attributes["relu"] or not _alike(node.inputs[0], node.outputs[0]):
        return False
    if maker.name == "matmul" and maker.inputs[3] is not None:
        return False
    fused = changed(maker, outputs=node.outputs, attributes={"relu": True})
    return graph.merge(maker, node, fused, at=node)


def sum_behind(graph: Graph, node: Node) -> bool:
    """batch norm, convolution or its input gradient + another array -> with that addend."""
    if not _is(node, "binary", "add"):
        return False
    for number in (1, 0):
        value, other = node.inputs[number], node.inputs[1 - number]
        maker = graph.feeding(value, *_ADDEND)
        if maker is None or not isinstance(other, Ref) or other.overlaps(value):
            continue
        place = _ADDEND[maker.name]
        if maker.inputs[place] is not None or maker.attributes.get("relu"):
            continue
        if maker.name == "conv2d_backward_input" and maker.inputs[3] is not None:
            continue
        if not (_alike(value, node.outputs[0]) and other.shape == value.shape):
            continue
        fused = changed(maker, inputs=with_inputs(maker, {place: other}), outputs=node.outputs)
        if graph.merge(maker, node, fused, at=node):
            return True
    return False


def mask_behind_pool(graph: Graph, node: Node) -> bool:
    """ReLU's gradient behind that of a max pool over its output -> in one, by the maxima's sign."""
    if not _is(node, "binary", "relu_backward"):
        return False
    gradient, positive = node.inputs
    back = graph.feeding(gradient, "max_pool2d_backward")
    if back is None or back.inputs[2] is not None or not _alike(gradient, node.outputs[0]):
        return False
    pool = graph.producer(back.inputs[1])
    if pool is None or pool.name != "max_pool2d" or pool.inputs[0] != positive:
        return False
    fused = changed(back, inputs=with_inputs(back, {2: pool.outputs[0]}), outputs=node.outputs)
    return graph.merge(back, node, fused, at=node)


def mask_behind(graph: Graph, node: Node) -> bool:
    """ReLU's gradient behind that of a convolution or product -> in its epilogue."""
    if not _is(node, "binary", "relu_backward"):
        return False
    gradient, positive = node.inputs
    maker = graph.feeding(gradient, *_MASK)
    if maker is None or maker.inputs[_MASK[maker.name]] is not None:
        return False
    if maker.attributes.get("relu") or not _alike(gradient, node.outputs[0]):
        return False
    if not isinstance(positive, Ref) or positive.shape != gradient.shape:
        return False
    inputs = with_inputs(maker, {_MASK[maker.name]: positive})
    return graph.merge(maker, node, changed(maker, inputs=inputs, outputs=node.outputs), at=node)


def mask_before_batch_norm(graph: Graph, node: Node) -> bool:
    """ReLU's gradient before that of a batch norm -> read by its sums and its result alike.

    The masked gradient is written out where the other branch of a sum reads it too.
    """
    if node.name != "batch_norm_backward" or node.inputs[5] is not None:
        return False
    mask = graph.producer(node.inputs[0])
    if not _is(mask, "binary", "relu_backward") or mask is None:
        return False
    masked, (gradient, positive) = mask.outputs[0], mask.inputs
    if masked.buffer.held or not _alike(gradient, masked) or positive.shape != masked.shape:
        return False
    inputs = with_inputs(node, {0: gradient, 5: positive})
    readers = graph.readers(masked)
    if len(readers) == 1:
        return graph.merge(mask, node, changed(node, inputs=inputs), at=node)
    if any(reader.name != "batch_norm_backward" for reader in readers):
        fused = changed(node, inputs=inputs, outputs=[*node.outputs, masked])
        return graph.merge(mask, node, fused, at=mask)
    # Both branches normalise: each masks for itself, and the last one lets the mask go.
    graph.replace(node, changed(node, inputs=inputs))
    return True


def statistics_behind_convolution(graph: Graph, node: Node) -> bool:
    """A convolution and the statistics of its result -> in one (sums in another order)."""
    if node.name != "batch_norm_statistics":
        return False
    maker = graph.producer(node.inputs[0])
    if maker is None or maker.name != "conv2d" or maker.inputs[3] is not None:
        return False
    if maker.attributes["relu"]:
        return False
    attributes = {key: maker.attributes[key] for key in ("geometry", "precision")}
    fused = Node(
        "conv2d_statistics",
        [*maker.inputs[:3], *node.inputs[1:]],
        [*maker.outputs, *node.outputs],
        {**attributes, **node.attributes},
        (3, 4),
    )
    return graph.merge(maker, node, fused, at=maker)


def pool_behind_convolution(graph: Graph, node: Node) -> bool:
    """A convolution (with its ReLU) and a max pool -> in one."""
    if node.name != "max_pool2d":
        return False
    maker = graph.feeding(node.inputs[0], "conv2d")
    if maker is None or maker.inputs[3] is not None:
        return False
    fused = Node(
        "conv2d_max_pool",
        maker.inputs[:3],
        list(node.outputs),
        {**maker.attributes, "pool": node.attributes["geometry"]},
    )
    return graph.merge(maker, node, fused, at=node)


def pool_before_weight(graph: Graph, node: Node) -> bool:
    """The gradient of a max pool that only a convolution's filters need -> in one, where they take
    it image by image."""
    if node.name != "conv2d_backward_weight":
        return False
    geometry, precision = node.attributes["geometry"], node.attributes["precision"]
    if not reads_images(geometry, node.inputs[0].dtype, precision):
        return False
    back = graph.feeding(node.inputs[1], "max_pool2d_backward")
    if back is None:
        return False
    fused = Node(
        "conv2d_max_pool_backward_weight",
        [node.inputs[0], *back.inputs],
        node.outputs,
        {**node.attributes, "pool": back.attributes["geometry"]},
    )
    return graph.merge(back, node, fused, at=node)


def loss_with_gradient(graph: Graph, node: Node) -> bool:
    """Cross entropy, and its gradient for an upstream gradient of 1 -> in one."""
    if node.name != "cross_entropy_backward":
        return False
    one, log_probabilities, target, weight, divisor = node.inputs
    loss, ones = graph.feeding(log_probabilities, "cross_entropy"), graph.feeding(one, "full")
    if loss is None or ones is None or ones.attributes["value"] != 1:
        return False
    if graph.only_reader(divisor) is not node or loss.inputs[1:] != [target, weight]:
        return False
    fused = Node(
        "cross_entropy_with_gradient",
        loss.inputs,
        [loss.outputs[0], *node.outputs],
        loss.attributes,
    )
    if not graph.merge(loss, node, fused, at=node):
        return False
    graph.remove(ones)
    return True


def straight_to_its_place(graph: Graph, node: Node) -> bool:
    """A result that is only copied elsewhere (a gradient to its flat storage) -> written there."""
    if node.name != "copy":
        return False
    (value,), (target,) = node.inputs, node.outputs
    if not isinstance(value, Ref) or not _alike(value, target) or graph.only_reader(value) is None:
        return False
    maker = graph.producer(value)
    if maker is None or maker.name in ("copy", "full"):
        return False
    outputs = [target if ref == value else ref for ref in maker.outputs]
    return graph.merge(maker, node, changed(maker, outputs=outputs), at=maker)


def pooled_in_order(graph: Graph, node: Node) -> bool:
    """Pooled images copied to another order (for a flatten) -> written in that order at once."""
    if node.name != "copy":
        return False
    (value,), (target,) = node.inputs, node.outputs
    maker = graph.producer(value)
    if maker is None or maker.name not in ("max_pool2d", "conv2d_max_pool", "adaptive_avg_pool2d"):
        return False
    if value != maker.outputs[0] or value.buffer.held or target.buffer is None:
        return False
    if (target.shape, target.dtype) != (value.shape, value.dtype) or target.buffer.held:
        return False
    others = [reader for reader in graph.readers(value) if reader is not node]
    if any(reader.name != "max_pool2d_backward" or reader.inputs[2] != value for reader in others):
        return False
    fused = changed(maker, outputs=[target, *maker.outputs[1:]])
    if not graph.merge(maker, node, fused, at=maker):
        return False
    for reader in others:
        graph.replace(reader, changed(reader, inputs=with_inputs(reader, {2: target})))
    return True


def gradient_in_any_order(graph: Graph, node: Node) -> bool:
    """A gradient copied to another order for a max pool's -> read as it lies."""
    if node.name != "max_pool2d_backward":
        return False
    copied = graph.feeding(node.inputs[0], "copy")
    if copied is None:
        return False
    source, target = copied.inputs[0], copied.outputs[0]
    if (source.shape, source.dtype) != (target.shape, target.dtype):
        return False
    fused = changed(node, inputs=with_inputs(node, {0: source}))
    return graph.merge(copied, node, fused, at=node)


def _alike(a: Ref, b: Ref) -> bool:
    """Whether two arrays have one shape, dtype and memory order."""
    return (a.shape, a.strides, a.dtype) == (b.shape, b.strides, b.dtype)


INEXACT: frozenset[Pattern] = frozenset({statistics_behind_convolution})
"""Those whose results differ from the parts' by rounding, on a GPU."""

PATTERNS: tuple[Pattern, ...] = (
    loss_with_gradient,
    sum_behind,
    relu_behind,
    mask_behind_pool,
    mask_behind,
    mask_before_batch_norm,
    pool_behind_convolution,
    statistics_behind_convolution,
    pooled_in_order,
    gradient_in_any_order,
    straight_to_its_place,
)
"""In this order: sums before the ReLU behind them, masks before what needs them gone."""

OF_THE_CPU: tuple[Pattern, ...] = (pool_before_weight,)
"""Where memory is slow beside the cache; the others come before them."""
