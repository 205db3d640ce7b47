"""The nets in PyTorch, and the modes in which PyTorch runs them.

eager          NCHW memory
channels_last  NHWC memory, eager
compile        `torch.compile` of the net, NCHW memory; the optimizer is eager
graph          the whole eager step captured as one CUDA graph, NCHW memory
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucnn import nn
from gpucnn.benchmarks.net_row import LEARNING_RATE, MOMENTUM, NetRow
from gpucnn.benchmarks.row import Array, Call, Variant
from gpucnn.core.device import CPU

if TYPE_CHECKING:
    from gpucnn.benchmarks.compare_torch import Opponent

_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "Conv2d": ("in_channels", "out_channels", "kernel_size", "stride", "padding"),
    "Linear": ("in_features", "out_features"),
    "BatchNorm2d": ("num_features", "eps", "momentum"),
    "MaxPool2d": ("kernel_size", "stride", "padding"),
    "AdaptiveAvgPool2d": ("output_size",),
    "ReLU": (),
    "Flatten": (),
    "Identity": (),
    "Dropout": ("p",),
}
"""The layers of the measured nets; gpucnn's arguments and attributes have PyTorch's names."""

_WARM_UP = 3
"""Steps before a CUDA graph is captured, as PyTorch's documentation has it."""


def channels_last(torch: Any, tensor: Any) -> Any:
    """The same tensor with NHWC memory, if it has four axes."""
    if tensor is None or tensor.dim() != 4:
        return tensor
    return tensor.contiguous(memory_format=torch.channels_last)


def convert(model: nn.Module, opponent: Opponent) -> Any:
    """A torch.nn.Module of the same layers with the same numbers, on the opponent's device."""
    result = _converted(model, opponent.torch.nn).to(opponent.device)
    with opponent.torch.no_grad():
        for target, source in zip(result.parameters(), model.parameters(), strict=True):
            target.copy_(opponent.tensor(np.asarray(source)))
    return result.train(model.training)


def _converted(module: Any, torch_nn: Any) -> Any:
    kind = type(module).__name__
    if kind in _ARGUMENTS:
        arguments = {name: getattr(module, name) for name in _ARGUMENTS[kind]}
        if kind in ("Conv2d", "Linear"):
            arguments["bias"] = module.bias is not None
        return getattr(torch_nn, kind)(**arguments)
    children = OrderedDict(
        (name, _converted(child, torch_nn))
        for name, child in module._modules.items()
        if child is not None
    )
    if kind == "Sequential":
        return torch_nn.Sequential(children)
    return _counterpart(module, children, torch_nn)


def _counterpart(module: Any, children: OrderedDict[str, Any], torch_nn: Any) -> Any:
    """A module with these children, called as ours is: its `forward` knows no library."""
    forward = type(module).forward

    class Counterpart(torch_nn.Module):  # type: ignore[misc]
        def forward(self, input: Any) -> Any:
            return forward(self, input)

    result = Counterpart()
    for name, value in vars(module).items():
        if value is None and not name.startswith("_"):  # a shortcut that is not there
            setattr(result, name, None)
    for name, child in children.items():
        setattr(result, name, child)
    return result


def call(row: NetRow, opponent: Opponent, variant: Variant) -> Call:
    """A training step or an inference of the row's net."""
    torch = opponent.torch
    model = convert(row.model(CPU), opponent)
    images, classes = row.batch()
    x, target = opponent.tensor(images), opponent.tensor(classes)
    if variant.mode == "channels_last":
        model = model.to(memory_format=torch.channels_last)
        x = channels_last(torch, x)
    parameters = list(model.parameters())
    forward = model
    if variant.mode == "compile":
        torch._dynamo.reset()  # what was compiled before is not to count towards its limits
        forward = torch.compile(model, dynamic=False)

    @contextmanager
    def setting() -> Iterator[None]:
        with opponent.setting(variant.precision), _threads(torch, row.threads), ExitStack() as more:
            if not row.training:
                more.enter_context(torch.no_grad())
            yield

    loss = torch.nn.functional.cross_entropy

    def inference() -> Any:
        with opponent.autocast(variant.precision):
            return forward(x)

    def training() -> Any:
        with opponent.autocast(variant.precision):
            return loss(forward(x), target)

    step, restore = inference, _nothing
    if row.training:
        step, restore = _training_step(torch, model, training)
    if variant.mode == "graph":
        with setting():
            step = _captured(torch, step, restore)

    def results(y: Any) -> list[Array]:
        gradients = [p.grad for p in parameters] if row.training else []
        return [t.detach().float().cpu().numpy() for t in (y, *gradients)]

    return Call(step, results, setting)


def _training_step(
    torch: Any, model: Any, forward: Callable[[], Any]
) -> tuple[Callable[[], Any], Callable[[], None]]:
    """A step that begins with `forward`, the loss; and what takes parameters, buffers and momentum
    back to before the first one."""
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=LEARNING_RATE, momentum=MOMENTUM)
    state = [*parameters, *model.buffers()]
    before = [tensor.detach().clone() for tensor in state]

    def step() -> Any:
        optimizer.zero_grad()
        loss = forward()
        loss.backward()
        optimizer.step()
        return loss

    def restore() -> None:
        with torch.no_grad():
            for tensor, value in zip(state, before):
                tensor.copy_(value)
            for parameter in parameters:
                optimizer.state[parameter]["momentum_buffer"].zero_()
        optimizer.zero_grad()

    return step, restore


def _captured(torch: Any, step: Callable[[], Any], restore: Callable[[], None]) -> Any:
    """The step as one CUDA graph; its result is overwritten by the next replay."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            step()
        restore()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step()

    def replay() -> Any:
        graph.replay()
        return result

    return replay


def _nothing() -> None:
    pass


@contextmanager
def _threads(torch: Any, count: int) -> Iterator[None]:
    """Within it PyTorch has that many threads, if it is a number."""
    if not count:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
