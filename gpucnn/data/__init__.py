"""Data sets, transforms and the loader that turns them into batches of tensors."""

from __future__ import annotations

from .dataset import ArrayDataset, Splits
from .download import cache_folder
from .errors import DataError, DownloadError
from .idx import read_idx
from .loader import DataLoader, Dataset
from .registry import NAMES, canonical_name, load
from .transforms import Compose, Normalize, RandomCrop, RandomHorizontalFlip, Transform

__all__ = [
    "NAMES",
    "ArrayDataset",
    "Compose",
    "DataError",
    "DataLoader",
    "Dataset",
    "DownloadError",
    "Normalize",
    "RandomCrop",
    "RandomHorizontalFlip",
    "Splits",
    "Transform",
    "cache_folder",
    "canonical_name",
    "load",
    "read_idx",
]
