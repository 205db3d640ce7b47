"""The rows in PyTorch, eager and NCHW: the same inputs, initial values and number of threads."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from gpucnn.benchmarks import peaks
from gpucnn.benchmarks.case_row import CaseRow, upstream
from gpucnn.benchmarks.environment import Environment
from gpucnn.benchmarks.measure import Function
from gpucnn.benchmarks.optimizer_row import OPTIONS, OptimizerRow
from gpucnn.benchmarks.reference_net import layers
from gpucnn.benchmarks.row import Array, Call, Row
from gpucnn.benchmarks.train import LEARNING_RATE, MOMENTUM, NetRow
from gpucnn.core.device import CPU, Device
from gpucnn.models import Model

_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "Conv2d": ("in_channels", "out_channels", "kernel_size", "stride", "padding"),
    "Linear": ("in_features", "out_features"),
    "MaxPool2d": ("kernel_size", "stride", "padding"),
    "ReLU": (),
    "Flatten": (),
    "Dropout": ("p",),
}
"""The layers of the measured nets; gpucnn's arguments and attributes have PyTorch's names."""


class Opponent:
    """PyTorch on one device.

    Args:
        threads: of its operations on the cpu.

    Raises:
        RuntimeError: PyTorch is not installed, or does not see the GPU.
    """

    def __init__(self, device: Device, threads: int) -> None:
        try:
            self.torch: Any = importlib.import_module("torch")
        except ImportError as error:
            raise RuntimeError(
                f"--compare torch: PyTorch cannot be imported ({error}); pip install torch"
            ) from error
        torch = self.torch
        if device.type == "cuda" and not torch.cuda.is_available():
            raise RuntimeError(
                f"--compare torch: PyTorch {torch.__version__} sees no GPU; "
                "install one built for CUDA, or compare on --device cpu"
            )
        self.device = torch.device(str(device))
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(threads)

    def close(self) -> None:
        """Give PyTorch its number of threads back."""
        self.torch.set_num_threads(self._threads_before)

    def environment(self) -> Environment:
        """What to say of PyTorch beside the engine's environment."""
        torch = self.torch
        return {"torch": str(torch.__version__), "torch_threads": torch.get_num_threads()}

    def products(self) -> dict[str, Function]:
        """Its matrix product, which may be the machine's peak."""
        x = self.torch.full((peaks.GEMM_SIZE, peaks.GEMM_SIZE), 0.5, device=self.device)
        return {"PyTorch": lambda: self.torch.mm(x, x)}

    def call(self, row: Row) -> Call:
        """The row's call in PyTorch."""
        return _call(row, self)

    def tensor(self, array: Array) -> Any:
        """A contiguous copy on the device."""
        dense = np.ascontiguousarray(array).reshape(array.shape)  # a scalar stays one
        return self.torch.tensor(dense, device=self.device)

    def comparable(self, row: Row) -> bool:
        """Whether its result can be checked: random numbers of dropout are other than ours."""
        if not (isinstance(row, NetRow) and row.training):
            return True
        return all(type(layer).__name__ != "Dropout" for layer in layers(row.model(CPU)))


def _arrays(tensors: Any) -> list[Array]:
    return [tensor.detach().cpu().numpy() for tensor in tensors]


@functools.singledispatch
def _call(row: Row, opponent: Opponent) -> Call:
    raise TypeError(f"--compare torch: no counterpart of {type(row).__name__}")


@_call.register
def _case(row: CaseRow, opponent: Opponent) -> Call:
    torch = opponent.torch
    tensors = [None if a is None else opponent.tensor(a) for a in row.arrays()]
    home = torch.nn.functional if hasattr(torch.nn.functional, row.case.op) else torch
    function, attributes = getattr(home, row.case.op), row.case.attributes
    if not row.wanted:

        def forward() -> Any:
            with torch.no_grad():
                return function(*tensors, **attributes)

        return Call(forward, lambda y: _arrays([y]))
    sources: list[Any] = [tensors[number] for number in row.wanted]
    for source in sources:
        source.requires_grad_()
    y = function(*tensors, **attributes)
    dy = opponent.tensor(upstream(tuple(y.shape)))
    return Call(lambda: torch.autograd.grad(y, sources, dy, retain_graph=True), _arrays)


@_call.register
def _optimizer(row: OptimizerRow, opponent: Opponent) -> Call:
    values, gradients = row.arrays()
    parameters = [opponent.tensor(value).requires_grad_() for value in values]
    for parameter, gradient in zip(parameters, gradients):
        parameter.grad = opponent.tensor(gradient)
    kind: Callable[..., Any] = getattr(opponent.torch.optim, row.optimizer)
    optimizer = kind(parameters, **OPTIONS[row.optimizer])
    optimizer.step()
    return Call(optimizer.step, lambda _: _arrays(parameters))


@_call.register
def _net(row: NetRow, opponent: Opponent) -> Call:
    torch = opponent.torch
    model = _convert(row.model(CPU), opponent).train(row.training)
    images, classes = row.batch()
    x, target = opponent.tensor(images), opponent.tensor(classes)
    if not row.training:

        def infer() -> Any:
            with torch.no_grad():
                return model(x)

        return Call(infer, lambda y: _arrays([y]))
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=LEARNING_RATE, momentum=MOMENTUM)

    def step() -> Any:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()
        return loss

    return Call(step, lambda loss: _arrays([loss, *(p.grad for p in parameters)]))


def _convert(model: Model, opponent: Opponent) -> Any:
    """A torch.nn.Sequential of the same layers with the same numbers."""
    nn = opponent.torch.nn
    converted = []
    for layer in layers(model):
        kind = type(layer).__name__
        arguments = {name: getattr(layer, name) for name in _ARGUMENTS[kind]}
        converted.append(getattr(nn, kind)(**arguments))
    result = nn.Sequential(*converted).to(opponent.device)
    with opponent.torch.no_grad():
        for target, source in zip(result.parameters(), model.parameters(), strict=True):
            target.copy_(opponent.tensor(np.asarray(source)))
    return result
