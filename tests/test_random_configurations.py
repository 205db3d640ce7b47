"""Random configurations of the operations against PyTorch in float64: values and all gradients.

GPUCNN_RANDOM_CONFIGURATIONS=3000 runs more of them than the suite does.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np
import pytest
from configurations import Configuration, configuration, is_of_images

import gpucnn
from gpucnn.backends.cpu import (
    algorithms,
    batch_last,
    depthwise,
    few_pixels,
    patch_products,
    patches,
    windows,
    winograd_plan,
    winograd_weight,
)
from gpucnn.backends.gpu import nvrtc
from gpucnn.cases.compare import compare

torch = pytest.importorskip("torch")

COUNT = int(os.environ.get("GPUCNN_RANDOM_CONFIGURATIONS", "168"))
REFUSALS = (ValueError, TypeError, IndexError, RuntimeError, NotImplementedError)

Array = np.ndarray[Any, Any]


def _outcome(case: Configuration, library: Any, tensors: list[Any], gradient_of: Any) -> Any:
    """(outputs, gradients) as NumPy arrays, or the exception."""
    try:
        result = case.call(library, library.nn.functional, *tensors)
    except REFUSALS as error:
        return error
    outputs = list(result) if isinstance(result, tuple) else [result]
    wanted = [t for t in tensors if t is not None and t.requires_grad]
    gradients: list[Array | None] = []
    if outputs[0].requires_grad:
        upstream = np.random.default_rng(5).standard_normal(tuple(outputs[0].shape))
        gradients = [
            None if g is None else g.detach().numpy()
            for g in gradient_of(outputs[0], wanted, np.asarray(upstream), allow_unused=True)
        ]
    return [y.detach().cpu().numpy() for y in outputs], gradients


def _by_torch(case: Configuration, dtype: Any = np.float64) -> Any:
    tensors = []
    for number, array in enumerate(case.inputs):
        tensor = None if array is None else torch.tensor(np.array(array, order="C"))
        if tensor is not None:
            if case.is_float(number):
                tensor = tensor.to(getattr(torch, np.dtype(dtype).name))
            tensor.requires_grad_(case.wants_gradient(number))
        tensors.append(tensor)

    def gradient_of(y: Any, wanted: Any, upstream: Array, **options: Any) -> Any:
        return torch.autograd.grad(y, wanted, torch.from_numpy(upstream).to(y.dtype), **options)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # notes on speed
        return _outcome(case, torch, tensors, gradient_of)


def _by_gpucnn(case: Configuration, device: str, dtype: Any) -> Any:
    tensors = []
    for number, array in enumerate(case.inputs):
        tensor = None
        if array is not None:
            values = array
            if case.is_float(number) and dtype is not np.float64:
                values = array.astype(dtype, order="K")
            tensor = gpucnn.from_numpy(values).to(device).detach()
            tensor.requires_grad_(case.wants_gradient(number))
        tensors.append(tensor)

    def gradient_of(y: Any, wanted: Any, upstream: Array, **options: Any) -> Any:
        given = gpucnn.tensor(upstream, dtype=y.dtype, device=device)
        found = gpucnn.grad(y, wanted, given, **options)
        return [None if g is None else g.cpu() for g in found]

    return _outcome(case, gpucnn, tensors, gradient_of)


def _errors(ours: Any, theirs: Any, what: str) -> list[float]:
    """The error of each output and gradient; shapes, integers, NaN and infinities must agree."""
    assert len(ours[0]) == len(theirs[0])
    errors = [compare(y, expected, what) for y, expected in zip(ours[0], theirs[0])]
    assert len(ours[1]) == len(theirs[1]), f"{what}: gradients"
    for g, expected in zip(ours[1], theirs[1]):
        if expected is None or g is None:  # PyTorch has zeros for some that no output depends on
            assert expected is g or not np.any(expected if g is None else g), what
        else:
            errors.append(compare(g, expected, what))
    return errors


def _check(case: Configuration, device: str) -> None:
    shapes = [None if a is None else a.shape for a in case.inputs]
    what = f"{case.name} {shapes} {case.text}"
    theirs = _by_torch(case)
    if device != "cpu" and "Target" in str(theirs) and isinstance(theirs, IndexError):
        return  # a GPU does not wait to look at class numbers: it gives NaN
    for dtype, tolerance in ((np.float64, 1e-10), (np.float32, 2e-5)):
        ours = _by_gpucnn(case, device, dtype)
        refused = [isinstance(outcome, Exception) for outcome in (ours, theirs)]
        if any(refused):
            said = [repr(o) if isinstance(o, Exception) else "computes" for o in (ours, theirs)]
            assert all(refused), f"{what}: gpucnn {said[0]}, PyTorch {said[1]}"
            continue
        errors = _errors(ours, theirs, f"{what} {dtype.__name__}")
        if max(errors) > tolerance and dtype is np.float32:
            # Where even float32 PyTorch is further off, the numbers do not hold more.
            other = _errors(_by_torch(case, np.float32), theirs, what)
            tolerance = max(tolerance, 2 * max(other))
        assert max(errors) <= tolerance, f"{what} {dtype.__name__}: errors {errors}"


@pytest.mark.parametrize("seed", range(COUNT))
def test_against_pytorch(seed: int, device: str) -> None:
    """float64 within 1e-10 of the largest entry, float32 within 2e-5; refused alike."""
    _check(configuration(seed), device)


@pytest.mark.parametrize("seed", [s for s in range(COUNT) if is_of_images(s)])
def test_in_small_blocks(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What large images do: many blocks, some of them all padding, and many partial sums."""
    size = (1, 30, 100)[seed % 3]
    monkeypatch.setattr(patches, "BLOCK", size)
    for module in (depthwise, windows, winograd_plan):
        monkeypatch.setattr(module, "_BLOCK", size)
    monkeypatch.setattr(batch_last, "_PIECE", size)
    monkeypatch.setattr(few_pixels, "SHARED", size)
    monkeypatch.setattr(winograd_plan, "_LEAST", 1)
    monkeypatch.setattr(winograd_weight, "_CHUNK", 30)
    monkeypatch.setattr(winograd_weight, "_SHORTEST", 2)
    monkeypatch.setattr(winograd_weight, "_TILES", 3)
    monkeypatch.setattr(winograd_weight, "_LEAST", 1)
    monkeypatch.setattr(patch_products, "_PARTIALS", 50)
    convolution = ("winograd4", "patches", "winograd2", "scatter")[seed % 4]
    with algorithms.forced(convolution):
        _check(configuration(seed), "cpu")


@pytest.mark.parametrize("seed", range(COUNT // 2) if nvrtc.compilers() else [])
def test_kernels_against_pytorch(seed: int) -> None:
    """The same of the CUDA kernels, on the emulated device with all its checks."""
    _check(configuration(COUNT + seed), "emulated")
