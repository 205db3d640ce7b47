"""Learning rate schedules: by hand, and against torch over whole runs."""

from __future__ import annotations

import json
import math
import warnings

import pytest

import gpucnn
from gpucnn import nn, optim
from gpucnn.optim import lr_scheduler


def optimizer_of(library_optim: object, parameter: object, name: str = "SGD") -> object:
    groups = [{"params": [parameter(3)]}, {"params": [parameter(2)], "lr": 0.03}]
    options = {"momentum": 0.9} if name == "SGD" else {}
    return getattr(library_optim, name)(groups, lr=0.7, **options)


def ours(name: str = "SGD") -> optim.Optimizer:
    return optimizer_of(optim, lambda n: nn.Parameter(gpucnn.ones(n)), name)


SCHEDULES = [
    ("StepLR", {"step_size": 3}, 20),
    ("StepLR", {"step_size": 1, "gamma": 0.97}, 300),
    ("MultiStepLR", {"milestones": [2, 5, 5, 9], "gamma": 0.3}, 14),
    ("CosineAnnealingLR", {"T_max": 17}, 17),
    ("CosineAnnealingLR", {"T_max": 10, "eta_min": 0.01}, 75),
    ("CosineAnnealingLR", {"T_max": 1}, 5),
    ("LambdaLR", {"lr_lambda": lambda step: 0.9**step}, 30),
    ("LambdaLR", {"lr_lambda": [lambda step: 1 / (1 + step), lambda step: 2.0]}, 9),
    ("OneCycleLR", {"max_lr": 0.5, "total_steps": 40}, 39),
    ("OneCycleLR", {"max_lr": [0.5, 2.0], "epochs": 3, "steps_per_epoch": 11}, 32),
    ("OneCycleLR", {"max_lr": 0.1, "total_steps": 23, "anneal_strategy": "linear"}, 22),
    ("OneCycleLR", {"max_lr": 0.1, "total_steps": 50, "three_phase": True}, 49),
    (
        "OneCycleLR",
        {
            "max_lr": 1.0,
            "total_steps": 31,
            "pct_start": 0.21,
            "div_factor": 7.0,
            "final_div_factor": 100.0,
            "base_momentum": 0.8,
            "max_momentum": [0.9, 0.99],
            "three_phase": True,
            "anneal_strategy": "linear",
        },
        30,
    ),
    ("OneCycleLR", {"max_lr": 0.1, "total_steps": 10, "cycle_momentum": False}, 9),
    ("OneCycleLR", {"max_lr": 0.1, "total_steps": 1}, 1),
]


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize(("name", "options", "steps"), SCHEDULES)
def test_agrees_with_torch(name: str, options: dict, steps: int, kind: str) -> None:
    torch = pytest.importorskip("torch")
    a = ours(kind)
    b = optimizer_of(torch.optim, lambda n: torch.nn.Parameter(torch.ones(n)), kind)
    one = getattr(lr_scheduler, name)(a, **options)
    two = getattr(torch.optim.lr_scheduler, name)(b, **options)
    for _ in range(steps + 1):
        assert one.get_last_lr() == pytest.approx(two.get_last_lr(), rel=1e-12, abs=1e-15)
        for mine, their in zip(a.param_groups, b.param_groups):
            assert mine["lr"] == pytest.approx(their["lr"], rel=1e-12, abs=1e-15)
            key = "momentum" if kind == "SGD" else "betas"
            assert mine[key] == pytest.approx(their[key], rel=1e-12)
        a.step()
        b.step()
        if one.last_epoch < steps:
            one.step()
            two.step()


def test_chained_schedules_agree_with_torch() -> None:
    torch = pytest.importorskip("torch")
    a = ours()
    b = optimizer_of(torch.optim, lambda n: torch.nn.Parameter(torch.ones(n)))
    mine = [lr_scheduler.StepLR(a, 4, 0.5), lr_scheduler.CosineAnnealingLR(a, 6)]
    theirs = [
        torch.optim.lr_scheduler.StepLR(b, 4, 0.5),
        torch.optim.lr_scheduler.CosineAnnealingLR(b, 6),
    ]
    for _ in range(25):
        a.step()
        b.step()
        for one, two in zip(mine, theirs):
            one.step()
            two.step()
        assert mine[1].get_last_lr() == pytest.approx(theirs[1].get_last_lr(), rel=1e-12)


def test_step_lr_by_hand() -> None:
    optimizer = ours()
    schedule = lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
    seen = []
    for _ in range(5):
        optimizer.step()
        seen.append(optimizer.param_groups[0]["lr"])
        schedule.step()
    assert seen == [0.7, 0.7, 0.35, 0.35, 0.175]
    assert schedule.base_lrs == [0.7, 0.03] and schedule.last_epoch == 5


def test_cosine_by_hand() -> None:
    optimizer = ours()
    schedule = lr_scheduler.CosineAnnealingLR(optimizer, T_max=8, eta_min=0.1)
    optimizer.step()
    for step in range(1, 9):
        schedule.step()
        expected = 0.1 + 0.6 * (1 + math.cos(math.pi * step / 8)) / 2
        assert schedule.get_last_lr()[0] == pytest.approx(expected, rel=1e-12)


def test_one_cycle_by_hand() -> None:
    optimizer = ours()
    schedule = lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=11, pct_start=0.5)
    optimizer.step()
    rates, momenta = [], []
    for _ in range(11):
        rates.append(schedule.get_last_lr()[0])
        momenta.append(optimizer.param_groups[0]["momentum"])
        if len(rates) < 11:
            schedule.step()
    # Up ends at 0.5 * 11 - 1 = 4.5: the peak lies between steps 4 and 5.
    assert rates[0] == pytest.approx(0.04) and rates[-1] == pytest.approx(0.04 / 1e4)
    up = 1 + (0.04 - 1) / 2 * (math.cos(math.pi * 4 / 4.5) + 1)
    down = 4e-6 + (1 - 4e-6) / 2 * (math.cos(math.pi * 0.5 / 5.5) + 1)
    assert rates[4:6] == pytest.approx([up, down])
    assert momenta[0] == pytest.approx(0.95) and momenta[-1] == pytest.approx(0.95)
    assert min(momenta) == pytest.approx(0.85, abs=0.003)
    schedule.step()
    with pytest.raises(ValueError, match="Tried to step 12 times. .* total steps is 11"):
        schedule.step()


@pytest.mark.parametrize(("name", "options", "steps"), SCHEDULES)
def test_resumes_from_its_state(name: str, options: dict, steps: int) -> None:
    optimizer = ours()
    schedule = getattr(lr_scheduler, name)(optimizer, **options)
    optimizer.step()
    half = steps // 2
    for _ in range(half):
        schedule.step()
    saved, groups = schedule.state_dict(), optimizer.state_dict()
    assert "optimizer" not in saved
    saved = json.loads(json.dumps(saved))  # plain data
    expected = []
    for _ in range(steps - half):
        schedule.step()
        expected.append(schedule.get_last_lr())
    other = ours()
    again = getattr(lr_scheduler, name)(other, **options)
    other.step()
    again.load_state_dict(saved)
    other.load_state_dict(groups)
    for rates in expected:
        again.step()
        assert again.get_last_lr() == rates


def test_stepping_before_the_optimizer_warns() -> None:
    optimizer = ours()
    schedule = lr_scheduler.StepLR(optimizer, 1)
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        schedule.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize(
    ("make", "kind", "text"),
    [
        (lambda o: lr_scheduler.StepLR(3, 1), TypeError, "int is not an Optimizer"),
        (lambda o: lr_scheduler.StepLR(o, 1, last_epoch=4), KeyError, "initial_lr"),
        (lambda o: lr_scheduler.LambdaLR(o, [abs]), ValueError, "Expected 2 lr_lambdas, but got 1"),
        (lambda o: lr_scheduler.OneCycleLR(o, 1.0), ValueError, "either total_steps OR"),
        (
            lambda o: lr_scheduler.OneCycleLR(o, 1.0, total_steps=0),
            ValueError,
            "Expected positive integer total_steps, but got 0",
        ),
        (
            lambda o: lr_scheduler.OneCycleLR(o, [1.0], total_steps=3),
            ValueError,
            "max_lr must have the same length as optimizer.param_groups. max_lr has 1 values",
        ),
        (
            lambda o: lr_scheduler.OneCycleLR(o, 1.0, total_steps=3, pct_start=1.5),
            ValueError,
            "Expected float between 0 and 1 pct_start, but got 1.5",
        ),
        (
            lambda o: lr_scheduler.OneCycleLR(o, 1.0, total_steps=3, anneal_strategy="exp"),
            ValueError,
            "anneal_strategy must be one of 'cos' or 'linear', instead got exp",
        ),
    ],
)
def test_wrong_arguments(make: object, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as error:
        make(ours())
    assert text in str(error.value)


def test_one_cycle_needs_a_momentum_to_cycle() -> None:
    optimizer = optim.Optimizer([nn.Parameter(gpucnn.ones(1))], {"lr": 1.0})
    with pytest.raises(ValueError, match="optimizer must support momentum or beta1"):
        lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=3)
    lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=3, cycle_momentum=False)
