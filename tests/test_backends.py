"""Both families of primitives have the same names and parameters, and every rule its primitive."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import partial

import pytest

import gpucnn.ops
from gpucnn import backends
from gpucnn.backends.cpu import CpuBackend
from gpucnn.backends.gpu import GpuBackend
from gpucnn.backends.gpu.host import RecordingRuntime, recording
from gpucnn.core.device import Device
from gpucnn.core.memory import copy
from gpucnn.core.primitive import Primitive

DESCRIBING = ("shape", "dtype", "order")
CPU = CpuBackend().primitives
GPU = GpuBackend(RecordingRuntime()).primitives
OF_THE_CPU = ["conv2d_max_pool_backward_weight"]  # what capture puts there alone


def parameters(function: object) -> list[tuple[str, object]]:
    bound = function.func if isinstance(function, partial) else function
    listed = inspect.signature(bound).parameters.values()  # type: ignore[arg-type]
    return [(p.name, p.kind) for p in listed if p.name != "runtime"]


def declared() -> dict[str, Primitive]:
    found = {"copy": copy}
    for info in pkgutil.iter_modules(gpucnn.ops.__path__):
        module = importlib.import_module(f"gpucnn.ops.{info.name}")
        for value in vars(module).values():
            if isinstance(value, Primitive):
                found[value.name] = value
    return found


def test_the_same_names() -> None:
    assert sorted(CPU) == sorted([*GPU, *OF_THE_CPU])
    assert sorted(CPU) == sorted([*declared(), "full"])


@pytest.mark.parametrize("name", sorted(GPU))
def test_the_same_parameters(name: str) -> None:
    assert parameters(CPU[name]) == parameters(GPU[name])


@pytest.mark.parametrize("name", sorted(declared()))
def test_rules_and_primitives_have_the_same_inputs_and_attributes(name: str) -> None:
    rule = declared()[name].signature.parameters
    for_rule = [n for n in rule if n not in DESCRIBING and not n.startswith("with_")]
    primitive = [n for n, k in parameters(CPU[name]) if k is not inspect.Parameter.KEYWORD_ONLY]
    keyword = [n for n, p in rule.items() if p.kind is p.KEYWORD_ONLY and n in for_rule]
    assert [n for n, k in parameters(CPU[name]) if k is inspect.Parameter.KEYWORD_ONLY] == keyword
    inputs = [n for n in for_rule if n not in keyword]
    if rule[inputs[0]].kind is inspect.Parameter.VAR_POSITIONAL:
        assert len(primitive) == 1  # all inputs, then the output
    else:
        assert primitive[: len(inputs)] == inputs


def test_a_backend_serves_a_device_for_a_while() -> None:
    device = Device("emulated")
    with recording() as runtime:
        x = gpucnn.ones(3, 4, device="emulated")
        (x + x).sum()
        assert [launch.kernel.module.file for launch in runtime.launches][-1] == "reduce.cu"
        inside = backends.get(device)
    assert backends._backends.get(device) is not inside
