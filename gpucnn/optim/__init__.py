"""Optimizers and learning rate schedules, with the names and meanings of torch.optim."""

from gpucnn.optim import lr_scheduler
from gpucnn.optim.adam import Adam, AdamW
from gpucnn.optim.grad_scaler import GradScaler
from gpucnn.optim.optimizer import Optimizer
from gpucnn.optim.sgd import SGD

__all__ = ["Adam", "AdamW", "GradScaler", "Optimizer", "SGD", "lr_scheduler"]
