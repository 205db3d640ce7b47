"""nn.functional and the tensor's methods take PyTorch's arguments, in its order, by its names."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from needing_torch import where_installed

import gpucnn
from gpucnn import Tensor
from gpucnn.nn import functional as F

# Those that PyTorch writes in C++ have no signature to ask for: from its documentation.
DOCUMENTED: dict[str, dict[str, Any]] = {
    "conv2d": {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1},
    "avg_pool2d": {
        "stride": None, "padding": 0, "ceil_mode": False, "count_include_pad": True,
        "divisor_override": None,
    },
    "max_pool2d": {
        "stride": None, "padding": 0, "dilation": 1, "ceil_mode": False, "return_indices": False,
    },
    "linear": {"bias": None},
    "pad": {"mode": "constant", "value": None},
}  # fmt: skip
WRITTEN_IN_PYTHON = (
    "adaptive_avg_pool2d", "batch_norm", "cross_entropy", "dropout", "log_softmax", "mse_loss",
    "nll_loss", "relu", "softmax",
)  # fmt: skip
METHODS: dict[str, list[str]] = {
    "sum": ["dim", "keepdim", "dtype"],
    "mean": ["dim", "keepdim", "dtype"],
    "max": ["dim", "keepdim"],
    "argmax": ["dim", "keepdim"],
    "amax": ["dim", "keepdim"],
    "var": ["dim", "unbiased", "keepdim"],
    "softmax": ["dim", "dtype"],
    "clamp": ["min", "max"],
    "flatten": ["start_dim", "end_dim"],
    "transpose": ["dim0", "dim1"],
    "unsqueeze": ["dim"],
    "index_select": ["dim", "index"],
    "backward": ["gradient", "retain_graph", "create_graph"],
    "requires_grad_": ["requires_grad"],
    "cuda": ["device", "non_blocking"],
}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_documented_defaults(name: str) -> None:
    parameters = inspect.signature(getattr(F, name)).parameters
    optional = {
        key: p.default for key, p in parameters.items() if p.default is not inspect.Parameter.empty
    }
    assert optional == DOCUMENTED[name] and list(optional) == list(DOCUMENTED[name])


@pytest.mark.parametrize("name", where_installed(WRITTEN_IN_PYTHON))
def test_pytorchs_own_signatures(name: str) -> None:
    import torch

    ours = inspect.signature(getattr(F, name)).parameters
    theirs = inspect.signature(getattr(torch.nn.functional, name)).parameters
    # A later PyTorch may add arguments at the end.
    for parameter, expected in zip(ours.values(), theirs.values()):
        assert (parameter.name, parameter.default) == (expected.name, expected.default)


@pytest.mark.parametrize("name", METHODS)
def test_methods(name: str) -> None:
    parameters = list(inspect.signature(getattr(Tensor, name)).parameters)
    assert parameters[1:] == METHODS[name]


def test_declared_methods_are_bound() -> None:
    """What gpucnn.core.bound promises to type checkers is there."""
    from pathlib import Path

    import gpucnn.core.bound as bound

    text = Path(bound.__file__).read_text()
    names = [line.split("def ")[1].split("(")[0] for line in text.splitlines() if "  def " in line]
    assert len(names) > 60 and all(hasattr(Tensor, name) for name in names)
    assert all(getattr(Tensor, n) is not getattr(object, n, None) for n in names)


def test_every_public_name_is_there() -> None:
    assert all(getattr(gpucnn, name) is not None for name in gpucnn.__all__)
    assert set(gpucnn.__all__) <= set(dir(gpucnn))
