"""Rehearsed trainings: what they launch, and what a GPU would take for it."""

from __future__ import annotations

import math

import numpy as np
import pytest

import gpucnn
from gpucnn.backends.gpu import estimate
from gpucnn.training.prediction import Prediction, Problem, grouped, predict
from gpucnn.training.rehearsal import STEPS, bytes_of, modules, rehearse

A100, H100 = estimate.find("a100"), estimate.find("h100")


def lenet() -> gpucnn.models.Model:
    return gpucnn.models.create("lenet5")


def test_the_training_is_the_trainers() -> None:
    done = rehearse(lenet(), 4)
    names = [call.name for call in done.calls]
    assert names.count("sgd_update") == STEPS and names.count("max_pool2d") == 2 * (STEPS + 1)
    step = [call.name for call in done.step]
    assert step.count("sgd_update") == 1 and step.count("max_pool2d_backward") == 2
    assert {
        call.attributes["geometry"].n for call in done.calls if "geometry" in call.attributes
    } == {4}
    needed = done.modules
    assert modules(done.step).keys() <= needed.keys()
    assert "optimizer.cu" in {module.file for module in needed}
    assert {launch.kernel.entry for launch in done.launches} == set().union(*needed.values())


def test_validation_optimizer_and_batch_are_as_asked() -> None:
    training = rehearse(lenet(), 3, optimizer="adam", evaluate=False)
    names = [call.name for call in training.calls]
    assert names.count("adam_update") == STEPS and names.count("max_pool2d") == 2 * STEPS
    with pytest.raises(ValueError, match="batch must be at least 1, got 0"):
        rehearse(lenet(), 0)
    with pytest.raises(ValueError, match="precision: must be one of"):
        rehearse(lenet(), 3, precision="fp8")


def test_the_captured_step_is_the_fused_one() -> None:
    plain, captured = (rehearse(lenet(), 4, capture=capture) for capture in (False, True))
    launches = [
        sum(len(call.launches) for call in done.step if call.name != "copy")
        for done in (plain, captured)
    ]
    assert launches[1] < launches[0]
    assert [call.name for call in captured.step].count("sgd_update") == 1
    assert plain.modules.keys() <= captured.modules.keys()


@pytest.mark.parametrize(("gpu", "capture"), [("a100", False), ("a100", True), ("h100", False)])
@pytest.mark.parametrize(
    ("name", "most"), [("lenet5", 12), ("convnet", 16), ("resnet18_cifar", 40)]
)
def test_a_training_needs_few_modules(name: str, most: int, capture: bool, gpu: str) -> None:
    """What a first start compiles; validation, accuracy and the sum of the loss included."""
    properties = estimate.properties(estimate.find(gpu))
    done = rehearse(gpucnn.models.create(name), 128, properties, capture=capture)
    assert len(done.modules) <= most


def test_loss_and_accuracy_take_one_launch_a_batch() -> None:
    names = [call.name for call in rehearse(lenet(), 4).calls]
    assert names.count("add_scores") == STEPS + 1 and "argmax" not in names
    launches = [c.launches for c in rehearse(lenet(), 4).calls if c.name == "add_scores"]
    assert [len(each) for each in launches] == [1] * (STEPS + 1)


def test_large_nets_take_no_memory() -> None:
    """Ten gigabytes of activations, of which nothing is written."""
    done = rehearse(gpucnn.models.create("resnet18"), 256, evaluate=False)
    assert sum(call.bytes for call in done.step) > 1e10


def test_bytes_count_an_array_once() -> None:
    x = np.zeros((3, 4), np.float32)
    assert bytes_of([x, x]) == 48 and bytes_of([x, np.zeros(2)]) == 64
    assert bytes_of([np.broadcast_to(np.zeros(4, np.float32), (100, 4))]) == 16


def layers(name: str, gpu: str, batch: int = 128, precision: str = "auto") -> list[Prediction]:
    target = estimate.find(gpu)
    properties = estimate.properties(target)
    model = gpucnn.models.create(name)
    done = rehearse(model, batch, properties, precision=precision, evaluate=False)
    return predict(done.step, target, precision)


def test_work_is_that_of_the_layers() -> None:
    found = layers("lenet5", "a100")
    by_problem = {str(p): [e.flops for e in g] for (p, _), g in grouped(found).items()}
    assert by_problem["conv 1 -> 6, 5x5 stride 1, 28x28 -> 28x28"] == [2 * 128 * 28 * 28 * 6 * 25]
    assert by_problem["matmul 128 x 400, 400 x 120"] == [2 * 128 * 400 * 120]
    assert by_problem["linear_backward_weight 128 x 400, 128 x 120"] == [2 * 128 * 400 * 120]
    assert by_problem["sgd_update"] == [0]


@pytest.mark.parametrize("gpu", ["a100", "h100", "rtx4090"])
def test_a_layer_is_no_quicker_than_its_limits(gpu: str) -> None:
    target = estimate.find(gpu)
    for each in layers("resnet18_cifar", gpu):
        assert each.microseconds >= each.call.bytes / (target.bandwidth * 1e3) * 0.999
        assert each.limit in each.resources and each.of_roofline > 0
        if each.direction:
            assert each.scored is not None and each.instance == each.scores[0].instance
            assert each.runner_up is None or each.runner_up.score <= each.scored.score
            saved = max(1.0, each.scored.parts["pipe"])
            assert each.of_roofline <= 1.001 * saved


def test_twice_the_batch_is_about_twice_the_time() -> None:
    small, large = (
        sum(each.microseconds for each in layers("resnet18_cifar", "a100", batch))
        for batch in (128, 256)
    )
    assert 1.7 < large / small < 2.1


def test_a_device_says_what_its_gpu_has() -> None:
    found = estimate.properties(H100)
    assert (found.name, found.compute_capability, found.multiprocessors) == ("H100", (9, 0), 132)
    assert found.max_shared_per_block == 227 * 1024 and found.l2_cache == 50 * 2**20
    assert estimate.properties(estimate.find("t4")).max_shared_per_block == 64 * 1024
    assert estimate.properties(A100).max_shared_per_block == 163 * 1024


def test_an_architecture_is_planned_for_as_its_example() -> None:
    assert estimate.planned_for(90) == estimate.properties(H100)
    consumer = estimate.planned_for(120)
    assert consumer.compute_capability == (12, 0) and consumer.max_shared_per_block == 99 * 1024
    with pytest.raises(ValueError, match="sm_70 is not one of sm_75, sm_80"):
        estimate.planned_for(70)


def test_problems_print_their_sizes() -> None:
    call = next(c for c in rehearse(lenet(), 2).calls if c.name == "conv2d")
    assert str(Problem.of(call)).startswith("conv 1 -> 6, 5x5 stride 1, 28x28")
    assert math.prod(call.shapes[0] or ()) == 2 * 28 * 28
