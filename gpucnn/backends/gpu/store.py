"""A folder of results that took long, each under the hash of all that decides about it.

What NVRTC and the disassembler say of a source depends on the source, the options and their
versions alone, so a result is right for ever and nothing is ever invalidated: another source is
another name. Several processes may read and write at the same time: a file is written under a
temporary name and renamed. A folder that cannot be written, or a damaged file, costs the work
anew and is no error.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

LIMIT = 512 * 2**20
"""Bytes of results that are kept; beyond it the least recently used half goes."""


def folder() -> Path:
    """`$GPUCNN_CACHE_DIR`, else `gpucnn/kernels` in `$XDG_CACHE_HOME` or `~/.cache`."""
    own = os.environ.get("GPUCNN_CACHE_DIR")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else _home() / ".cache") / "gpucnn" / "kernels"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # an account without one
        return Path(os.devnull)


def key(*parts: str | bytes) -> str:
    """The name of the result that these parts decide."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


class Store:
    """Results in `place`, which is made at the first write.

    Attributes:
        hits: results found so far.
        misses: those that were not there.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.hits = self.misses = 0
        self._pruned = False

    def get(self, name: str) -> bytes | None:
        """The result of a key, or None where there is none that can be read whole."""
        path = self._path(name)
        try:
            data = zlib.decompress(path.read_bytes())
        except (OSError, zlib.error):
            self.misses += 1
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # what is used stays
        self.hits += 1
        return data

    def put(self, name: str, data: bytes) -> None:
        """Keep a result, if the folder can be written."""
        path = self._path(name)
        part = path.with_name(f".{name}.{os.getpid()}-{secrets.token_hex(4)}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(zlib.compress(data, 1))
            os.replace(part, path)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            return
        if not self._pruned:
            self._pruned = True
            self.prune()

    def prune(self, limit: int = LIMIT) -> None:
        """Delete the least recently used files where there are more than `limit` bytes."""
        files: list[tuple[float, int, Path]] = []
        for path in _files(self.place):
            with contextlib.suppress(OSError):  # another process may be pruning too
                status = path.stat()
                files.append((status.st_mtime, status.st_size, path))
        left = sum(size for _, size, _ in files)
        if left <= limit:
            return
        for _, size, path in sorted(files, key=lambda file: file[0]):
            if left <= limit // 2:
                return
            with contextlib.suppress(OSError):
                path.unlink()
            left -= size

    def _path(self, name: str) -> Path:
        return self.place / name[:2] / name


def _files(place: Path) -> Sequence[Path]:
    try:
        return [path for path in place.glob("??/*") if path.is_file()]
    except OSError:
        return []


@cache
def _store_at(place: Path) -> Store:
    return Store(place)


def store() -> Store:
    """That of `folder()`: asked anew at each call, because tests and tools move it."""
    return _store_at(folder())


def problem() -> str | None:
    """Why nothing can be kept, in one sentence, or None."""
    place = folder()
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"{place} cannot be made: {error.strerror or error}"
    return None if os.access(place, os.W_OK) else f"{place} cannot be written"
