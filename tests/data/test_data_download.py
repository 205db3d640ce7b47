"""Downloads: mirrors, checksums, and nothing left behind by a failure."""

from __future__ import annotations

import hashlib
import http.server
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpucnn.data import DownloadError, cache_folder
from gpucnn.data.cifar import REMOTE
from gpucnn.data.download import RemoteFile, fetch
from gpucnn.data.mnist import FASHION_MNIST, MNIST

CONTENT = bytes(range(256)) * 2000


class Handler(http.server.BaseHTTPRequestHandler):
    """/good, /short (less than announced), /long, /other (right size), /slow, else 404."""

    release = threading.Event()

    def do_GET(self) -> None:
        name = self.path.strip("/")
        bodies = {"good": CONTENT, "short": CONTENT[:-5], "long": CONTENT * 2}
        bodies["other"] = CONTENT[::-1]
        if name == "slow":
            self.release.wait(20)
            return
        if name not in bodies:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(max(len(CONTENT), len(bodies[name]))))
        self.end_headers()
        try:
            self.wfile.write(bodies[name])
        except (BrokenPipeError, ConnectionResetError):
            return  # the client has seen enough

    def log_message(self, format: str, *arguments: object) -> None:
        return


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "*")
    Handler.release.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        Handler.release.set()
        running.shutdown()
        thread.join()


def remote(*mirrors: str, content: bytes = CONTENT) -> RemoteFile:
    return RemoteFile("file.bin", len(content), hashlib.sha256(content).hexdigest(), mirrors)


def test_fetch(server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = fetch(remote(f"{server}/good"), tmp_path / "a" / "b")
    assert path == tmp_path / "a" / "b" / "file.bin"
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"downloading file.bin from {server[7:]} (0.5 MB)\n"


def test_progress_bar_on_a_terminal(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rich")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    fetch(remote(f"{server}/good"), tmp_path)
    out, err = capsys.readouterr()
    assert out == "" and "file.bin" in err


def test_next_mirror(server: str, tmp_path: Path) -> None:
    bad = [f"{server}/{name}" for name in ("nothing", "short", "long", "other")]
    local = tmp_path / "local.bin"
    local.write_bytes(CONTENT)
    assert fetch(remote(*bad, local.as_uri()), tmp_path / "to").read_bytes() == CONTENT
    assert [p.name for p in (tmp_path / "to").iterdir()] == ["file.bin"]


def test_all_mirrors_fail(server: str, tmp_path: Path) -> None:
    urls = [f"{server}/{name}" for name in ("nothing", "short", "long", "other")]
    urls += ["http://127.0.0.1:1/refused", (tmp_path / "missing").as_uri(), "no address"]
    with pytest.raises(DownloadError) as caught:
        fetch(remote(*urls), tmp_path / "to")
    text = str(caught.value)
    for url in urls:
        assert f"\n  {url}: " in text
    assert "expected 512000 bytes, got" in text
    assert "expected sha256" in text
    assert "--data DIR" in text and "root=DIR" in text
    assert list((tmp_path / "to").iterdir()) == []


def test_silent_mirror(server: str, tmp_path: Path) -> None:
    path = fetch(remote(f"{server}/slow", f"{server}/good"), tmp_path, timeout=0.2)
    assert path.read_bytes() == CONTENT


def test_interrupt_leaves_nothing(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gpucnn.data.download._receive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch(remote(f"{server}/good"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_present_file_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(b"here")
    assert fetch(remote(), tmp_path).read_bytes() == b"here"


def test_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DownloadError, match="cannot be written"):
        fetch(remote(), tmp_path / "file" / "sub")


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.delenv("GPUCNN_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "gpucnn"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "gpucnn"
    monkeypatch.setenv("GPUCNN_CACHE", "~/own")
    assert cache_folder() == tmp_path / "own"


def test_table_of_files() -> None:
    files = [*MNIST.files, *FASHION_MNIST.files, REMOTE]
    assert len({file.sha256 for file in files}) == len(files)
    for file in files:
        assert len(bytes.fromhex(file.sha256)) == 32 and file.size > 4000
        assert len(file.mirrors) >= 2
        assert all(url.endswith("/" + file.name) for url in file.mirrors)
