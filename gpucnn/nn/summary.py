"""What a net is made of: layers, output shapes, parameters, floating point operations, memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpucnn.core.autograd import no_grad
from gpucnn.core.tensor import Tensor
from gpucnn.nn.layers.conv import Conv2d
from gpucnn.nn.layers.linear import Linear
from gpucnn.nn.layers.norm import BatchNorm1d, BatchNorm2d
from gpucnn.nn.layers.pool import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d
from gpucnn.nn.module import Module
from gpucnn.ops.creation import zeros
from gpucnn.ops.geometry import pair

Shape = tuple[int, ...]


@dataclass
class LayerSummary:
    """One layer: a module without modules below it, or with parameters of its own.

    Attributes:
        output_shape: of the last call; None where the output is not one tensor.
        parameters: elements of its own parameters.
        flops: floating point operations of all its calls in one forward pass.
        activation_bytes: memory of its outputs; 0 for a view of the input.
    """

    name: str
    type: str
    output_shape: Shape | None
    parameters: int
    flops: int = 0
    activation_bytes: int = 0


@dataclass
class Summary:
    """The layers in the order of their calls, and totals; prints as a table.

    FLOPs are counted as follows, a multiply-add as two: convolution 2 N K P Q (C / groups) R S;
    linear 2 M in out; pooling one for each element of each window; adaptive pooling one for each
    element of its input; batch norm two for each element; bias and activations not at all.
    """

    input_shape: Shape
    layers: list[LayerSummary] = field(default_factory=list)
    parameters: int = 0
    trainable_parameters: int = 0
    parameter_bytes: int = 0

    @property
    def flops(self) -> int:
        """Of one forward pass."""
        return sum(layer.flops for layer in self.layers)

    @property
    def activation_bytes(self) -> int:
        """Of all outputs of one forward pass."""
        return sum(layer.activation_bytes for layer in self.layers)

    def __str__(self) -> str:
        head = ["layer", "type", "output", "parameters", "FLOPs", "activations"]
        rows = [
            [
                layer.name or "(net)",
                layer.type,
                _shape(layer.output_shape),
                f"{layer.parameters:,}" if layer.parameters else "",
                _scaled(layer.flops) if layer.flops else "",
                _bytes(layer.activation_bytes) if layer.activation_bytes else "",
            ]
            for layer in self.layers
        ]
        total = [
            "total",
            "",
            "",
            f"{self.parameters:,}",
            _scaled(self.flops),
            _bytes(self.activation_bytes),
        ]
        widths = [max(map(len, column)) for column in zip(head, total, *rows)]
        rule = "  ".join("-" * width for width in widths)
        lines = [f"input {_shape(self.input_shape)}", _line(head, widths), rule]
        lines += [_line(row, widths) for row in rows]
        lines += [rule, _line(total, widths)]
        frozen = self.parameters - self.trainable_parameters
        lines.append(
            f"parameters: {_bytes(self.parameter_bytes)}"
            + (f", {frozen:,} of them frozen" if frozen else "")
        )
        return "\n".join(lines)


def _line(cells: list[str], widths: list[int]) -> str:
    # Words to the left, numbers to the right.
    aligned = [c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths))]
    return "  ".join(aligned).rstrip()


def _shape(shape: Shape | None) -> str:
    return "" if shape is None else " x ".join(map(str, shape)) or "scalar"


def _scaled(number: float) -> str:
    units = ["", " k", " M", " G", " T"]
    while number >= 1000 and len(units) > 1:
        number, units = number / 1000, units[1:]
    return f"{number:.2f}{units[0]}" if units[0] else f"{number:.0f}"


def _bytes(number: float) -> str:
    units = ["B", "KiB", "MiB", "GiB"]
    while number >= 1024 and len(units) > 1:
        number, units = number / 1024, units[1:]
    return f"{number:.0f} B" if units[0] == "B" else f"{number:.1f} {units[0]}"


def _conv_flops(layer: Conv2d, x: Tensor, y: Tensor) -> int:
    return 2 * y.numel() * math.prod(layer.weight.shape[1:])


def _linear_flops(layer: Linear, x: Tensor, y: Tensor) -> int:
    return 2 * y.numel() * layer.in_features


def _pool_flops(layer: MaxPool2d | AvgPool2d, x: Tensor, y: Tensor) -> int:
    return y.numel() * math.prod(pair("summary", "kernel_size", layer.kernel_size, 1))


def _adaptive_flops(layer: AdaptiveAvgPool2d, x: Tensor, y: Tensor) -> int:
    return x.numel()


def _norm_flops(layer: Module, x: Tensor, y: Tensor) -> int:
    return 2 * y.numel()


_FLOPS: dict[type[Module], Callable[..., int]] = {
    Conv2d: _conv_flops,
    Linear: _linear_flops,
    MaxPool2d: _pool_flops,
    AvgPool2d: _pool_flops,
    AdaptiveAvgPool2d: _adaptive_flops,
    BatchNorm1d: _norm_flops,
    BatchNorm2d: _norm_flops,
}


def summary(model: Module, input_size: Sequence[int] | Tensor) -> Summary:
    """Run `model` once, in evaluation and without gradients, and say what each layer does.

    The model is left as it was: training mode, buffers and hooks.

    Args:
        input_size: the shape of an input, batch included, or an input.
    """
    x = input_size if isinstance(input_size, Tensor) else _example(model, tuple(input_size))
    result = Summary(x.shape)
    for parameter in model.parameters():
        result.parameters += parameter.numel()
        result.trainable_parameters += parameter.numel() if parameter.requires_grad else 0
        result.parameter_bytes += parameter.numel() * parameter.dtype.itemsize
    found: dict[Module, LayerSummary] = {}
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    handles = []
    for name, module in model.named_modules():
        own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        if own or not any(True for _ in module.children()):
            row = LayerSummary(name, type(module).__name__, None, own)
            handles.append(module.register_forward_hook(_recorder(row, found)))
    try:
        model.eval()
        with no_grad():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
        with no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
    result.layers = list(found.values())
    return result


def _example(model: Module, shape: Shape) -> Tensor:
    like = next((p for p in model.parameters() if p.is_floating_point()), None)
    if like is None:
        return zeros(shape)
    return zeros(shape, dtype=like.dtype, device=like.device)


def _recorder(row: LayerSummary, found: dict[Module, LayerSummary]) -> Callable[..., None]:
    def record(module: Module, args: tuple[Any, ...], output: Any) -> None:
        found.setdefault(module, row)
        outputs = output if isinstance(output, (tuple, list)) else (output,)
        tensors = [y for y in outputs if isinstance(y, Tensor)]
        shared = {id(x._version) for x in args if isinstance(x, Tensor)}
        row.output_shape = tensors[0].shape if len(tensors) == 1 else None
        row.activation_bytes += sum(
            y.numel() * y.dtype.itemsize for y in tensors if id(y._version) not in shared
        )
        if tensors and args and isinstance(args[0], Tensor):
            count = next((_FLOPS[kind] for kind in type(module).__mro__ if kind in _FLOPS), None)
            row.flops += 0 if count is None else count(module, args[0], tensors[0])

    return record
