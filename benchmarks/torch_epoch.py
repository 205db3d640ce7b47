"""The epoch of `epoch.EpochRow` in PyTorch: the same arrays, batch size, optimizer and schedule.

batches     each batch gathered from the whole arrays by a shuffled index: PyTorch's quickest
DataLoader  TensorDataset and DataLoader(num_workers=0), which picks image by image

Both normalise a batch at a time and keep the running loss and accuracy, as the Trainer does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucnn.benchmarks.epoch import EpochRow
from gpucnn.benchmarks.net_row import SEED
from gpucnn.benchmarks.row import Array, Call, Variant
from gpucnn.benchmarks.torch_nets import convert
from gpucnn.core.device import CPU
from gpucnn.data import ArrayDataset

if TYPE_CHECKING:
    from gpucnn.benchmarks.compare_torch import Opponent

Batches = Iterator[tuple[Any, Any]]


def call(row: EpochRow, opponent: Opponent, variant: Variant) -> Call:
    """One epoch from the initial values; the result is the accuracy on the test images."""
    torch, recipe = opponent.torch, row.recipe
    train, test = row.splits().train, row.splits().test
    images, labels = torch.tensor(train.images), torch.tensor(train.labels)
    batches = LOADERS[variant.mode](torch, images, labels, recipe.batch_size)
    normalised = _normalisation(opponent, train)

    def run() -> Any:
        model = convert(row.model(CPU).train(), opponent)
        optimizer = torch.optim.SGD(
            model.parameters(),
            recipe.rates["sgd"],
            recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=True,
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            recipe.rates["sgd"],
            total_steps=row.steps,
            pct_start=recipe.rise,
            cycle_momentum=False,
        )
        total = torch.zeros((), device=opponent.device)
        right = torch.zeros((), dtype=torch.int64, device=opponent.device)
        for x, y in batches():
            x, y = normalised(x), y.to(opponent.device)
            optimizer.zero_grad()
            outputs = model(x)
            loss = torch.nn.functional.cross_entropy(outputs, y)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach()
            right += (outputs.detach().argmax(1) == y).sum()
        total.item(), right.item()
        return model

    def results(model: Any) -> list[Array]:
        model.eval()
        with torch.no_grad():
            found = [
                model(normalised(part)).argmax(1).cpu().numpy()
                for part in torch.tensor(test.images).split(500)
            ]
        return [np.asarray((np.concatenate(found) == test.labels).mean())]

    return Call(run, results, opponent.setting)


def _normalisation(opponent: Opponent, dataset: ArrayDataset) -> Callable[[Any], Any]:
    torch = opponent.torch
    shape = (1, -1, 1, 1)
    mean = torch.tensor(dataset.mean, device=opponent.device).reshape(shape) * dataset.maximum
    std = torch.tensor(dataset.std, device=opponent.device).reshape(shape) * dataset.maximum
    return lambda x: x.to(opponent.device).float().sub_(mean).div_(std)


def _gathered(torch: Any, images: Any, labels: Any, size: int) -> Callable[[], Batches]:
    def batches() -> Batches:
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SEED))
        for start in range(0, len(labels) - size + 1, size):
            index = order[start : start + size]
            yield images[index], labels[index]

    return batches


def _loader(torch: Any, images: Any, labels: Any, size: int) -> Callable[[], Batches]:
    dataset = torch.utils.data.TensorDataset(images, labels)
    loader = torch.utils.data.DataLoader(
        dataset,
        size,
        shuffle=True,
        drop_last=True,
        num_workers=0,
        generator=torch.Generator().manual_seed(SEED),
    )
    return lambda: iter(loader)


LOADERS: dict[str, Callable[..., Callable[[], Batches]]] = {
    "batches": _gathered,
    "DataLoader": _loader,
}
"""Ways to get batches, by the mode of the variant."""
