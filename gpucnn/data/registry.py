"""Data sets by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path

from . import cifar, mnist
from .dataset import Splits
from .digits import read_digits
from .download import cache_folder, fetch
from .errors import DataError, DownloadError


@dataclass(frozen=True)
class _Source:
    read: Callable[[Path], Splits]
    download: Callable[[Path], None]


def _download_mnist(family: mnist.Family, folder: Path) -> None:
    for remote in mnist.missing(folder, family):
        fetch(remote, folder)


def _mnist(family: mnist.Family) -> _Source:
    return _Source(partial(mnist.read_mnist, family=family), partial(_download_mnist, family))


_SOURCES = {
    "mnist": _mnist(mnist.MNIST),
    "fashion-mnist": _mnist(mnist.FASHION_MNIST),
    "cifar10": _Source(cifar.read_cifar10, cifar.download_cifar10),
}
NAMES = ("digits", *_SOURCES)


def load(name: str, root: str | PathLike[str] | None = None, download: bool = True) -> Splits:
    """Loads a data set.

    Args:
        name: one of `gpucnn.data.NAMES`; upper case, `_` and `-` do not matter.
        root: the folder that holds the files; nothing is downloaded then. Without it they are in
            the cache folder.
        download: fetch what the cache folder lacks.

    Returns:
        Splits with `train` and `test`.

    Raises:
        ValueError: no such data set, or `root` for the bundled digits.
        DataError: files are missing or damaged. DownloadError: they could not be fetched.
    """
    known = canonical_name(name)
    if known == "digits":
        if root is not None:
            raise ValueError(f"load: digits come with gpucnn, a data folder is not used: {root}")
        return read_digits()
    source = _SOURCES[known]
    if root is not None:
        return source.read(Path(root).expanduser())
    folder = cache_folder() / known
    if download:
        source.download(folder)
    try:
        return source.read(folder)
    except DownloadError:
        raise
    except DataError as error:
        advice = "delete it to have it downloaded again" if download else "download is off"
        raise DataError(f"{error} (cache folder; {advice})") from error


def canonical_name(name: str) -> str:
    """The listed name of a data set: `Fashion_MNIST` is `fashion-mnist`.

    Raises:
        ValueError: no such data set; lists the names, and the closest one first.
    """
    plain = {_plain(known): known for known in NAMES}
    if isinstance(name, str) and _plain(name) in plain:
        return plain[_plain(name)]
    import difflib

    close = difflib.get_close_matches(_plain(str(name)), plain, n=1)
    hint = f"; did you mean {plain[close[0]]!r}?" if close else ""
    raise ValueError(f"load: unknown data set {name!r}, expected one of {', '.join(NAMES)}{hint}")


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")
