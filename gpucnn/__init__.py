"""gpucnn: a convolutional neural network engine of raw CUDA kernels, with a NumPy CPU path.

Names and meanings are PyTorch's: `gpucnn.nn`, `gpucnn.nn.functional`, `gpucnn.optim`, tensors with
`backward()`. See the README for a training loop in 15 lines.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gpucnn.core.autograd import Function, enable_grad, is_grad_enabled, no_grad
from gpucnn.core.backward import grad
from gpucnn.core.device import Device as device
from gpucnn.core.device import default_device, set_default_device
from gpucnn.core.gradcheck import gradcheck
from gpucnn.core.memory import bool_, float32, float64, int32, int64, uint8
from gpucnn.core.precision import current_precision, get_precision, precision, set_precision
from gpucnn.core.tensor import Tensor
from gpucnn.ops import methods as _methods
from gpucnn.ops.activation import absolute as abs
from gpucnn.ops.activation import exp, log, relu, sigmoid, sqrt, tanh
from gpucnn.ops.creation import (
    arange,
    as_tensor,
    empty,
    from_dlpack,
    from_numpy,
    full,
    ones,
    ones_like,
    rand,
    randint,
    randn,
    tensor,
    zeros,
    zeros_like,
)
from gpucnn.ops.elementwise import clamp, maximum, minimum
from gpucnn.ops.elementwise import select as where
from gpucnn.ops.linear import product as matmul
from gpucnn.ops.reduction import argmax, argmin, max, mean, min, sum, var
from gpucnn.ops.softmax import log_softmax_of as log_softmax
from gpucnn.ops.softmax import softmax_of as softmax
from gpucnn.ops.view import cat, flatten, permute, reshape, stack, transpose
from gpucnn.random import initial_seed, manual_seed
from gpucnn.version import __version__

_methods.bind()
bool = bool_


if TYPE_CHECKING:
    from gpucnn import (
        benchmarks,
        cuda,
        data,
        models,
        nn,
        optim,
        random,
        serialization,
        training,
    )
    from gpucnn.backends.cpu.threads import get_num_threads, set_num_threads
    from gpucnn.backends.gpu.autotune import autotune
    from gpucnn.kernel import Kernel
    from gpucnn.nn.summary import summary
    from gpucnn.optim import GradScaler
    from gpucnn.recorded import capture
    from gpucnn.serialization import load, save

_LAZY_MODULES = {
    "benchmarks", "cli", "cuda", "data", "models", "nn", "optim", "random", "serialization",
    "training",
}  # fmt: skip
_LAZY_NAMES = {
    "GradScaler": "gpucnn.optim",
    "Kernel": "gpucnn.kernel",
    "autotune": "gpucnn.backends.gpu.autotune",
    "capture": "gpucnn.recorded",
    "get_num_threads": "gpucnn.backends.cpu.threads",
    "set_num_threads": "gpucnn.backends.cpu.threads",
    "summary": "gpucnn.nn.summary",
    "load": "gpucnn.serialization",
    "save": "gpucnn.serialization",
}


def __getattr__(name: str) -> Any:
    """Packages beside the core are imported when first named: `import gpucnn` stays cheap."""
    if name in _LAZY_MODULES:
        return importlib.import_module(f"gpucnn.{name}")
    if name in _LAZY_NAMES:
        return getattr(importlib.import_module(_LAZY_NAMES[name]), name)
    raise AttributeError(f"module 'gpucnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | _LAZY_MODULES | set(_LAZY_NAMES))


__all__ = [
    "Function",
    "GradScaler",
    "Kernel",
    "Tensor",
    "__version__",
    "abs",
    "arange",
    "argmax",
    "argmin",
    "as_tensor",
    "autotune",
    "benchmarks",
    "bool",
    "capture",
    "cat",
    "clamp",
    "cuda",
    "current_precision",
    "data",
    "default_device",
    "device",
    "empty",
    "enable_grad",
    "exp",
    "flatten",
    "float32",
    "float64",
    "from_dlpack",
    "from_numpy",
    "full",
    "get_num_threads",
    "get_precision",
    "grad",
    "gradcheck",
    "initial_seed",
    "int32",
    "int64",
    "is_grad_enabled",
    "load",
    "log",
    "log_softmax",
    "manual_seed",
    "matmul",
    "max",
    "maximum",
    "mean",
    "min",
    "minimum",
    "models",
    "nn",
    "no_grad",
    "ones",
    "ones_like",
    "optim",
    "permute",
    "precision",
    "rand",
    "randint",
    "randn",
    "random",
    "relu",
    "reshape",
    "save",
    "serialization",
    "set_default_device",
    "set_num_threads",
    "set_precision",
    "sigmoid",
    "softmax",
    "sqrt",
    "stack",
    "sum",
    "summary",
    "tanh",
    "tensor",
    "training",
    "transpose",
    "uint8",
    "var",
    "where",
    "zeros",
    "zeros_like",
]  # fmt: skip
