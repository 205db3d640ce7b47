"""The captured step: the same results as eager, and when it is recorded anew or not at all."""

from __future__ import annotations

import warnings
import weakref
from typing import Any

import numpy as np
import pytest
from steps import Run, plain_net, residual_net

import gpucnn
from gpucnn import nn, optim
from gpucnn.nn import functional as F

NETS = {"plain": plain_net, "residual": residual_net}


@pytest.mark.parametrize("fuse", [False, "exact", True])
@pytest.mark.parametrize("optimizer", ["sgd", "dampened", "adam", "adamw"])
@pytest.mark.parametrize("net", NETS)
def test_twenty_captured_steps_have_the_bits_of_eager_ones(
    net: str, optimizer: str, fuse: Any
) -> None:
    """With a learning-rate schedule, dropout, batch norm; on the cpu every fused form is exact."""
    eager = Run(NETS[net], optimizer=optimizer)
    captured = Run(NETS[net], optimizer=optimizer, capture={"fuse": fuse})
    assert captured.go(20) == eager.go(20)
    assert captured.step.reason is None and captured.step.nodes()
    assert captured.state() == eager.state()
    assert gpucnn.random.get_state()[1] == (20 if net == "plain" else 0)


def test_one_primitive_a_group_of_layers() -> None:
    run = Run(plain_net, capture={})
    run.go(2)
    names = [node.name for node in run.step.nodes()]
    assert names == [
        "conv2d_max_pool", "conv2d_max_pool", "dropout", "matmul", "matmul",
        "cross_entropy_with_gradient",
        "linear_backward_weight", "matmul", "linear_backward_weight", "matmul", "dropout",
        "max_pool2d_backward", "conv2d_backward_weight", "conv2d_backward_input",
        "conv2d_max_pool_backward_weight", "sgd_update",
    ]  # fmt: skip


def test_a_residual_net_adds_and_masks_inside_other_primitives() -> None:
    run = Run(residual_net, capture={})
    run.go(2)
    names = [node.name for node in run.step.nodes()]
    assert names.count("conv2d_statistics") == names.count("batch_norm") == 6
    assert {"unary", "binary", "copy", "full", "conv2d", "batch_norm_statistics"}.isdisjoint(names)


def test_new_shapes_and_modes_are_recorded_beside_the_old_ones() -> None:
    eager, captured = Run(residual_net), Run(residual_net, capture={})

    def go(run: Run) -> list[float]:
        losses = run.go(3, batch=3) + run.go(3, batch=5) + run.go(2, batch=3)
        run.model.eval()
        losses += run.go(4, batch=3)
        run.model.train()
        return losses + run.go(2, batch=3)

    assert go(captured) == go(eager)
    assert captured.state() == eager.state()
    assert sum(len(kept) for kept in captured.step._recordings.values()) == 3


@pytest.mark.parametrize("change", ["momentum", "frozen", "loaded", "gradient"])
def test_what_changes_the_computation_is_seen(change: str) -> None:
    def go(run: Run) -> list[float]:
        losses = run.go(4)
        if change == "momentum":
            run.optimizer.param_groups[0]["momentum"] = 0.5
        elif change == "frozen":
            next(run.model.parameters()).requires_grad = False
        elif change == "loaded":
            run.optimizer.load_state_dict(run.optimizer.state_dict())
        else:
            for parameter in run.model.parameters():
                parameter.data = parameter.data.copy()
        return losses + run.go(4)

    eager, captured = Run(plain_net), Run(plain_net, capture={})
    assert go(captured) == go(eager)
    assert captured.state() == eager.state()


def test_gradients_that_add_up_over_calls() -> None:
    """Without zero_grad inside, a gradient that is there at the start is part of the step."""
    layer = nn.Linear(3, 2)
    x = gpucnn.randn(4, 3)

    def backward(x: Any) -> Any:
        loss = layer(x).sum()
        loss.backward()
        return loss

    step = gpucnn.capture(backward)
    for _ in range(5):
        step(x)
    total = np.asarray(layer.weight.grad)
    np.testing.assert_allclose(total, 5 * np.asarray(x).sum(0)[None].repeat(2, 0), rtol=1e-5)
    layer.weight.grad = None
    layer.bias.grad = None
    step(x)
    np.testing.assert_allclose(np.asarray(layer.weight.grad), total / 5, rtol=1e-5)


def test_results_are_overwritten_and_clones_are_not() -> None:
    step = gpucnn.capture(lambda x: {"twice": x * 2.0, "both": (x + 1.0, 3)})
    values = [np.full((2, 3), i, np.float32) for i in range(5)]
    results = [step(gpucnn.tensor(v)) for v in values]
    assert results[4]["twice"] is results[2]["twice"]
    np.testing.assert_array_equal(results[2]["twice"], values[4] * 2)
    np.testing.assert_array_equal(results[4]["both"][0], values[4] + 1)
    assert results[4]["both"][1] == 3
    kept = step(gpucnn.tensor(values[1]))["twice"].clone()
    step(gpucnn.tensor(values[2]))
    np.testing.assert_array_equal(kept, values[1] * 2)


def test_its_own_result_can_be_its_next_argument() -> None:
    step = gpucnn.capture(lambda x: x * 2.0 + 1.0)
    x = gpucnn.ones(2, 2)
    for _ in range(6):
        x = step(x)
    assert x.tolist() == [[127.0, 127.0], [127.0, 127.0]]


def test_a_tensor_kept_outside_is_not_fused_away() -> None:
    kept: list[Any] = []

    def forward(x: Any) -> Any:
        h = x * 3.0
        kept[:] = [h]
        return h.relu() + 1.0

    step = gpucnn.capture(forward)
    for i in range(4):
        x = gpucnn.full((2, 2), float(i))
        y = step(x)
        assert kept[0].tolist() == [[3.0 * i] * 2] * 2 and y.tolist() == [[3.0 * i + 1] * 2] * 2


def test_views_that_live_on_keep_their_memory() -> None:
    kept: list[Any] = []

    def forward(x: Any) -> Any:
        h = x * 3.0
        kept[:] = [h[1]]
        return (h + 1.0) * 2.0

    step = gpucnn.capture(forward)
    for i in range(4):
        step(gpucnn.full((2, 2), float(i)))
        assert kept[0].tolist() == [3.0 * i] * 2


def test_versions_count_up_with_each_replay() -> None:
    run = Run(plain_net, capture={})
    run.go(2)
    parameter = next(run.model.parameters())
    before = parameter._version[0]
    run.go(3)
    assert parameter._version[0] == before + 3


@pytest.mark.parametrize(
    ("name", "fn", "reason"),
    [
        ("item", lambda x: x * x.sum().item(), "a value is read on the host"),
        ("grad", None, "an argument requires a gradient"),
    ],
)
def test_what_cannot_be_replayed_runs_as_it_is_and_says_why(
    name: str, fn: Any, reason: str
) -> None:
    step = gpucnn.capture(fn or (lambda x: x * 2.0))
    x = gpucnn.ones(2, 2)
    if name == "grad":
        x.requires_grad_()
    step(x)
    with pytest.warns(UserWarning, match=f"capture: the step runs as it is: {reason}"):
        step(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for value in (1.0, 2.0, 3.0):
            y = step(gpucnn.full((2, 2), value) if name == "item" else x)
            assert y.tolist() == [[4 * value * value if name == "item" else 2.0] * 2] * 2
    assert step.reason is not None and step.reason.startswith(reason)


def test_hooks_and_plain_averages_of_batch_norm_run_as_they_are() -> None:
    layer = nn.Linear(3, 2)
    calls: list[int] = []
    layer.register_forward_hook(lambda *_: calls.append(1))
    step = gpucnn.capture(layer)
    with pytest.warns(UserWarning, match="Linear has forward hooks"):
        for _ in range(4):
            step(gpucnn.ones(2, 3))
    assert len(calls) == 4
    norm = nn.BatchNorm1d(3, momentum=None)
    step = gpucnn.capture(norm)
    with pytest.warns(UserWarning, match="momentum=None"):
        for _ in range(4):
            step(gpucnn.randn(4, 3))
    assert norm.num_batches_tracked.item() == 4


def test_random_numbers_drawn_on_the_host_run_as_they_are() -> None:
    step = gpucnn.capture(lambda x: x + gpucnn.randn(2, 2))
    with pytest.warns(UserWarning, match="made on the host"):
        results = [step(gpucnn.zeros(2, 2)).tolist() for _ in range(4)]
    assert all(a != b for a, b in zip(results, results[1:]))


def test_it_refuses_what_it_cannot_tell_apart() -> None:
    step = gpucnn.capture(lambda x: x)
    with pytest.raises(TypeError) as error:
        step(np.ones(3))
    assert str(error.value) == (
        "capture: arguments must be tensors or hashable values, got ndarray"
    )
    with pytest.raises(ValueError, match="fuse must be True, False or 'exact', got 1.5"):
        gpucnn.capture(lambda x: x, fuse=1.5)  # type: ignore[arg-type]


def test_errors_of_the_step_pass_and_leave_nothing_recording() -> None:
    def broken(x: Any) -> Any:
        if len(x) == 3:
            raise KeyError("mine")
        return x + 1.0

    step = gpucnn.capture(broken)
    for _ in range(3):
        with pytest.raises(KeyError):
            step(gpucnn.ones(3))
    assert gpucnn.core.recording.state.recorder is None
    for _ in range(3):
        assert step(gpucnn.ones(2)).tolist() == [2.0, 2.0]


def test_class_numbers_out_of_range_are_still_errors() -> None:
    step = gpucnn.capture(lambda x, y: F.cross_entropy(x, y))
    x = gpucnn.randn(4, 3)
    for _ in range(3):
        step(x, gpucnn.tensor([0, 1, 2, 1]))
    with pytest.raises(IndexError, match="target 3 is outside the 3 classes"):
        step(x, gpucnn.tensor([0, 1, 3, 1]))


def test_python_arguments_are_part_of_the_recording() -> None:
    def scale(x: Any, factor: float = 1.0, *, negate: bool = False) -> Any:
        return -(x * factor) if negate else x * factor

    step = gpucnn.capture(scale)
    x = gpucnn.ones(2)
    for factor in (2.0, 3.0, 2.0):
        for _ in range(3):
            assert step(x, factor).tolist() == [factor] * 2
            assert step(x, factor=factor, negate=True).tolist() == [-factor] * 2


def test_a_decorated_function_keeps_its_name() -> None:
    @gpucnn.capture(fuse=False)
    def train_step(x: Any) -> Any:
        """One step."""
        return x

    assert train_step.__name__ == "train_step" and train_step.__doc__ == "One step."


def test_gradient_clipping_and_accumulation_inside() -> None:
    def go(capture: bool) -> list[bytes]:
        gpucnn.manual_seed(1)
        model = plain_net()
        optimizer = optim.SGD(model.parameters(), 0.1)

        def update(x: Any, y: Any) -> Any:
            optimizer.zero_grad()
            for part in range(2):
                some = slice(part * 2, part * 2 + 2)
                loss = F.cross_entropy(model(x[some]), y[some])
                loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            return loss, norm

        step = gpucnn.capture(update) if capture else update
        rng = np.random.default_rng(2)
        for _ in range(6):
            x = gpucnn.tensor(rng.standard_normal((4, 1, 12, 9)).astype(np.float32))
            step(x, gpucnn.tensor(rng.integers(0, 4, 4)))
        return [np.asarray(p.detach()).tobytes() for p in model.parameters()]

    assert go(True) == go(False)


def test_a_recording_lets_memory_go() -> None:
    """Arrays that nobody holds are gone while it goes on, and their addresses are used again."""
    gone: list[bool] = []
    addresses: set[int] = set()

    def step(x: gpucnn.Tensor) -> list[gpucnn.Tensor]:
        y, kept = x + 1.0, []
        for number in range(6):
            before = weakref.ref(y.data)
            y = y * 2.0 - x
            gone.append(before() is None)
            addresses.add(y.data.__array_interface__["data"][0])
            if number % 3 == 2:
                kept.append(y[1:].clone())
        return [y, *kept]

    captured = gpucnn.capture(step)
    x = gpucnn.randn(200, 300)
    with gpucnn.no_grad():
        expected = [y.data.copy() for y in step(x)]
        gone.clear()
        addresses.clear()
        captured(x)
        for _ in range(3):
            found = [y.data.copy() for y in captured(x)]
            assert all(np.array_equal(a, b) for a, b in zip(found, expected))
            captured(x + 1.0)
    assert captured.reason is None and len(gone) == 12 and all(gone)
    assert len(addresses) < 12
