"""Residual nets: parameters as torchvision names them, values and gradients as PyTorch's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import gpucnn
from gpucnn import models, nn, optim
from gpucnn.models.resnet import BasicBlock, Bottleneck

# Of torchvision 0.29.1, in the order of state_dict: a module's weight, or the channels of a norm.
TORCHVISION = json.loads((Path(__file__).parent / "resnet_state_dicts.json").read_text())


def tensors(modules: dict) -> dict[str, tuple[int, ...]]:
    """The names and shapes of all tensors from those of the modules."""
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in modules.items():
        if isinstance(shape, int):
            for tensor in ("weight", "bias", "running_mean", "running_var"):
                found[f"{name}.{tensor}"] = (shape,)
            found[f"{name}.num_batches_tracked"] = ()
        else:
            found[f"{name}.weight"] = tuple(shape)
            if name == "fc":
                found["fc.bias"] = (shape[0],)
    return found


@pytest.mark.parametrize("name", TORCHVISION)
def test_names_shapes_and_order_of_the_parameters(name: str) -> None:
    model = models.create(name)
    state = {key: value.shape for key, value in model.state_dict().items()}
    assert list(state.items()) == list(tensors(TORCHVISION[name]["modules"]).items())
    assert sum(p.numel() for p in model.parameters()) == TORCHVISION[name]["parameters"]


def test_cifar() -> None:
    model = models.create("resnet18_cifar")
    assert sum(p.numel() for p in model.parameters()) == 11_173_962
    imagenet = tensors(TORCHVISION["resnet18"]["modules"])
    state = {key: value.shape for key, value in model.state_dict().items()}
    changed = {"conv1.weight": (64, 3, 3, 3), "fc.weight": (10, 512), "fc.bias": (10,)}
    assert state == imagenet | changed


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("resnet18", [(64, 112), (64, 56), (128, 28), (256, 14), (512, 7), (512, 1)]),
        ("resnet50", [(64, 112), (256, 56), (512, 28), (1024, 14), (2048, 7), (2048, 1)]),
        ("resnet18_cifar", [(64, 32), (128, 16), (256, 8), (512, 4), (512, 1)]),
    ],
)
def test_output_sizes_of_the_table(name: str, sizes: list[tuple[int, int]]) -> None:
    model = models.create(name)
    seen = [
        (shape[1], shape[2])
        for layer in nn.summary(model, (1, *model.input_shape)).layers
        if len(shape := layer.output_shape) == 4
    ]
    order = [size for size in dict.fromkeys(seen) if size in sizes]
    assert order == sizes


def test_initial_values() -> None:
    """He et al., ICCV 2015: variance 2 / fan out; norms begin as the identity."""
    gpucnn.manual_seed(0)
    model = models.create("resnet18_cifar")
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            weight = np.asarray(module.weight.detach())
            fan_out = weight.shape[0] * weight.shape[2] * weight.shape[3]
            assert weight.std() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
        elif isinstance(module, nn.BatchNorm2d):
            assert (np.asarray(module.weight.detach()) == 1).all()
            assert not np.asarray(module.bias.detach()).any()


@pytest.mark.parametrize("name", ["resnet18_cifar", "resnet50"])
def test_zero_init_residual_begins_every_block_as_its_shortcut(name: str) -> None:
    model = models.create(name, zero_init_residual=True)
    assert model.architecture["options"]["zero_init_residual"] is True
    blocks = [m for m in model.modules() if isinstance(m, (BasicBlock, Bottleneck))]
    assert len(blocks) == (8 if name == "resnet18_cifar" else 16)
    for block in blocks:
        assert not np.asarray(block.last_norm.weight.detach()).any()
    plain = next(block for block in blocks if block.downsample is None)
    x = gpucnn.randn(2, plain.conv1.in_channels, 5, 5)
    np.testing.assert_array_equal(plain(x).detach().numpy(), np.maximum(x.numpy(), 0))


def torch_logits(torch, state, x, name):
    """The net in PyTorch's functions, in training, from tensors with torchvision's names."""
    functional = torch.nn.functional

    def norm(key, x):
        return functional.batch_norm(
            x, None, None, state[f"{key}.weight"], state[f"{key}.bias"], training=True
        )

    def conv(key, x, stride, padding):
        return functional.conv2d(x, state[f"{key}.weight"], None, stride, padding)

    def block(key, x, stride):
        if name == "resnet50":
            h = norm(f"{key}.bn1", conv(f"{key}.conv1", x, 1, 0)).relu()
            h = norm(f"{key}.bn2", conv(f"{key}.conv2", h, stride, 1)).relu()
            h = norm(f"{key}.bn3", conv(f"{key}.conv3", h, 1, 0))
        else:
            h = norm(f"{key}.bn1", conv(f"{key}.conv1", x, stride, 1)).relu()
            h = norm(f"{key}.bn2", conv(f"{key}.conv2", h, 1, 1))
        if f"{key}.downsample.0.weight" in state:
            x = norm(f"{key}.downsample.1", conv(f"{key}.downsample.0", x, stride, 0))
        return (h + x).relu()

    if name == "resnet18_cifar":
        x = norm("bn1", conv("conv1", x, 1, 1)).relu()
    else:
        x = norm("bn1", conv("conv1", x, 2, 3)).relu()
        x = functional.max_pool2d(x, 3, 2, 1)
    depths = (3, 4, 6, 3) if name == "resnet50" else (2, 2, 2, 2)
    for layer, depth in enumerate(depths, 1):
        for i in range(depth):
            x = block(f"layer{layer}.{i}", x, 2 if layer > 1 and i == 0 else 1)
    return functional.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"])


@pytest.mark.parametrize(
    ("name", "size"), [("resnet18_cifar", 9), ("resnet18", 40), ("resnet50", 33)]
)
def test_values_and_gradients_against_torch(name: str, size: int) -> None:
    torch = pytest.importorskip("torch")
    gpucnn.manual_seed(1)
    ours = models.create(name, num_classes=5, input_size=(size, size + 4)).double()
    state = {
        key: torch.tensor(np.asarray(value), requires_grad=value.dtype.kind == "f")
        for key, value in ours.state_dict().items()
    }
    rng = np.random.default_rng(2)
    x, target = rng.standard_normal((4, *ours.input_shape)), rng.integers(0, 5, 4)
    loss = nn.functional.cross_entropy(ours(gpucnn.tensor(x)), gpucnn.tensor(target))
    loss.backward()
    theirs = torch.nn.functional.cross_entropy(
        torch_logits(torch, state, torch.tensor(x), name), torch.tensor(target)
    )
    theirs.backward()
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-9)
    for key, parameter in ours.named_parameters():
        expected = state[key].grad.numpy()
        bound = 1e-8 * np.abs(expected).max()
        np.testing.assert_allclose(np.asarray(parameter.grad), expected, atol=bound, rtol=1e-7)


def test_a_few_steps_of_training_lower_the_loss() -> None:
    gpucnn.manual_seed(3)
    model = models.create("resnet18_cifar", input_size=8)
    x, target = gpucnn.randn(16, 3, 8, 8), gpucnn.tensor(np.arange(16) % 10)
    optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
