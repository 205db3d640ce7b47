"""Sequential, ModuleList, ModuleDict."""

from __future__ import annotations

from collections import OrderedDict

import pytest

import gpucnn
from gpucnn import nn


def test_sequential_calls_one_after_another() -> None:
    net = nn.Sequential(nn.ReLU(), nn.Flatten())
    assert net(gpucnn.tensor([[[-1.0, 2.0]]])).tolist() == [[0, 2]]
    assert nn.Sequential()(3) == 3


def test_sequential_of_an_ordered_dict_keeps_the_names() -> None:
    net = nn.Sequential(OrderedDict([("conv", nn.Conv2d(1, 2, 3)), ("act", nn.ReLU())]))
    assert list(net.state_dict()) == ["conv.weight", "conv.bias"]
    assert net[0] is net.conv and net[-1] is net.act
    assert list(dict(net[:1].named_children())) == ["conv"]


def test_sequential_is_a_sequence() -> None:
    first, second, third = nn.ReLU(), nn.Tanh(), nn.Sigmoid()
    net = nn.Sequential(first, second)
    assert net.append(third) is net and len(net) == 3
    assert list(net) == [first, second, third] and second in net and nn.ReLU() not in net
    assert list(net[1:]) == [second, third] and isinstance(net[1:], nn.Sequential)
    net[1] = nn.Identity()
    assert isinstance(net[1], nn.Identity)
    del net[0]
    assert list(net._modules) == ["0", "1"] and net[1] is third
    net.insert(1, first)
    assert [type(module).__name__ for module in net] == ["Identity", "ReLU", "Sigmoid"]
    assert net.pop() is third and len(net) == 2
    net.extend([second, second])
    assert len(net) == 4
    del net[1:]
    assert len(net) == 1
    for index in (1, -2):
        with pytest.raises(IndexError, match=f"index {index} is out of range"):
            net[index]
    with pytest.raises(TypeError, match="int is not a Module subclass"):
        nn.Sequential(3)


def test_module_list_registers_its_modules() -> None:
    layers = nn.ModuleList([nn.Linear(1, 1, bias=False)])
    layers += [nn.Linear(1, 1, bias=False)]
    assert list(layers.state_dict()) == ["0.weight", "1.weight"]
    assert isinstance(layers[:1], nn.ModuleList) and len(layers[:1]) == 1
    assert len(nn.ModuleList()) == 0
    with pytest.raises(NotImplementedError, match="ModuleList"):
        layers(1)


def test_module_dict_registers_its_modules() -> None:
    layers = nn.ModuleDict({"a": nn.Linear(1, 1, bias=False)})
    layers["b"] = nn.ReLU()
    assert list(layers) == ["a", "b"] and "a" in layers and len(layers) == 2
    assert list(layers.state_dict()) == ["a.weight"]
    assert [key for key, _ in layers.items()] == list(layers.keys())
    del layers["b"]
    assert list(layers.values()) == [layers["a"]]
