"""The 1,797 handwritten digits of 8 x 8 pixels that come with gpucnn (see bundled/ATTRIBUTION)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .dataset import ArrayDataset, Splits

# Of the training part, in units of the full value 16.
MEAN, STD = (0.3060,), (0.3766,)


def read_digits() -> Splits:
    """Reads the bundled digits: 1,297 for training and 500 for testing.

    Pixels are kept as the counts 0..16 they are; `maximum` says that 16 stands for 1.0. The test
    part is stratified by class, and its indices are stored with the data, so that it is the same
    for everyone for ever.
    """
    path = Path(__file__).parent / "bundled" / "digits.npz"
    with np.load(path, allow_pickle=False) as file:
        images, labels, test = file["images"], file["labels"], file["test"]
    whole = ArrayDataset(images[:, None], labels, tuple("0123456789"), MEAN, STD, maximum=16)
    train = np.delete(np.arange(len(whole)), test)
    return Splits("digits", whole[train], whole[test])
