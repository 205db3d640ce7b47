"""Initial values, with the names and formulas of torch.nn.init.

The numbers are drawn on the host in float64, in the logical order of the elements, from the
engine's seed: the same on every device, in every memory order, and in float32 and float64 alike.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpucnn.core.autograd import no_grad
from gpucnn.core.tensor import Tensor
from gpucnn.nn import building
from gpucnn.ops.creation import from_numpy
from gpucnn.random import host_generator

Generator = np.random.Generator | None


def _write(tensor: Tensor, values: np.ndarray[Any, Any]) -> Tensor:
    with no_grad():
        return tensor.copy_(from_numpy(values.astype(tensor.dtype)).to(tensor.device))


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Generator = None) -> Tensor:
    """Fill with numbers uniform in [a, b)."""
    if building.is_building():
        return tensor
    return _write(tensor, (generator or host_generator()).uniform(a, b, tensor.shape))


def normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator = None
) -> Tensor:
    """Fill with normal numbers of this mean and standard deviation."""
    if building.is_building():
        return tensor
    return _write(tensor, (generator or host_generator()).normal(mean, std, tensor.shape))


def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Generator = None,
) -> Tensor:
    """Fill with normal numbers, those outside [a, b] drawn again.

    Raises:
        ValueError: less than one in a hundred numbers would fall into [a, b].
    """
    low, high = (math.erf((limit - mean) / (std * math.sqrt(2))) for limit in (a, b))
    if high - low < 0.02:  # erf counts both tails: twice the probability
        raise ValueError(
            f"trunc_normal_: [{a}, {b}] must hold at least 1 % of the normal distribution of "
            f"mean {mean} and standard deviation {std}; use uniform_"
        )
    if building.is_building():
        return tensor
    random = generator or host_generator()
    values = random.normal(mean, std, tensor.shape)
    while (outside := (values < a) | (values > b)).any():
        values[outside] = random.normal(mean, std, int(outside.sum()))
    return _write(tensor, values)


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Fill with one value."""
    if building.is_building():
        return tensor
    with no_grad():
        return tensor.fill_(val)


def ones_(tensor: Tensor) -> Tensor:
    """Fill with 1."""
    return constant_(tensor, 1.0)


def zeros_(tensor: Tensor) -> Tensor:
    """Fill with 0."""
    return constant_(tensor, 0.0)


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor by which a nonlinearity's weights are scaled up.

    Raises:
        ValueError: an unknown nonlinearity, or a slope that is not a number.
    """
    linear = ("linear", "conv1d", "conv2d", "conv3d", "sigmoid")
    gains = {"tanh": 5.0 / 3, "relu": math.sqrt(2.0), "selu": 3.0 / 4, **dict.fromkeys(linear, 1.0)}
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        if isinstance(slope, bool) or not isinstance(slope, (int, float)):
            raise ValueError(f"calculate_gain: negative_slope {param} not a valid number")
        return math.sqrt(2.0 / (1 + slope**2))
    if nonlinearity not in gains:
        raise ValueError(f"calculate_gain: unsupported nonlinearity {nonlinearity!r}")
    return gains[nonlinearity]


def _fans(tensor: Tensor) -> tuple[int, int]:
    """(inputs of one output, outputs of one input) of a weight (out, in, *window)."""
    if tensor.ndim < 2:
        raise ValueError(
            "init: fan in and fan out can not be computed for tensor with fewer than 2 dimensions, "
            f"got shape {tensor.shape}"
        )
    window = math.prod(tensor.shape[2:])
    return tensor.shape[1] * window, tensor.shape[0] * window


def _fan(tensor: Tensor, mode: str) -> int:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"init: mode must be 'fan_in' or 'fan_out', got {mode!r}")
    return _fans(tensor)[mode == "fan_out"]


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator = None,
) -> Tensor:
    """Uniform in +-gain * sqrt(3 / fan) (He et al., "Delving deep into rectifiers", ICCV 2015)."""
    if tensor.numel() == 0:
        return tensor
    bound = calculate_gain(nonlinearity, a) * math.sqrt(3.0 / _fan(tensor, mode))
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator = None,
) -> Tensor:
    """Normal with standard deviation gain / sqrt(fan) (He et al., ICCV 2015)."""
    if tensor.numel() == 0:
        return tensor
    std = calculate_gain(nonlinearity, a) / math.sqrt(_fan(tensor, mode))
    return normal_(tensor, 0.0, std, generator)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Generator = None) -> Tensor:
    """Uniform in +-gain * sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio, AISTATS 2010)."""
    if tensor.numel() == 0:
        return tensor
    bound = gain * math.sqrt(6.0 / sum(_fans(tensor)))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Generator = None) -> Tensor:
    """Normal with standard deviation gain * sqrt(2 / (fan_in + fan_out)) (Glorot and Bengio)."""
    if tensor.numel() == 0:
        return tensor
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / sum(_fans(tensor))), generator)


def fan_in_uniform_(tensor: Tensor, weight: Tensor) -> Tensor:
    """Uniform in +-1 / sqrt(fan_in of `weight`): PyTorch's default for a layer's bias."""
    fan_in = _fans(weight)[0]
    if fan_in == 0:
        return tensor
    bound = 1.0 / math.sqrt(fan_in)
    return uniform_(tensor, -bound, bound)
