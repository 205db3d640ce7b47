"""Every row of the table of cases, on every device: values, gradients, memory order, bits."""

from __future__ import annotations

import numpy as np
import pytest
from needing_torch import where_installed

import gpucnn
from gpucnn.cases import CASES, Case, run
from gpucnn.cases.case import to_device
from gpucnn.cases.compare import assert_close
from gpucnn.cases.operations import operation
from gpucnn.core.device import Device
from gpucnn.core.dispatch import CHANNELS_LAST


def by_name(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


# PyTorch draws other random numbers: test_determinism.py holds dropout to NumPy's.
_SAME_IN_PYTORCH = [case for case in CASES if not case.op.startswith("dropout")]
_DIFFERENTIABLE = [
    case
    for case in CASES
    if case.smooth
    and case.op not in ("in_place", "setitem")
    and any(value is not None and value.differentiable for value in case.inputs)
]


def test_names_are_unique() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)


@by_name(where_installed(_SAME_IN_PYTORCH))
def test_against_pytorch(case: Case, device: str) -> None:
    """float64 within 1e-10 of the largest entry, float32 within the row's tolerance."""
    import torch_reference

    outputs, gradients = torch_reference.run(case)
    for dtype, tolerance in ((np.float64, 1e-10), (np.float32, case.tolerance)):
        ours = run(case, device, dtype)
        assert len(ours.outputs) == len(outputs)
        for number, (y, expected) in enumerate(zip(ours.outputs, outputs)):
            assert_close(y, expected, tolerance, f"output {number}")
        assert len(ours.gradients) == len(gradients)
        for number, (g, expected_g) in enumerate(zip(ours.gradients, gradients)):
            assert (g is None) == (expected_g is None), f"gradient {number}"
            if g is not None and expected_g is not None:
                assert_close(g, expected_g, tolerance, f"gradient {number}")


@by_name(CASES)
def test_device_against_cpu(case: Case, device: str) -> None:
    """float32 on any device agrees with the cpu's float64."""
    expected, ours = run(case, "cpu", np.float64), run(case, device, np.float32)
    for number, (y, e) in enumerate(zip(ours.outputs, expected.outputs)):
        assert_close(y, e, case.tolerance, f"output {number}")
    for number, (g, h) in enumerate(zip(ours.gradients, expected.gradients)):
        assert (g is None) == (h is None)
        if g is not None and h is not None:
            assert_close(g, h, case.tolerance, f"gradient {number}")


@by_name(CASES)
def test_same_bits_twice(case: Case, device: str) -> None:
    first, second = run(case, device), run(case, device)
    for a, b in zip(first.outputs + first.gradients, second.outputs + second.gradients):
        if a is not None and b is not None:
            assert a.tobytes() == b.tobytes()


@by_name(_DIFFERENTIABLE)
def test_gradient_against_finite_differences(case: Case) -> None:
    arguments = []
    for array, spec in zip(case.arrays(np.float64), case.inputs):
        tensor = None if array is None else to_device(array, Device("cpu"))
        if tensor is not None and spec is not None and spec.differentiable:
            tensor = tensor.detach().requires_grad_()
        arguments.append(tensor)
    function = operation(case.op)

    def call(*xs: object) -> object:
        gpucnn.manual_seed(7)
        return function(*xs, **case.attributes)

    assert gpucnn.gradcheck(call, arguments)


_KEEPS_ORDER = {
    "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "relu", "sigmoid", "softmax", "dropout",
    "batch_norm_train", "cat", "conv2d",
}  # fmt: skip


@by_name(
    [
        c for c in CASES
        if c.op in _KEEPS_ORDER and c.inputs[0] and c.inputs[0].layout == "channels_last"
    ]
)  # fmt: skip
def test_channels_last_is_kept(case: Case, device: str) -> None:
    """Channels-last memory in: channels-last outputs and gradients out."""
    outcome = run(case, device)
    assert outcome.tensors[0].order == CHANNELS_LAST
    gradient = outcome.gradient_tensors[0]
    assert gradient is not None and gradient.order == CHANNELS_LAST


@by_name([case for case in CASES if "pool" in case.op])
def test_the_same_without_a_gradient(case: Case, device: str) -> None:
    """What is not kept for a backward pass changes no value."""
    outputs = run(case, device).outputs
    with gpucnn.no_grad():
        alone = run(case, device).outputs
    assert [y.tobytes() for y in alone] == [y.tobytes() for y in outputs]
