"""Architectures as JSON: there and back, and nothing but what is listed."""

from __future__ import annotations

import json

import pytest

import gpucnn
from gpucnn import models, nn
from gpucnn.core.device import CPU
from gpucnn.models.architecture import _OPTIONS, ArchitectureError, build, describe
from gpucnn.nn.building import TooLargeError, building

EVERY_LAYER = [
    nn.Conv2d(4, 6, (3, 2), (1, 2), padding=(1, 0), dilation=2, groups=2, bias=False),
    nn.Conv2d(1, 2, 3, padding="same"),
    nn.Linear(3, 4),
    nn.Linear(3, 4, bias=False),
    nn.MaxPool2d(3, 2, (1, 0), 1, ceil_mode=True),
    nn.AvgPool2d((2, 3), ceil_mode=True, count_include_pad=False, divisor_override=5),
    nn.AdaptiveAvgPool2d((None, 3)),
    nn.AdaptiveAvgPool2d(2),
    nn.BatchNorm1d(3, 1e-3, None, affine=False),
    nn.BatchNorm2d(3, momentum=0.2, track_running_stats=False, bias=False),
    nn.Dropout(0.3, inplace=True),
    nn.Flatten(0, -2),
    nn.ReLU(inplace=True),
    nn.Sigmoid(),
    nn.Tanh(),
    nn.Softmax(1),
    nn.LogSoftmax(),
    nn.Identity(),
]


def test_every_layer_comes_back_the_same() -> None:
    assert {type(layer) for layer in EVERY_LAYER} == set(_OPTIONS)
    shared = nn.ReLU()
    net = nn.Sequential(*EVERY_LAYER, nn.Sequential(shared, shared), models.create("lenet5"))
    again = build(json.loads(json.dumps(describe(net))))
    assert repr(again) == repr(net)
    for layer, copy in zip(net, again):
        for option in _OPTIONS.get(type(layer), {}):
            if option != "bias":
                assert getattr(copy, option) == getattr(layer, option)
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in net.state_dict().items()
    }


def test_named_children_keep_their_names() -> None:
    net = nn.Sequential()
    net.add_module("conv", nn.Conv2d(1, 1, 1))
    assert list(build(describe(net)).state_dict()) == ["conv.weight", "conv.bias"]


def test_other_classes_are_refused_by_name_and_place() -> None:
    class Mine(nn.ReLU):
        pass

    with pytest.raises(ArchitectureError, match=r"module '1.0' is a Mine, and only Sequential"):
        describe(nn.Sequential(nn.ReLU(), nn.Sequential(Mine())))
    with pytest.raises(ArchitectureError, match=r"it is a ModuleList.*save model.state_dict\(\)"):
        describe(nn.ModuleList())

    class MyLeNet(models.LeNet5):
        pass

    with pytest.raises(ArchitectureError, match="it is a MyLeNet"):
        describe(MyLeNet())


def test_a_model_of_the_users_own_is_registered_by_its_name() -> None:
    class Tiny(models.Model):
        name = "tiny_of_a_test"

        def __init__(self, in_channels: int = 1, num_classes: int = 2, input_size: int = 4) -> None:
            super().__init__(
                in_channels=in_channels, num_classes=num_classes, input_size=input_size
            )
            self.features = nn.Flatten()
            self.classifier = nn.Linear(16, num_classes)

    try:
        model = models.create("tiny_of_a_test", num_classes=3)
        assert repr(build(describe(model))) == repr(model)
    finally:
        models.registry._models.pop("tiny_of_a_test")


def test_the_name_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match="model: the name 'lenet5' belongs to LeNet5"):

        class Another(models.Model):
            name = "lenet5"


def sequential(*children: object) -> dict:
    return {"layer": "Sequential", "children": list(children)}


def layer(name: object, **options: object) -> dict:
    return {"layer": name, "options": options}


def nested(depth: int) -> dict:
    entry = layer("ReLU")
    for _ in range(depth):
        entry = sequential(["0", entry])
    return entry


@pytest.mark.parametrize(
    ("description", "text"),
    [
        (None, "expected an object with 'layer' or 'model', got None"),
        ([], "expected an object"),
        ({}, "expected an object"),
        ({"layer": "ReLU"}, "expected an object"),
        ({"layer": "ReLU", "options": []}, "expected an object"),
        ({"layer": "ReLU", "model": "lenet5", "options": {}}, "expected an object"),
        (layer("Module"), "there is no layer 'Module'"),
        (layer("os.system", command="true"), "there is no layer 'os.system'"),
        (layer(["ReLU"]), "there is no layer ['ReLU']"),
        (layer("R" * 1000), "there is no layer 'RRR"),
        (layer("ReLU", device="cuda"), "ReLU: there is no option 'device'"),
        (layer("ReLU", __class__=1), "ReLU: there is no option '__class__'"),
        (layer("ReLU", inplace=1), "ReLU: inplace must be of kind 'flag', got 1"),
        (layer("Linear", in_features=2), "out_features"),
        (layer("Linear", in_features=True, out_features=1), "kind 'whole', got True"),
        (layer("Linear", in_features=2.0, out_features=1), "kind 'whole', got 2.0"),
        (layer("Linear", in_features=-2, out_features=1), "in_features must be at least 0, got -2"),
        (layer("Conv2d", in_channels=1, out_channels=1, kernel_size=[3]), "kind 'size', got [3]"),
        (layer("Conv2d", in_channels=1, out_channels=1, kernel_size=0), "at least 1"),
        (
            layer("Conv2d", in_channels=1, out_channels=1, kernel_size=3, padding="reflect"),
            "padding must be a number, a pair, 'same' or 'valid'",
        ),
        (layer("Dropout", p=float("nan")), "p must be a probability"),
        (layer("Dropout", p="0.5"), "kind 'number'"),
        ({"model": "lenet6", "options": {}}, "there is no 'lenet6'; did you mean 'lenet5'?"),
        ({"model": 5, "options": {}}, "there is no model 5"),
        ({"model": "lenet5", "options": {"self": 1}}, "there is no option 'self'"),
        ({"model": "lenet5", "options": {"name": 1}}, "multiple values"),
        ({"model": "lenet5", "options": {"num_classes": -1}}, "num_classes must be at least 1"),
        ({"model": "lenet5", "options": {"input_size": [8, 8]}}, "at least 12 x 12"),
        ({"model": "lenet5", "options": {"input_size": None}}, "input_size must be"),
        (sequential(layer("ReLU")), "Sequential: expected [name, module]"),
        (sequential(["a", layer("ReLU")], ["a", layer("ReLU")]), "two modules are called 'a'"),
        (sequential(["a.b", layer("ReLU")]), "can't contain"),
        (sequential(["forward", layer("ReLU")]), "attribute 'forward' already exists"),
        (sequential(["", layer("ReLU")]), "can't be empty"),
        ({"layer": "Sequential", "children": {}}, "Sequential: expected [name, module]"),
        ({"layer": "Sequential", "options": {}}, "there is no layer 'Sequential'"),
        (nested(65), "nested deeper than 64 levels"),
    ],
)
def test_what_is_not_a_net_is_refused(description: object, text: str) -> None:
    with pytest.raises(ArchitectureError) as error:
        build(description)
    assert text in str(error.value)
    assert len(str(error.value)) < 300


def test_nesting_up_to_the_limit_works() -> None:
    build(nested(64))


def test_building_draws_no_numbers_and_respects_the_limit() -> None:
    state = gpucnn.random.get_state()
    with building(61_706, CPU):
        model = models.create("lenet5")
    assert gpucnn.random.get_state() == state
    assert all(p.device is CPU for p in model.parameters())
    with pytest.raises(TooLargeError, match="larger than what is left"), building(61_705, CPU):
        models.create("lenet5")
    huge = layer("Linear", in_features=10**12, out_features=10**12)
    with pytest.raises(TooLargeError), building(1000, CPU):
        build(huge)
    with pytest.raises(TooLargeError), building(1000, CPU):
        build(layer("BatchNorm2d", num_features=10**15, affine=False))
    nn.Linear(3, 3)  # and afterwards everything is as before
    assert gpucnn.random.get_state() != state
