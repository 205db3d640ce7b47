"""The loop: what it computes, what it tells its callbacks, what it refuses."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_training import BATCHES, dataset, digest, loaders, make_model, make_trainer

import gpucnn
from gpucnn import nn, optim
from gpucnn.data import DataLoader
from gpucnn.nn import functional as F
from gpucnn.training import (
    Callback,
    ConfusionMatrix,
    EpochRecord,
    HistoryCsv,
    ProgressDisplay,
    RunningMetrics,
    StopWhenDiverged,
    Trainer,
    evaluate,
)


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 3))


def test_it_does_what_a_written_loop_does() -> None:
    """The same updates as forward, loss, backward, clip, step by hand, to the last bit."""
    train, validation = loaders()
    gpucnn.manual_seed(1)
    model = make_model()
    optimizer = optim.SGD(model.parameters(), 0.1, 0.9)
    scheduler = optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=2 * BATCHES)
    losses, correct = [], 0
    for _ in range(2):
        losses, correct = [], 0
        for images, labels in train:
            optimizer.zero_grad()
            outputs = model(images)
            loss = F.cross_entropy(outputs, labels)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            scheduler.step()
            losses.append(loss.item() * len(images))
            correct += int((outputs.argmax(1) == labels).long().sum())

    gpucnn.manual_seed(1)
    same = make_model()
    chosen = optim.SGD(same.parameters(), 0.1, 0.9)
    schedule = optim.lr_scheduler.OneCycleLR(chosen, 0.1, total_steps=2 * BATCHES)
    trainer = Trainer(same, chosen, scheduler=schedule, max_norm=0.5)
    history = trainer.fit(loaders()[0], validation, epochs=2)
    for one, two in zip(model.parameters(), same.parameters()):
        np.testing.assert_array_equal(one.detach(), two.detach())
    assert history[-1].loss == pytest.approx(sum(losses) / 36, rel=1e-12)
    assert history[-1].accuracy == correct / 36
    assert history[-1].lr == chosen.param_groups[0]["lr"]


def test_it_learns_and_measures() -> None:
    trainer = make_trainer(None, "adam", "")
    train, validation = loaders()
    before = trainer.evaluate(validation)
    history = trainer.fit(train, validation, epochs=12)
    after = trainer.evaluate(validation)
    assert [record.epoch for record in history] == list(range(1, 13))
    assert after.loss < before.loss / 2
    assert after.accuracy is not None and after.accuracy > 0.9
    assert (history[-1].validation_loss, history[-1].validation_accuracy) == after
    assert history[-1].images_per_second > 0 and history[-1].seconds > 0


def test_two_trainings_have_the_same_bits() -> None:
    digests = set()
    for threads in (1, 2):
        before = gpucnn.get_num_threads()
        gpucnn.set_num_threads(threads)
        trainer = make_trainer(None)
        trainer.fit(*loaders(), epochs=2)
        gpucnn.set_num_threads(before)
        digests.add(digest(trainer))
    assert len(digests) == 1


def test_evaluation_leaves_modes_and_numbers_alone() -> None:
    model = make_model()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    buffers = [buffer.detach().clone() for buffer in model.buffers()]
    matrix = ConfusionMatrix(3)
    loader = DataLoader(dataset(), 10)
    result = evaluate(model, loader, metrics=[matrix])
    assert [module.training for module in model.modules()] == modes
    for one, two in zip(model.buffers(), buffers):
        np.testing.assert_array_equal(one, two)
    model.eval()
    with gpucnn.no_grad():
        images, labels = next(iter(DataLoader(dataset(), 36)))
        outputs = model(images)
    taken = outputs.argmax(1).numpy()
    expected = np.zeros((3, 3), np.int64)
    np.add.at(expected, (labels.numpy(), taken), 1)
    np.testing.assert_array_equal(matrix.read(), expected)
    assert result.accuracy == np.trace(expected) / 36
    assert result.loss == pytest.approx(F.cross_entropy(outputs, labels).item(), rel=1e-5)


def test_a_small_last_batch_does_not_count_for_more() -> None:
    metrics = RunningMetrics()
    assert np.isnan(metrics.read().loss) and metrics.read().accuracy is None
    labels = gpucnn.tensor([0, 1, 1], dtype=gpucnn.int64)
    right = gpucnn.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    metrics.update(gpucnn.tensor(3.0), right, labels)
    metrics.update(gpucnn.tensor(7.0), right[:1], labels[1:2])
    assert metrics.read() == ((3 * 3 + 7) / 4, 0.75)
    again = RunningMetrics()
    again.load_state(*metrics.state(), metrics.count, gpucnn.device("cpu"))
    assert again.read() == metrics.read()


@pytest.mark.parametrize(
    ("outputs", "loss", "loss_dtype", "shape"),
    [
        ([[0.2, 0.9], [0.1, 0.8]], 1, gpucnn.int64, ()),
        ([[0.2, 0.9], [0.1, 0.8]], 0.5, gpucnn.float32, (1,)),
        ([[1.0, 1.0 + 1e-9], [0.0, 1.0]], 0.5, gpucnn.float32, ()),
        ([[16777216, 16777217], [0, 1]], 0.5, gpucnn.float32, ()),
    ],
)
def test_losses_and_outputs_of_different_kinds(outputs, loss, loss_dtype, shape) -> None:
    """Nothing is rounded to the other's dtype before the largest is looked for."""
    metrics = RunningMetrics()
    labels = gpucnn.tensor([1, 1])
    for _ in range(2):
        value = gpucnn.tensor(loss, dtype=loss_dtype).reshape(shape)
        metrics.update(value, gpucnn.tensor(np.array(outputs)), labels)
    assert metrics.read() == (loss, 1.0)


def test_metrics_do_not_hide_in_a_captured_step() -> None:
    """Replayed, they would add to the sums and not to the number of images."""
    metrics, labels = RunningMetrics(), gpucnn.tensor([1, 0, 1])

    @gpucnn.capture
    def step(outputs: gpucnn.Tensor) -> gpucnn.Tensor:
        loss = F.cross_entropy(outputs, labels)
        metrics.update(loss, outputs, labels)
        return loss

    with pytest.warns(UserWarning, match="a metric counts images on the host"):
        for _ in range(5):
            step(gpucnn.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]))
    assert metrics.count == 15 and metrics.read().accuracy == pytest.approx(2 / 3)


def test_regression_has_no_accuracy() -> None:
    gpucnn.manual_seed(0)
    model = nn.Linear(4, 2)
    x = gpucnn.randn(10, 4)
    batches = [(x, x[:, :2] * 2)]
    trainer = Trainer(model, optim.SGD(model.parameters(), 0.1), loss=F.mse_loss)
    history = trainer.fit(batches, batches, epochs=3)
    assert history[2].loss < history[0].loss
    assert history[2].accuracy is None and history[2].validation_accuracy is None
    assert history[2].validation_loss is not None


def test_schedules_step_by_batch_or_by_epoch() -> None:
    rates = []

    class Rates(Callback):
        def on_batch_end(self, trainer: Trainer) -> None:
            rates.append(trainer.optimizer.param_groups[0]["lr"])

    by_batch = [0.025, 0.0125, 0.00625, 0.003125]
    for step, expected in (("epoch", [0.05] * BATCHES), ("batch", by_batch)):
        rates.clear()
        trainer = make_trainer(None, "sgd", "step", [Rates()], scheduler_step=step)
        trainer.fit(loaders()[0], epochs=1)
        assert rates == expected
    assert make_trainer(None, "sgd", "step").scheduler_step == "epoch"
    assert make_trainer(None).scheduler_step == "batch"


class Witness(Callback):
    """Writes down its calls."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def on_fit_start(self, trainer: Trainer) -> None:
        self.calls.append("fit")

    def on_epoch_start(self, trainer: Trainer) -> None:
        self.calls.append(("epoch", trainer.state.epoch))

    def on_batch_end(self, trainer: Trainer) -> None:
        self.calls.append(trainer.state.batch)

    def on_epoch_end(self, trainer: Trainer, record: EpochRecord) -> None:
        self.calls.append(record.epoch)

    def on_fit_end(self, trainer: Trainer) -> None:
        self.calls.append("end")


def test_callbacks_in_order() -> None:
    witness = Witness()
    trainer = make_trainer(None, callbacks=[witness])
    trainer.fit(loaders()[0], epochs=2)
    assert witness.calls == [
        "fit", ("epoch", 0), 1, 2, 3, 4, 1, ("epoch", 1), 1, 2, 3, 4, 2, "end",
    ]  # fmt: skip


def test_callbacks_hear_of_the_end_after_an_error() -> None:
    class Failing(Callback):
        def on_batch_end(self, trainer: Trainer) -> None:
            raise KeyError("mine")

    witness = Witness()
    trainer = make_trainer(None, callbacks=[witness, Failing()])
    with pytest.raises(KeyError, match="mine"):
        trainer.fit(loaders()[0], epochs=1)
    assert witness.calls == ["fit", ("epoch", 0), 1, "end"]


def test_a_diverged_training_ends(tmp_path: Path) -> None:
    model = linear()
    trainer = Trainer(
        model,
        optim.SGD(model.parameters(), 0.5),
        loss=lambda outputs, labels: F.cross_entropy(outputs, labels) * float("inf"),
        callbacks=[StopWhenDiverged()],
        checkpoint_dir=tmp_path,
    )
    with pytest.raises(
        RuntimeError,
        match=r"^fit: the loss became (nan|inf) in epoch 1; try a lower learning rate than 0\.5$",
    ):
        trainer.fit(loaders()[0], epochs=3)
    assert not list(tmp_path.iterdir())


def test_history_in_csv(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "history.csv"
    trainer = make_trainer(None, callbacks=[HistoryCsv(path)])
    history = trainer.fit(loaders()[0], epochs=2)
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    assert [float(row["loss"]) for row in rows] == [record.loss for record in history]
    assert rows[0]["validation_loss"] == ""
    assert [file.name for file in path.parent.iterdir()] == ["history.csv"]


def test_plain_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpucnn.training.display._PLAIN_SECONDS", 0.0)
    stream = io.StringIO()
    train, validation = loaders()
    trainer = make_trainer(None, callbacks=[ProgressDisplay(stream)])
    trainer.fit(train, validation, epochs=2)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2 * (BATCHES + 1)
    batch = r"epoch 1/2  25%  loss \d\.\d{4}  accuracy +\d+\.\d\d%  [\d,]+ images/s  \d+ s left"
    assert re.fullmatch(batch, lines[0])
    epoch = r"epoch 1/2  loss .*%  validation loss .*%  [\d,]+ images/s  \d+\.\d s  \d+ s left"
    assert re.fullmatch(epoch, lines[BATCHES])
    assert not lines[-1].endswith("left")


def test_live_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpucnn.training.display._LIVE_SECONDS", 0.0)
    stream = io.StringIO()
    trainer = make_trainer(None, callbacks=[ProgressDisplay(stream, live=True)])
    trainer.fit(loaders()[0], epochs=2)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    assert re.search(r"epoch 2/2  loss \d\.\d{4}  accuracy +\d+\.\d\d%  [\d,]+ images/s", plain)
    assert "\x1b[?25h" in stream.getvalue()  # the cursor is shown again


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheduler_step": "day"}, "scheduler_step must be 'batch' or 'epoch', got 'day'"),
        ({"max_norm": 0.0}, "max_norm must be positive, got 0.0"),
        ({"checkpoint_seconds": -1.0}, "checkpoint_seconds must be at least 0, got -1.0"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^Trainer: {message}$"):
        make_trainer(None, **options)


@pytest.mark.parametrize("epochs", [0, -1, 2.0, True])
def test_wrong_epochs(epochs: Any) -> None:
    with pytest.raises(ValueError, match="fit: epochs must be a positive integer, got"):
        make_trainer(None).fit(loaders()[0], epochs=epochs)


def test_loaders_that_do_not_fit() -> None:
    class Short(list[Any]):
        def __len__(self) -> int:
            return 5

    trainer = make_trainer(None, scheduler="")
    with pytest.raises(ValueError, match="fit: the training loader has no batches"):
        trainer.fit(DataLoader(dataset(), 100, drop_last=True), epochs=1)
    with pytest.raises(ValueError, match="the training loader gave 4 batches, its length says 5"):
        trainer.fit(Short(loaders()[0]), epochs=1)
    with pytest.raises(ValueError, match="evaluate: the loader gave no batch"):
        trainer.evaluate([])
    with pytest.raises(ValueError, match=r"ConfusionMatrix: outputs must be \(N, 4\), got"):
        evaluate(linear(), loaders()[1], metrics=[ConfusionMatrix(4)])
