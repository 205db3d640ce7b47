"""Fetching a known file from the first mirror that delivers it, byte for byte."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .errors import DownloadError

TIMEOUT = 30.0  # seconds without a byte before the next mirror is tried
_PIECE = 1 << 18


@dataclass(frozen=True)
class RemoteFile:
    """A file known by its size in bytes and SHA-256, and the addresses it can be had from."""

    name: str
    size: int
    sha256: str
    mirrors: tuple[str, ...]


def cache_folder() -> Path:
    """Where downloads are kept: `$GPUCNN_CACHE`, else `gpucnn` under `$XDG_CACHE_HOME`, else
    `~/.cache/gpucnn`."""
    own = os.environ.get("GPUCNN_CACHE")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "gpucnn"


def fetch(remote: RemoteFile, folder: Path, *, timeout: float = TIMEOUT) -> Path:
    """Downloads a file into `folder`, unless it is there already.

    It is written under a temporary name and renamed when size and checksum are right, so that a
    file that is there is whole, whatever happened to earlier attempts.

    Args:
        remote: the file.
        folder: where to; made if needed.
        timeout: seconds a mirror may stay silent.

    Returns:
        The path of the file.

    Raises:
        DownloadError: no mirror delivered it, or the folder cannot be written.
    """
    import tempfile

    path = folder / remote.name
    if path.is_file():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(".part", remote.name + ".", folder)
    except OSError as error:
        raise DownloadError(f"{folder}: cannot be written: {error.strerror or error}") from error
    os.close(handle)
    part = Path(name)
    failures = []
    try:
        for url in remote.mirrors:
            reason = _receive(url, remote, part, timeout)
            if reason is None:
                part.chmod(0o644)  # mkstemp made it readable for its owner alone
                os.replace(part, path)
                return path
            failures.append(f"{url}: {reason}")
    finally:
        part.unlink(missing_ok=True)
    tried = "".join(f"\n  {failure}" for failure in failures)
    raise DownloadError(
        f"{remote.name}: no mirror delivered it:{tried}\n"
        f"Get it by other means, put it into a folder and pass that folder: "
        f"--data DIR on the command line, root=DIR in Python."
    )


def _receive(url: str, remote: RemoteFile, part: Path, timeout: float) -> str | None:
    """Writes what `url` delivers to `part`; says what is wrong with it, None if nothing is."""
    import hashlib
    import http.client
    import urllib.request

    digest = hashlib.sha256()
    received = 0
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "gpucnn"})
        with (
            urllib.request.urlopen(request, timeout=timeout) as response,
            part.open("wb") as file,
            _progress(remote, url) as advance,
        ):
            while piece := response.read(_PIECE):
                received += len(piece)
                if received > remote.size:
                    return f"expected {remote.size} bytes, got more"
                digest.update(piece)
                file.write(piece)
                advance(len(piece))
    except (OSError, http.client.HTTPException, ValueError) as error:
        return str(getattr(error, "reason", "") or error) or type(error).__name__
    if received != remote.size:
        return f"expected {remote.size} bytes, got {received}"
    if digest.hexdigest() != remote.sha256:
        return f"expected sha256 {remote.sha256}, got {digest.hexdigest()}"
    return None


@contextmanager
def _progress(remote: RemoteFile, url: str) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, one plain line elsewhere; both on standard error."""
    import sys
    from urllib.parse import urlsplit

    host = urlsplit(url).netloc or url
    text = f"downloading {remote.name} from {host}"
    if not sys.stderr.isatty():
        print(f"{text} ({remote.size / 1e6:.1f} MB)", file=sys.stderr, flush=True)
        yield lambda size: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(text, total=remote.size)
        yield lambda size: progress.update(task, advance=size)
