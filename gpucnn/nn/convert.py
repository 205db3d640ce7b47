"""Moving a module's tensors to another device or dtype, in place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpucnn.core.device import Device
from gpucnn.core.memory import as_dtype
from gpucnn.core.tensor import Tensor

if TYPE_CHECKING:
    from gpucnn.nn.module import Module

DType = np.dtype[Any]


def parse_to(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Device | None, DType | None]:
    """The device and dtype that the arguments of `Module.to` name."""
    unknown = set(kwargs) - {"device", "dtype", "non_blocking"}
    if unknown or len(args) > 2:
        what = ", ".join(sorted(unknown)) or f"{len(args)} positional arguments"
        raise TypeError(f"to: expected device and dtype, got {what}")
    device, dtype = kwargs.get("device"), kwargs.get("dtype")
    for target in args:
        if isinstance(target, Tensor):
            device, dtype = target.device, target.dtype
        elif isinstance(target, (str, Device)):
            device = target
        elif target is not None:
            dtype = target
    if dtype is not None:
        dtype = as_dtype("to", dtype)
        if dtype.kind != "f":
            raise TypeError(f"to: a module takes only floating point dtypes, got {dtype}")
    return (None if device is None else Device(device)), dtype


def move_module(module: Module, device: Device | None, dtype: DType | None) -> None:
    """Move every parameter, its gradient and every buffer; the objects stay the same.

    Buffers that a layer keeps on the host (`_host_buffers`) stay there.
    """
    for parameter in module.parameters():
        if move_tensor(parameter, device, dtype):
            # The optimizer's gradient storage has stayed behind; it follows at its next step.
            parameter._grad_slot = None
        if parameter.grad is not None:
            gradient = parameter.grad.detach()
            move_tensor(gradient, device, dtype)
            parameter.grad = gradient
    for below in module.modules():
        for name, buffer in below._buffers.items():
            if buffer is not None and name not in below._host_buffers:
                move_tensor(buffer, device, dtype)


def move_tensor(tensor: Tensor, device: Device | None, dtype: DType | None) -> bool:
    """Move one tensor in place; whether there was anything to do. Its views keep the old memory."""
    device = device or tensor.device
    if dtype is None or not tensor.is_floating_point():
        dtype = tensor.dtype
    if device is tensor.device and dtype == tensor.dtype:
        return False
    source = tensor.detach().to(dtype).to(device)
    tensor.data, tensor.device = source.data, source.device
    # A counter of its own, past the old number, so that nothing cached for the old values is taken.
    tensor._version = [tensor._version[0] + 1]
    return True
