"""What is raised about data files, and how the message reads."""

from __future__ import annotations

from pathlib import Path


class DataError(ValueError):
    """A data file is missing, truncated, corrupt or not what its name says."""


class DownloadError(DataError):
    """No mirror delivered a file; the message lists each mirror with its reason."""


def corrupt(
    path: Path | str, offset: int, expected: str, found: str, *, unpacked: bool = False
) -> DataError:
    """The error for one place of one file.

    Args:
        path: the file.
        offset: the byte at which it stops being right, counted from 0.
        expected: what the format asks for there.
        found: what came.
        unpacked: `offset` counts the decompressed bytes of a gzip file.
    """
    where = f"byte {offset} after decompression" if unpacked else f"byte {offset}"
    return DataError(f"{path}: {where}: expected {expected}, found {found}")
