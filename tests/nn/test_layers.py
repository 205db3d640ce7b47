"""The layers: what they compute, how they print, what they refuse."""

from __future__ import annotations

import re

import numpy as np
import pytest

import gpucnn
from gpucnn import nn

RNG = np.random.default_rng(7)

# (class, arguments, keyword arguments, input shape)
SAME_AS_TORCH = [
    ("Conv2d", (3, 4, 3), {}, (2, 3, 7, 6)),
    ("Conv2d", (3, 4, (3, 2)), {"stride": (2, 1), "padding": (1, 0)}, (2, 3, 7, 6)),
    ("Conv2d", (4, 6, 3, 1, "same", 2, 2, False), {}, (2, 4, 7, 5)),
    ("Conv2d", (4, 4, 2), {"padding": "valid", "groups": 4}, (1, 4, 5, 5)),
    ("Conv2d", (2, 3, 1), {}, (2, 5, 4)),
    ("Linear", (5, 3), {}, (4, 5)),
    ("Linear", (5, 3), {"bias": False}, (2, 4, 5)),
    ("MaxPool2d", (2,), {}, (2, 3, 7, 6)),
    ("MaxPool2d", ((3, 2), 2, (1, 0)), {"ceil_mode": True}, (2, 3, 7, 6)),
    ("MaxPool2d", (2, 1, 1, 2), {}, (2, 3, 7, 6)),
    ("AvgPool2d", (3, 2, 1), {"count_include_pad": False}, (2, 3, 7, 6)),
    ("AvgPool2d", (2,), {"ceil_mode": True, "divisor_override": 3}, (2, 3, 7, 5)),
    ("AdaptiveAvgPool2d", ((3, None),), {}, (2, 3, 7, 6)),
    ("AdaptiveAvgPool2d", (1,), {}, (2, 3, 7, 6)),
    ("ReLU", (), {}, (3, 4)),
    ("Sigmoid", (), {}, (3, 4)),
    ("Tanh", (), {}, (3, 4)),
    ("Softmax", (1,), {}, (3, 4, 2)),
    ("LogSoftmax", (-1,), {}, (3, 4)),
    ("BatchNorm2d", (3,), {}, (4, 3, 5, 2)),
    ("BatchNorm2d", (3, 1e-3, None), {}, (4, 3, 5, 2)),
    ("BatchNorm2d", (3,), {"affine": False, "track_running_stats": False}, (4, 3, 5, 2)),
    ("BatchNorm1d", (3,), {"momentum": 0.3}, (4, 3)),
    ("BatchNorm1d", (3,), {}, (4, 3, 6)),
    ("Dropout", (0.0,), {}, (3, 4)),
    ("Dropout", (1.0,), {}, (3, 4)),
    ("Flatten", (), {}, (2, 3, 4, 5)),
    ("Flatten", (2, 3), {}, (2, 3, 4, 5)),
    ("Identity", (54,), {"unused": 1}, (2, 3)),
]


@pytest.mark.parametrize(("name", "args", "kwargs", "shape"), SAME_AS_TORCH)
def test_layer_agrees_with_torch(name: str, args: tuple, kwargs: dict, shape: tuple) -> None:
    """Output, gradients, running statistics, keys and text; in training, then in evaluation."""
    torch = pytest.importorskip("torch")
    theirs = getattr(torch.nn, name)(*args, **kwargs).double()
    ours = getattr(nn, name)(*args, **kwargs).double()
    # Batch norm shows its bias since PyTorch 2.13.
    without_bias = re.compile(r"bias=\w+, (?=track)")
    assert without_bias.sub("", repr(ours)) == without_bias.sub("", repr(theirs))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    for training in (True, True, False):
        theirs.train(training)
        ours.train(training)
        x = RNG.standard_normal(shape)
        x_theirs = torch.tensor(x, requires_grad=True)
        x_ours = gpucnn.tensor(x, requires_grad=True)
        y_theirs, y_ours = theirs(x_theirs), ours(x_ours)
        np.testing.assert_allclose(y_ours.detach().numpy(), y_theirs.detach().numpy(), atol=1e-12)
        upstream = RNG.standard_normal(tuple(y_theirs.shape))
        theirs.zero_grad()
        ours.zero_grad()
        y_theirs.backward(torch.tensor(upstream))
        y_ours.backward(gpucnn.tensor(upstream))
        np.testing.assert_allclose(x_ours.grad.numpy(), x_theirs.grad.numpy(), atol=1e-12)
        for p_ours, p_theirs in zip(ours.parameters(), theirs.parameters()):
            np.testing.assert_allclose(p_ours.grad.numpy(), p_theirs.grad.numpy(), atol=1e-12)
        for key, value in theirs.state_dict().items():
            np.testing.assert_allclose(ours.state_dict()[key].numpy(), value.numpy(), atol=1e-12)


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"reduction": "sum", "label_smoothing": 0.1},
        {"reduction": "none", "ignore_index": 1},
        {"weight": [0.5, 1.0, 2.0], "label_smoothing": 0.2},
    ],
)
def test_cross_entropy_loss_agrees_with_torch(kwargs: dict) -> None:
    torch = pytest.importorskip("torch")
    weight = kwargs.pop("weight", None)
    logits, target = RNG.standard_normal((5, 3)), np.array([0, 1, 2, 2, 1])
    theirs = torch.nn.CrossEntropyLoss(
        None if weight is None else torch.tensor(weight, dtype=torch.float64), **kwargs
    )
    ours = nn.CrossEntropyLoss(
        None if weight is None else gpucnn.tensor(weight, dtype=gpucnn.float64), **kwargs
    )
    expected = theirs(torch.tensor(logits), torch.tensor(target)).numpy()
    result = ours(gpucnn.tensor(logits), gpucnn.tensor(target)).numpy()
    np.testing.assert_allclose(result, expected, atol=1e-12)
    assert list(ours.state_dict()) == ([] if weight is None else ["weight"])
    assert repr(ours) == repr(theirs)


def test_losses_by_hand() -> None:
    # -log(e^2 / (e^1 + e^2 + e^3)) = log(1 + e^-1 + e^1)
    loss = nn.CrossEntropyLoss()(gpucnn.tensor([[1.0, 2.0, 3.0]]), gpucnn.tensor([1]))
    assert loss.item() == pytest.approx(np.log(1 + np.exp(-1) + np.exp(1)), rel=1e-6)
    x, y = gpucnn.tensor([1.0, 2.0]), gpucnn.tensor([3.0, 5.0])
    assert nn.MSELoss()(x, y).item() == 6.5
    assert nn.MSELoss(reduction="sum")(x, y).item() == 13
    assert nn.MSELoss(reduction="none")(x, y).tolist() == [4, 9]


def test_batch_norm_by_hand() -> None:
    norm = nn.BatchNorm1d(1)
    y = norm(gpucnn.tensor([[1.0], [3.0]]))
    scaled = 1 / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(y.detach().numpy(), [[-scaled], [scaled]], rtol=1e-6)
    # mean 2; unbiased variance 2: running = 0.9 * (0, 1) + 0.1 * (2, 2)
    np.testing.assert_allclose(norm.running_mean.numpy(), [0.2], rtol=1e-6)
    np.testing.assert_allclose(norm.running_var.numpy(), [1.1], rtol=1e-6)
    assert norm.num_batches_tracked.item() == 1
    norm.eval()
    norm(gpucnn.tensor([[5.0], [6.0]]))
    assert norm.num_batches_tracked.item() == 1
    norm.reset_running_stats()
    assert norm.running_var.tolist() == [1] and norm.num_batches_tracked.item() == 0


def test_batch_norm_with_momentum_none_averages_all_batches() -> None:
    norm = nn.BatchNorm1d(1, momentum=None)
    for values in ([0.0, 2.0], [4.0, 8.0], [1.0, 1.0]):
        norm(gpucnn.tensor(values).reshape(2, 1))
    np.testing.assert_allclose(norm.running_mean.numpy(), [(1 + 6 + 1) / 3], rtol=1e-6)
    np.testing.assert_allclose(norm.running_var.numpy(), [(2 + 8 + 0) / 3], rtol=1e-6)


def test_dropout_acts_in_training_only_and_follows_the_seed() -> None:
    layer, x = nn.Dropout(0.25), gpucnn.ones(40, 50)
    gpucnn.manual_seed(3)
    first, second = layer(x), layer(x)
    gpucnn.manual_seed(3)
    again = layer(x)
    assert first.tolist() == again.tolist() != second.tolist()
    assert set(np.unique(first.numpy())) == {0, np.float32(4 / 3)}
    assert abs((first.numpy() == 0).mean() - 0.25) < 0.05
    assert layer.eval()(x).tolist() == x.tolist()


def test_conv_weights_are_oihw_over_krsc_memory() -> None:
    weight = nn.Conv2d(3, 4, (5, 2)).weight
    assert weight.shape == (4, 3, 5, 2) and weight.order == (0, 2, 3, 1)
    assert weight.data.transpose(0, 2, 3, 1).flags.c_contiguous


def test_device_and_dtype_arguments() -> None:
    for layer in (
        nn.Conv2d(1, 2, 3, device="cpu", dtype=gpucnn.float64),
        nn.Linear(2, 2, device="cpu", dtype=gpucnn.float64),
        nn.BatchNorm2d(2, device="cpu", dtype=gpucnn.float64),
    ):
        floats = [t for t in layer.state_dict().values() if t.is_floating_point()]
        assert floats and all(t.dtype == np.float64 and str(t.device) == "cpu" for t in floats)


@pytest.mark.parametrize(
    ("make", "kind", "text"),
    [
        (
            lambda: nn.Conv2d(3, 4, 3, groups=2),
            ValueError,
            "Conv2d: in_channels must be divisible by groups, got in_channels 3, groups 2",
        ),
        (
            lambda: nn.Conv2d(4, 3, 3, groups=2),
            ValueError,
            "Conv2d: out_channels must be divisible by groups, got out_channels 3, groups 2",
        ),
        (
            lambda: nn.Conv2d(1, 1, 3, padding="full"),
            ValueError,
            "Conv2d: padding must be a number, a pair, 'same' or 'valid', got 'full'",
        ),
        (
            lambda: nn.Conv2d(1, 1, 3, stride=2, padding="same"),
            ValueError,
            "Conv2d: padding='same' is not supported for strided convolutions, got stride (2, 2)",
        ),
        (
            lambda: nn.Conv2d(1, 1, 3, padding_mode="reflect"),
            ValueError,
            "Conv2d: padding_mode must be 'zeros', got 'reflect'",
        ),
        (lambda: nn.Conv2d(1, 1, 0), ValueError, "Conv2d: kernel_size must be at least 1, got 0"),
        (lambda: nn.Conv2d(0, 1, 3), ValueError, "Conv2d: in_channels must be at least 1, got 0"),
        (
            lambda: nn.Conv2d(1.5, 1, 3),
            TypeError,
            "Conv2d: in_channels must be an integer, got 1.5",
        ),
        (
            lambda: nn.Linear(-1, 2),
            ValueError,
            "Linear: in_features must be at least 0, got -1",
        ),
        (
            lambda: nn.Dropout(1.5),
            ValueError,
            "Dropout: p must be a probability between 0 and 1, got 1.5",
        ),
        (
            lambda: nn.MSELoss(reduction="median"),
            ValueError,
            "MSELoss: reduction must be mean, sum or none, got 'median'",
        ),
        (
            lambda: nn.CrossEntropyLoss(size_average=True),
            TypeError,
            "CrossEntropyLoss: size_average and reduce only keep PyTorch's order of arguments; "
            "use reduction='mean', 'sum' or 'none'",
        ),
        (
            lambda: nn.BatchNorm2d(3)(gpucnn.ones(2, 3)),
            ValueError,
            "BatchNorm2d: expected 4D input, got 2D (2, 3)",
        ),
        (
            lambda: nn.BatchNorm1d(3)(gpucnn.ones(2, 3, 4, 5)),
            ValueError,
            "BatchNorm1d: expected 2D or 3D input, got 4D (2, 3, 4, 5)",
        ),
    ],
)
def test_wrong_arguments_are_named(make: object, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as error:
        make()
    assert str(error.value) == text


def test_constructors_have_torchs_names_order_and_defaults() -> None:
    torch = pytest.importorskip("torch")
    import inspect

    names = {row[0] for row in SAME_AS_TORCH} | {"CrossEntropyLoss", "MSELoss"}
    for name in names:
        ours = inspect.signature(getattr(nn, name)).parameters.values()
        theirs = inspect.signature(getattr(torch.nn, name)).parameters
        # A later torch may add arguments at the end.
        for parameter, expected in zip(ours, theirs.values()):
            assert (parameter.name, parameter.default) == (expected.name, expected.default), name


def test_inplace_is_accepted() -> None:
    x = gpucnn.tensor([-1.0, 2.0])
    assert nn.ReLU(inplace=True)(x).tolist() == [0, 2]
    assert repr(nn.ReLU(inplace=True)) == "ReLU(inplace=True)"
    assert repr(nn.Dropout(0.1, inplace=True)) == "Dropout(p=0.1, inplace=True)"


def test_batch_norm_without_bias() -> None:
    norm = nn.BatchNorm1d(2, bias=False)
    assert list(norm.state_dict())[0] == "weight" and norm.bias is None
    assert norm(gpucnn.randn(5, 2)).shape == (5, 2)
