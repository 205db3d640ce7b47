"""The named nets: sizes, shapes, names, and that they learn."""

from __future__ import annotations

import numpy as np
import pytest

import gpucnn
from gpucnn import models, nn, optim

PARAMETERS = {
    "lenet5": 61_706,
    "mnist_conv8": 80 + 13 * 13 * 8 * 10 + 10,
    "cifar_conv3_conv16": (3 * 75 + 3) + (16 * 75 + 16) + (400 * 120 + 120) + (1200 + 10),
    "cifar_conv12": (12 * 27 + 12) + (16 * 16 * 12 * 10 + 10),
    "convnet": (864 + 32) + (18_432 + 64) + (73_728 + 128) + (2048 * 256 + 256) + 2570,
    "digits_net": (144 + 16) + (4608 + 32) + (512 * 64 + 64) + 650,
}
RESIDUAL = {  # for as many classes as they are made for
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet18_cifar": 11_173_962,
}
RESNETS = {"resnet18", "resnet18_cifar", "resnet34", "resnet50"}  # in test_resnet.py


def test_every_name_is_tested() -> None:
    assert models.names() == sorted({*PARAMETERS, *RESNETS})


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_shapes_and_architecture(name: str) -> None:
    model = models.create(name)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    assert model(gpucnn.randn(2, *model.input_shape)).shape == (2, 10)
    options = model.architecture["options"]
    again = models.create(model.architecture["model"], **options)
    assert repr(again) == repr(model) and again.architecture == model.architecture
    other = models.create(name, in_channels=2, num_classes=3, input_size=(40, 33))
    assert other.input_shape == (2, 40, 33) and other.num_classes == 3
    assert other(gpucnn.randn(1, 2, 40, 33)).shape == (1, 3)
    if name in PARAMETERS:
        assert {key.split(".")[0] for key in model.state_dict()} == {"features", "classifier"}


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("lenet5", [(6, 28, 28), (6, 14, 14), (16, 10, 10), (16, 5, 5), (400,), (120,), (84,)]),
        ("mnist_conv8", [(8, 26, 26), (8, 13, 13)]),
        (
            "cifar_conv3_conv16",
            [(3, 28, 28), (3, 14, 14), (16, 10, 10), (16, 5, 5), (400,), (120,)],
        ),
        ("cifar_conv12", [(12, 32, 32), (12, 16, 16)]),
        ("convnet", [(32, 32, 32), (64, 16, 16), (128, 8, 8), (128, 4, 4), (2048,), (256,)]),
    ],
)
def test_feature_maps(name: str, shapes: list[tuple[int, ...]]) -> None:
    model = models.create(name)
    seen = [layer.output_shape[1:] for layer in nn.summary(model, (1, *model.input_shape)).layers]
    assert all(shape in seen for shape in shapes)


def test_unknown_names_and_options() -> None:
    with pytest.raises(ValueError) as error:
        models.create("LeNet")
    assert str(error.value) == (
        "model: there is no 'LeNet'; did you mean 'lenet5'? the models are cifar_conv12, "
        "cifar_conv3_conv16, convnet, digits_net, lenet5, mnist_conv8, resnet18, resnet18_cifar, "
        "resnet34, resnet50"
    )
    with pytest.raises(ValueError, match="model: there is no 'qq'; the models are"):
        models.create("qq")
    with pytest.raises(ValueError, match="lenet5: there is no option 'width'; it takes in_chan"):
        models.create("lenet5", width=3)
    with pytest.raises(TypeError, match="lenet5: num_classes must be of type int, got '10'"):
        models.create("lenet5", num_classes="10")
    with pytest.raises(ValueError, match="lenet5: num_classes must be at least 1, got 0"):
        models.create("lenet5", num_classes=0)
    with pytest.raises(
        ValueError, match=r"lenet5: input_size must be at least 12 x 12, got \(8, 8\)"
    ):
        models.create("lenet5", input_size=8)
    with pytest.raises(TypeError, match="lenet5: input_size must be an integer or a pair"):
        models.create("lenet5", input_size="28")


@pytest.mark.parametrize(
    ("name", "least"),
    [("lenet5", 12), ("mnist_conv8", 4), ("cifar_conv3_conv16", 16), ("cifar_conv12", 2)]
    + [("convnet", 8), ("digits_net", 2)],
)
def test_the_smallest_image_named_in_the_error_works(name: str, least: int) -> None:
    model = models.create(name, input_size=least)
    assert model(gpucnn.randn(1, *model.input_shape)).shape == (1, 10)
    with pytest.raises(ValueError, match=f"at least {least} x {least}"):
        models.create(name, input_size=(least, least - 1))


def test_the_seed_decides_the_initial_values() -> None:
    gpucnn.manual_seed(4)
    first = models.create("lenet5").state_dict()
    gpucnn.manual_seed(4)
    second = models.LeNet5().state_dict()
    for key in first:
        np.testing.assert_array_equal(np.asarray(first[key]), np.asarray(second[key]))


@pytest.mark.parametrize("name", ["digits_net", "cifar_conv3_conv16"])
def test_a_net_learns_a_few_images_by_heart(name: str) -> None:
    gpucnn.manual_seed(0)
    model = models.create(name)
    x, y = gpucnn.randn(20, *model.input_shape), gpucnn.arange(20).data % 10
    target = gpucnn.tensor(y)
    optimizer = optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(120):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), target).backward()
        optimizer.step()
    predicted = model.eval()(x).detach().numpy().argmax(1)
    assert (predicted == y).mean() >= 0.95


def test_lenet_agrees_with_torch_over_a_training_run() -> None:
    """H and W differ, so that the order of Flatten counts; SGD with momentum, six steps."""
    torch = pytest.importorskip("torch")
    ours = models.create("lenet5", input_size=(20, 28)).double()
    theirs = torch.nn.Module()
    theirs.features = torch.nn.Sequential(
        torch.nn.Conv2d(1, 6, 5, padding=2),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(6, 16, 5),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
    )
    theirs.classifier = torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.Linear(16 * 3 * 5, 120),
        torch.nn.ReLU(),
        torch.nn.Linear(120, 84),
        torch.nn.ReLU(),
        torch.nn.Linear(84, 10),
    )
    theirs.double()
    ours.load_state_dict(theirs.state_dict())
    a = optim.SGD(ours.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    b = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    rng = np.random.default_rng(0)
    for _ in range(6):
        x, y = rng.standard_normal((8, 1, 20, 28)), rng.integers(0, 10, 8)
        one = nn.functional.cross_entropy(ours(gpucnn.tensor(x)), gpucnn.tensor(y))
        two = torch.nn.functional.cross_entropy(
            theirs.classifier(theirs.features(torch.tensor(x))), torch.tensor(y)
        )
        assert one.item() == pytest.approx(two.item(), rel=1e-10)
        a.zero_grad()
        b.zero_grad()
        nn.utils.clip_grad_norm_(ours.parameters(), 1.0)  # nothing to clip yet
        one.backward()
        two.backward()
        norms = (
            nn.utils.clip_grad_norm_(ours.parameters(), 0.5).item(),
            torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5).item(),
        )
        assert norms[0] == pytest.approx(norms[1], rel=1e-10)
        a.step()
        b.step()
    for key, value in theirs.state_dict().items():
        np.testing.assert_allclose(np.asarray(ours.state_dict()[key]), value.numpy(), atol=1e-11)
