"""What a case is, and how it runs on a device."""

from __future__ import annotations

import zlib
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import gpucnn
from gpucnn.cases.operations import operation
from gpucnn.core import memory
from gpucnn.core.device import Device
from gpucnn.core.tensor import Tensor

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Input:
    """One argument of a case.

    Attributes:
        shape: its shape.
        kind: "normal"; "positive" (0.5 to 2.5); "distinct" (no two within 0.01 of each other, none
            near 0: no kink or tie within a finite difference); "ties" (small integers); "special"
            (normal with NaN, infinities and large values); "classes:N" (int64 below N, some -100);
            "bool"; "index:N" (int64, -N to N-1); "nonzero:N" (int64, -N to N without 0).
        layout: "C", "channels_last", "transposed" (last two axes), "sliced" (every second element
            of a larger array), "reversed" (negative strides), "expanded" (axis 0 repeated).
        grad: whether its gradient is part of the outcome, where its kind has one.
    """

    shape: tuple[int, ...]
    kind: str = "normal"
    layout: str = "C"
    grad: bool = True

    @property
    def is_float(self) -> bool:
        return self.kind in ("normal", "positive", "distinct", "ties", "special")

    @property
    def differentiable(self) -> bool:
        return self.grad and self.is_float

    def make(self, rng: np.random.Generator, dtype: Any) -> Array:
        """The array, of `dtype` if of floats, with its layout in memory."""
        values = self._values(rng)
        if self.is_float:
            values = values.astype(dtype)
        return _lay_out(values, self.layout)

    def _values(self, rng: np.random.Generator) -> Array:
        shape, count = self.shape, int(np.prod(self.shape))
        name, _, number = self.kind.partition(":")
        if name == "normal":
            return rng.standard_normal(shape)
        if name == "positive":
            return rng.uniform(0.5, 2.5, shape)
        if name == "distinct":
            steps = (rng.permutation(count) - count // 2 + 0.5) * 0.02
            return steps.reshape(shape)
        if name == "ties":
            return rng.integers(-2, 3, shape).astype(np.float64)
        if name == "special":
            values = rng.standard_normal(shape)
            flat = values.reshape(-1)
            flat[rng.integers(0, count, max(1, count // 9))] = np.nan
            flat[rng.integers(0, count, max(1, count // 9))] = np.inf
            flat[rng.integers(0, count, max(1, count // 9))] = -np.inf
            flat[rng.integers(0, count, max(1, count // 9))] = 1e30
            return values
        if name == "classes":
            classes = rng.integers(0, int(number), shape)
            return np.where(rng.random(shape) < 0.2, -100, classes) if count > 4 else classes
        if name == "index":
            return rng.integers(-int(number), int(number), shape)
        if name == "nonzero":
            return rng.integers(1, int(number) + 1, shape) * rng.choice((-1, 1), shape)
        if name == "bool":
            return rng.random(shape) < 0.5
        raise ValueError(f"Input: unknown kind {self.kind!r}")


def _lay_out(values: Array, layout: str) -> Array:
    """The same values behind other strides."""
    if layout == "C":
        return np.ascontiguousarray(values).reshape(values.shape)
    if layout == "channels_last":
        return np.ascontiguousarray(values.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    if layout == "transposed":
        return np.ascontiguousarray(values.swapaxes(-1, -2)).swapaxes(-1, -2)
    if layout == "reversed":
        return np.ascontiguousarray(values[..., ::-1])[..., ::-1]
    if layout == "expanded":
        return np.broadcast_to(np.ascontiguousarray(values[:1]), values.shape)
    if layout == "sliced":
        wide = np.zeros((*values.shape[:-1], 2 * values.shape[-1]), values.dtype)
        wide[..., ::2] = values
        return wide[..., ::2]
    raise ValueError(f"Input: unknown layout {layout!r}")


@dataclass(frozen=True)
class Case:
    """One row: an operation, its inputs, its attributes, and what the row is there to stress.

    Attributes:
        op: the operation's name (see `operation`).
        inputs: its tensor arguments.
        attributes: its other arguments, by name.
        note: what it stresses.
        tolerance: largest allowed error of float32, relative to the largest entry.
        smooth: whether finite differences can check its gradient.
        captured: whether it runs as a captured step, forward and backward joined where they can be.
        precision: of its products (see `gpucnn.precision`).
        algorithm: on a GPU, the convolution algorithm or instance that computes it; "" for the
            engine's choice.
    """

    op: str
    inputs: tuple[Input | None, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    tolerance: float = 2e-5
    smooth: bool = True
    captured: bool = False
    precision: str = "auto"
    algorithm: str = ""

    @property
    def name(self) -> str:
        """A name that is one of a kind: operation, shapes, attributes, layouts."""
        parts = [self.op]
        for value in self.inputs:
            if value is None:
                continue
            text = "x".join(map(str, value.shape)) or "scalar"
            if value.kind != "normal":
                text += f":{value.kind}"
            if value.layout != "C":
                text += f"@{value.layout}"
            parts.append(text)
        parts += [f"{key}={value}" for key, value in self.attributes.items()]
        parts += ["captured"] if self.captured else []
        parts += [name for name in (self.precision, self.algorithm) if name not in ("auto", "")]
        return " ".join(parts).replace(", ", ",")

    @property
    def rng(self) -> np.random.Generator:
        return np.random.default_rng(zlib.crc32(self.name.encode()))

    def arrays(self, dtype: Any) -> list[Array | None]:
        """The inputs as NumPy arrays, the same at every call."""
        rng = self.rng
        return [None if value is None else value.make(rng, dtype) for value in self.inputs]


@dataclass
class Outcome:
    """What a case gave: outputs, then gradients of the differentiable inputs, on the host."""

    outputs: list[Array]
    gradients: list[Array | None]
    tensors: list[Tensor]
    gradient_tensors: list[Tensor | None]


def to_device(array: Array, device: Device) -> Tensor:
    """A tensor with the array's values and, where it is a view, the array's kind of view."""
    base = gpucnn.tensor(array, device=device)
    strides = array.strides
    if array.size > 1 and array.ndim and 0 in strides and not array.flags.owndata:
        return gpucnn.tensor(array[:1].copy(), device=device).expand(*array.shape)
    if any(s < 0 for s in strides):
        turned = gpucnn.tensor(np.ascontiguousarray(array[..., ::-1]), device=device)
        return turned[..., ::-1]
    if array.size > 1 and array.ndim and strides[-1] == 2 * array.itemsize and array.ndim != 4:
        wide = gpucnn.zeros(*array.shape[:-1], 2 * array.shape[-1], dtype=array.dtype)
        wide = wide.to(device)
        wide[..., ::2] = base
        return wide[..., ::2]
    return base


def _captured(
    case: Case, tensors: list[Tensor | None], upstream: Tensor
) -> tuple[list[Tensor], list[Tensor | None]]:
    """Outputs and gradients from the second replay of a captured step, the graph's own memory."""
    wanted = [t is not None and t.requires_grad for t in tensors]

    def step(upstream: Tensor, *given: Tensor | None) -> Any:
        own = [
            t.detach().requires_grad_() if t is not None and grad else t
            for t, grad in zip(given, wanted)
        ]
        result = operation(case.op)(*own, **case.attributes)
        outputs = list(result) if isinstance(result, tuple) else [result]
        sources = [t for t, grad in zip(own, wanted) if t is not None and grad]
        return outputs, list(gpucnn.grad(outputs[0], sources, upstream, allow_unused=True))

    replayed = gpucnn.capture(step)
    arguments = [None if t is None else t.detach() for t in tensors]
    for _ in range(3):
        outputs, gradients = replayed(upstream, *arguments)
    if replayed.reason is not None:
        raise RuntimeError(f"{case.name}: {replayed.reason}")
    return replayed(upstream, *arguments)


def run(case: Case, device: str | Device = "cpu", dtype: Any = np.float32) -> Outcome:
    """Run a case forward and backward on a device, with a random upstream gradient.

    Args:
        dtype: of its float inputs.
    """
    where = Device(device)
    with ExitStack() as settings:
        settings.enter_context(gpucnn.precision(case.precision))
        if case.algorithm and where.type != "cpu" and np.dtype(dtype) == np.float32:
            from gpucnn.backends.gpu import select

            settings.enter_context(select.forced(case.algorithm))
        return _run(case, where, dtype)


def _run(case: Case, where: Device, dtype: Any) -> Outcome:
    gpucnn.manual_seed(7)
    tensors: list[Tensor | None] = []
    for array, spec in zip(case.arrays(dtype), case.inputs):
        tensor = None if array is None else to_device(array, where)
        if tensor is not None and spec is not None and spec.differentiable:
            tensor = tensor.detach().requires_grad_()
        tensors.append(tensor)
    result = operation(case.op)(*tensors, **case.attributes)
    outputs = list(result) if isinstance(result, tuple) else [result]
    roots = [y for y in outputs if y.requires_grad]
    gradients: list[Tensor | None] = []
    if roots:
        wanted = [t for t in tensors if t is not None and t.requires_grad]
        rng = np.random.default_rng(99)
        upstream = gpucnn.tensor(
            rng.standard_normal(roots[0].shape), dtype=roots[0].dtype, device=where
        )
        upstream = memory.copy(upstream, order=roots[0].order)
        gradients = list(gpucnn.grad(roots[0], wanted, upstream, allow_unused=True))
        if case.captured:
            outputs, gradients = _captured(case, tensors, upstream)
    return Outcome(
        [np.asarray(y) for y in outputs],
        [None if g is None else np.asarray(g) for g in gradients],
        outputs,
        gradients,
    )
