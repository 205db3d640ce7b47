"""Module: registration, traversal, hooks, modes, moving, state_dict and its strictness."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import gpucnn
from gpucnn import nn


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.scale = nn.Parameter(gpucnn.ones(3))
        self.register_parameter("absent", None)
        self.register_buffer("steps", gpucnn.zeros(1))
        self.register_buffer("scratch", gpucnn.zeros(2), persistent=False)

    def forward(self, x: gpucnn.Tensor) -> gpucnn.Tensor:
        return self.norm(self.conv(x)) * self.scale.reshape(1, 3, 1, 1)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = Block()
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))

    def forward(self, x: gpucnn.Tensor) -> gpucnn.Tensor:
        return self.head(self.first(x))


KEYS = [
    "first.scale",
    "first.steps",
    "first.conv.weight",
    "first.norm.weight",
    "first.norm.bias",
    "first.norm.running_mean",
    "first.norm.running_var",
    "first.norm.num_batches_tracked",
    "head.1.weight",
    "head.1.bias",
]


def test_state_dict_has_own_entries_first_then_the_children_in_order() -> None:
    net = Net()
    state = net.state_dict()
    assert list(state) == KEYS
    assert not any(value.requires_grad for value in state.values())
    # The tensors are the module's memory, not copies.
    state["head.1.bias"].fill_(7)
    assert net.head[1].bias.tolist() == [7, 7]
    assert net.state_dict(keep_vars=True)["first.scale"] is net.first.scale
    assert list(net.state_dict(prefix="a."))[0] == "a.first.scale"


def test_names_of_parameters_buffers_and_modules() -> None:
    net = Net()
    assert [name for name, _ in net.named_parameters()] == [
        key for key in KEYS if key.split(".")[-1] in ("scale", "weight", "bias")
    ]
    assert [name for name, _ in net.first.named_buffers()] == [
        "steps",
        "scratch",
        "norm.running_mean",
        "norm.running_var",
        "norm.num_batches_tracked",
    ]
    assert [name for name, _ in net.first.named_parameters(recurse=False)] == ["scale"]
    assert [name for name, _ in net.named_modules()] == [
        "",
        "first",
        "first.conv",
        "first.norm",
        "head",
        "head.0",
        "head.1",
    ]
    assert [name for name, _ in net.named_children()] == ["first", "head"]
    assert net.get_submodule("first.norm") is net.first.norm
    assert net.get_parameter("head.1.bias") is net.head[1].bias
    assert net.get_buffer("first.steps") is net.first.steps
    with pytest.raises(AttributeError, match="Block has no submodule `pool`"):
        net.get_submodule("first.pool")
    with pytest.raises(AttributeError, match="Linear has no parameter `gain`"):
        net.get_parameter("head.1.gain")


def test_a_shared_parameter_is_listed_once_and_stored_under_both_names() -> None:
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    net[1].weight = net[0].weight
    assert len(list(net.parameters())) == 1
    assert len(list(net.named_parameters(remove_duplicate=False))) == 2
    assert list(net.state_dict()) == ["0.weight", "1.weight"]


def test_assignment_registers_replaces_and_refuses() -> None:
    net = Block()
    with pytest.raises(TypeError, match="cannot assign 'Tensor' object to parameter 'scale'"):
        net.scale = gpucnn.ones(3)
    with pytest.raises(TypeError, match="cannot assign 'int' object to child module 'conv'"):
        net.conv = 3
    with pytest.raises(TypeError, match="cannot assign 'str' object to buffer 'steps'"):
        net.steps = "many"
    net.steps = gpucnn.ones(1)
    assert net.state_dict()["steps"].tolist() == [1]
    net.scale = None
    assert "scale" not in net.state_dict() and net.scale is None
    net.scale = nn.Parameter(gpucnn.zeros(3))
    assert net.scale.tolist() == [0, 0, 0]
    net.conv = nn.Identity()
    assert "conv.weight" not in net.state_dict()
    del net.norm
    with pytest.raises(AttributeError, match="'Block' object has no attribute 'norm'"):
        _ = net.norm
    with pytest.raises(KeyError, match="attribute 'forward' already exists"):
        net.register_buffer("forward", None)
    with pytest.raises(KeyError, match="contain .*got: a.b"):
        net.add_module("a.b", nn.Identity())
    with pytest.raises(TypeError, match="int is not a Module subclass"):
        net.add_module("a", 1)
    with pytest.raises(ValueError, match="non-leaf"):
        grown = nn.Parameter(gpucnn.ones(1))
        grown.grad_fn = (gpucnn.ones(1, requires_grad=True) * 2).grad_fn
        net.register_parameter("grown", grown)


def test_assignment_before_init_says_so() -> None:
    class Forgetful(nn.Module):
        def __init__(self) -> None:
            self.layer = nn.ReLU()

    with pytest.raises(AttributeError, match=r"before Module.__init__\(\) call"):
        Forgetful()


def test_forward_must_be_written() -> None:
    with pytest.raises(NotImplementedError, match="Module: forward is not defined"):
        nn.Module()(1)


def test_hooks_see_and_replace_arguments_and_output() -> None:
    layer = nn.Identity()
    seen: list[object] = []
    before = layer.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    after = layer.register_forward_hook(lambda module, args, y: seen.append((args, y)))
    layer.register_forward_hook(lambda module, args, y: y * 10)
    first = layer.register_forward_hook(lambda module, args, y: y + 0.5, prepend=True)
    assert layer(1) == 25
    assert seen == [((2,), 2.5)]
    first.remove()
    first.remove()
    before.remove()
    with after:
        assert layer(1) == 10
    assert layer(2) == 20 and len(seen) == 2
    with pytest.raises(TypeError, match="expected a function"):
        layer.register_forward_hook(3)


def test_hooks_with_keyword_arguments() -> None:
    class Scale(nn.Module):
        def forward(self, x: float, factor: float = 1) -> float:
            return x * factor

    layer = Scale()
    handle = layer.register_forward_pre_hook(
        lambda module, args, kwargs: (args, {"factor": kwargs["factor"] + 1}), with_kwargs=True
    )
    layer.register_forward_hook(
        lambda module, args, kwargs, y: (y, kwargs["factor"]), with_kwargs=True
    )
    assert layer(3, factor=4) == (15, 5)
    handle.remove()
    layer.register_forward_pre_hook(lambda module, args, kwargs: 1, with_kwargs=True)
    with pytest.raises(RuntimeError, match="tuple of"):
        layer(1, factor=1)


def test_a_hook_may_remove_itself() -> None:
    layer = nn.Identity()
    calls = []

    def once(module: nn.Module, args: tuple[int], output: int) -> None:
        calls.append(output)
        handle.remove()

    handle = layer.register_forward_hook(once)
    layer(1), layer(2)
    assert calls == [1]


def test_train_eval_apply_and_freezing() -> None:
    net = Net()
    assert net.eval() is net and not any(m.training for m in net.modules())
    assert all(m.training for m in net.train().modules())
    with pytest.raises(ValueError, match="boolean"):
        net.train(1)
    order: list[str] = []
    net.apply(lambda module: order.append(type(module).__name__))
    assert order[-1] == "Net" and order[:3] == ["Conv2d", "BatchNorm2d", "Block"]
    net.requires_grad_(False)
    assert not any(p.requires_grad for p in net.parameters())


def test_zero_grad_forgets_or_fills() -> None:
    layer = nn.Linear(2, 1)
    layer(gpucnn.ones(1, 2)).sum().backward()
    kept = layer.weight.grad
    layer.zero_grad(set_to_none=False)
    assert layer.weight.grad is kept and kept.tolist() == [[0, 0]]
    layer.zero_grad()
    assert layer.weight.grad is None and layer.bias.grad is None


def test_dtypes_change_in_place_and_only_for_floats() -> None:
    net = Net()
    weight, tracked = net.first.conv.weight, net.first.norm.num_batches_tracked
    values = np.asarray(weight)
    net.first(gpucnn.ones(2, 2, 3, 3)).sum().backward()
    assert net.double() is net and net.first.conv.weight is weight
    assert weight.dtype == np.float64 and weight.requires_grad and weight.grad.dtype == np.float64
    assert weight.order == (0, 2, 3, 1)
    assert tracked.dtype == np.int64 and net.first.norm.running_var.dtype == np.float64
    np.testing.assert_array_equal(np.asarray(weight), values.astype(np.float64))
    assert net.float().first.scale.dtype == np.float32
    assert net.to("cpu", gpucnn.float64).first.scale.dtype == np.float64
    assert net.to(gpucnn.ones(1)).first.scale.dtype == np.float32
    assert net.to(device="cpu", dtype=np.float64).cpu().first.scale.dtype == np.float64
    with pytest.raises(TypeError, match="only floating point dtypes, got int64"):
        net.to(gpucnn.int64)
    with pytest.raises(TypeError, match="to: expected device and dtype, got copy"):
        net.to(copy=True)


def test_deepcopy_stands_alone() -> None:
    net = Net()
    twin = copy.deepcopy(net)
    with gpucnn.no_grad():
        net.first.scale.fill_(9)
        net.first.steps.fill_(9)
    assert twin.first.scale.tolist() == [1, 1, 1] and twin.first.steps.tolist() == [0]
    assert isinstance(twin.first.scale, nn.Parameter) and twin.first.scale.requires_grad
    assert list(twin.state_dict()) == KEYS
    assert twin.first.conv.weight.order == (0, 2, 3, 1)


def test_load_state_dict_copies_in_place_across_dtypes_and_libraries() -> None:
    source, target = Net(), Net().double()
    before = target.first.conv.weight
    array = before.data
    result = target.load_state_dict(source.state_dict())
    assert repr(result) == "<All keys matched successfully>"
    assert target.first.conv.weight is before and before.data is array
    for key, value in source.state_dict().items():
        np.testing.assert_array_equal(np.asarray(target.state_dict()[key]), np.asarray(value))
    arrays = {key: np.asarray(value) * 0 for key, value in source.state_dict().items()}
    target.load_state_dict(arrays)
    assert target.first.scale.tolist() == [0, 0, 0]


def test_load_state_dict_tells_all_that_is_wrong_and_copies_nothing() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    before = np.asarray(net[0].bias).copy()
    state = {
        "0.weight": gpucnn.zeros(2, 4),
        "0.bias": gpucnn.zeros(2),
        "1.weight": "none",
        "2.weight": gpucnn.zeros(1),
    }
    with pytest.raises(RuntimeError) as error:
        net.load_state_dict(state)
    assert str(error.value).splitlines() == [
        "Error(s) in loading state_dict for Sequential:",
        '\tMissing key(s) in state_dict: "1.bias". ',
        '\tUnexpected key(s) in state_dict: "2.weight". ',
        "\tsize mismatch for 0.weight: copying a param with shape (2, 4) from checkpoint, "
        "the shape in current model is (2, 3).",
        "\t1.weight: cannot be read as a tensor (dtype <U4).",
    ]
    np.testing.assert_array_equal(np.asarray(net[0].bias), before)
    with pytest.raises(RuntimeError, match="size mismatch"):
        net.load_state_dict(state, strict=False)
    with pytest.raises(TypeError, match="dict-like"):
        net.load_state_dict([1])


def test_load_state_dict_not_strict_returns_what_did_not_match() -> None:
    net = nn.Linear(2, 2)
    result = net.load_state_dict({"bias": gpucnn.ones(2), "gain": gpucnn.ones(1)}, strict=False)
    assert result.missing_keys == ["weight"] and result.unexpected_keys == ["gain"]
    assert tuple(result) == (["weight"], ["gain"])
    assert net.bias.tolist() == [1, 1]


def test_old_files_without_num_batches_tracked_are_taken() -> None:
    norm = nn.BatchNorm2d(2)
    state = norm.state_dict()
    del state["num_batches_tracked"]
    assert not norm.load_state_dict(state).missing_keys


def test_state_dict_goes_to_and_comes_from_torch() -> None:
    torch = pytest.importorskip("torch")

    def make(library: object) -> object:
        return library.Sequential(
            library.Conv2d(2, 4, 3, groups=2),
            library.BatchNorm2d(4),
            library.ReLU(),
            library.MaxPool2d(1),
            library.Flatten(),
            library.Linear(4 * 3 * 5, 3),
        )

    theirs, ours = make(torch.nn), make(nn)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    x = np.random.default_rng(0).standard_normal((2, 2, 5, 7)).astype(np.float32)
    expected = theirs(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(ours(gpucnn.tensor(x)).detach().numpy(), expected, atol=2e-6)
    back = {key: torch.from_numpy(np.array(value)) for key, value in ours.state_dict().items()}
    theirs.load_state_dict(back)


def test_repr_nests_as_in_torch() -> None:
    net = nn.Sequential(nn.Sequential(nn.ReLU(), nn.Sequential()), nn.Sigmoid())
    assert repr(net) == (
        "Sequential(\n  (0): Sequential(\n    (0): ReLU()\n    (1): Sequential()\n  )\n"
        "  (1): Sigmoid()\n)"
    )
    assert repr(nn.Parameter(gpucnn.ones(1))).startswith("Parameter containing:\ntensor(")


def test_parameter_takes_tensors_of_floats_only() -> None:
    with pytest.raises(TypeError, match="Parameter: data must be a Tensor, got list"):
        nn.Parameter([1.0])
    with pytest.raises(RuntimeError, match="only float tensors"):
        nn.Parameter(gpucnn.tensor([1]))
    assert not nn.Parameter(gpucnn.tensor([1]), requires_grad=False).requires_grad
