"""Training loops: the Trainer, its metrics, callbacks and checkpoints, and recipes that work."""

from __future__ import annotations

from .callbacks import Callback, HistoryCsv, StopWhenDiverged
from .checkpoints import CheckpointError
from .display import ProgressDisplay
from .history import EpochRecord
from .metrics import ConfusionMatrix, Evaluation, RunningMetrics, evaluate
from .preprocessing import Preprocessing
from .recipes import RECIPES, Recipe
from .state import State
from .trainer import Trainer

__all__ = [
    "RECIPES",
    "Callback",
    "CheckpointError",
    "ConfusionMatrix",
    "EpochRecord",
    "Evaluation",
    "HistoryCsv",
    "Preprocessing",
    "ProgressDisplay",
    "Recipe",
    "RunningMetrics",
    "State",
    "StopWhenDiverged",
    "Trainer",
    "evaluate",
]
