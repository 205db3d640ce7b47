"""How a tensor prints."""

from __future__ import annotations

import numpy as np

from gpucnn.core.tensor import Tensor

_DEFAULT = {"f": np.dtype(np.float32), "i": np.dtype(np.int64), "b": np.dtype(np.bool_)}


def format_tensor(tensor: Tensor) -> str:
    """`tensor([[1., 2.]], device='cuda:0', requires_grad=True)`; large ones are abbreviated."""
    values = np.array2string(
        np.asarray(tensor), separator=", ", prefix="tensor(", threshold=1000, precision=4
    )
    parts = [values]
    if tensor.numel() == 0:
        parts.append(f"shape={tensor.shape}")
    if tensor.dtype != _DEFAULT.get(tensor.dtype.kind):
        parts.append(f"dtype={tensor.dtype}")
    if tensor.device.type != "cpu":
        parts.append(f"device='{tensor.device}'")
    if tensor.grad_fn is not None:
        parts.append(f"grad_fn={tensor.grad_fn}")
    elif tensor.requires_grad:
        parts.append("requires_grad=True")
    return f"tensor({', '.join(parts)})"
