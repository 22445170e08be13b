"""Downloads: from a server of the test's own, and what is said where one fails."""

from __future__ import annotations

import gc
import hashlib
import threading
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from simplicit.data.sources import download
from simplicit.errors import DataError

CONTENT = b"what was published"
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


class Answers(BaseHTTPRequestHandler):
    """One file that is there; all others are not."""

    def do_GET(self) -> None:
        there = self.path == "/there.bin"
        self.send_response(200 if there else 404)
        self.send_header("Content-Length", str(len(CONTENT) if there else 0))
        self.end_headers()
        self.wfile.write(CONTENT if there else b"")

    def log_message(self, *_: object) -> None:
        """Nothing is written to standard error."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server on this machine; caches are in the folder of the test."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pooch.os_cache", lambda project: tmp_path / project)
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()
    with warnings.catch_warnings():  # pooch leaves the socket of an answer that it refuses to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def test_a_file_is_fetched_once(server: str, tmp_path: Path) -> None:
    path = download(f"{server}/there.bin", MD5, name="digits", by_hand="it")
    assert path == tmp_path / "simplicit" / "digits" / "there.bin"
    assert path.read_bytes() == CONTENT
    assert download("http://127.0.0.1:9/there.bin", MD5, name="digits", by_hand="it") == path


@pytest.mark.parametrize(
    ("file", "md5", "told"),
    [
        ("there.bin", "0" * 32, "what came is not the published file, its MD5 sum is another one; nothing was kept"),
        ("gone.bin", MD5, "answered 404"),
    ],
)
def test_a_failed_download_is_one_line_with_its_remedy(
    server: str, tmp_path: Path, file: str, md5: str, told: str
) -> None:
    with pytest.raises(DataError) as caught:
        download(f"{server}/{file}", md5, name="pictures", by_hand="all four files")
    message = str(caught.value)
    assert message.startswith(f"pictures could not be downloaded ({file}: ")
    assert told in message
    assert message.endswith(
        "fetch all four files by hand and name the folder with --data-dir or SIMPLICIT_DATA, or use --data digits"
    )
    assert "\n" not in message
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_no_connection_is_said(server: str) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as closed:
        port = closed.server_port
    with pytest.raises(DataError, match=rf"\(there\.bin: no connection to 127\.0\.0\.1:{port}\)"):
        download(f"http://127.0.0.1:{port}/there.bin", MD5, name="pictures", by_hand="it")
