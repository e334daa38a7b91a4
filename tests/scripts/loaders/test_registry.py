"""Where data files come from: sources in order, downloads from a local server, and failures."""

import gzip
import hashlib
import io
import socket
import stat
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from scripts.loaders import registry
from scripts.loaders.archive import DataError

CONTENT = b"0123456789" * 50
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PACKED = gzip.compress(CONTENT)


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.paths.append(self.path)
        status, body, missing, delay = self.server.answers[self.path]
        time.sleep(delay)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) + missing))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.paths, self.answers = [], {}

    def url(self, path, body=PACKED, status=200, missing=0, delay=0.0):
        """Answer ``path`` so, announcing ``missing`` bytes that are not sent; the address."""
        self.answers[path] = status, body, missing, delay
        return f"http://127.0.0.1:{self.server_port}{path}"


@pytest.fixture
def server():
    with _Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    """An empty data folder; no other source and no proxy."""
    monkeypatch.setattr(registry, "DATA_FOLDER", tmp_path / "data")
    monkeypatch.delenv("INFLUENCE_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "data"


@pytest.fixture
def closed():
    """An address at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    return f"http://127.0.0.1:{port}/digits.gz"


def remote(*urls, sha256=SHA256):
    return registry.RemoteFile("mnist/digits.gz", urls, sha256, max_bytes=1000)


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def put(folder, content=PACKED):
    path = folder / "mnist/digits.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def fails(data, file, problem):
    """One MissingError that says which file, what was wrong, and what to do; nothing is left."""
    with pytest.raises(registry.MissingError, match=problem) as caught:
        registry.fetch(file)
    message = str(caught.value)
    assert message.startswith(file.name)
    assert f"Put the file at {data / file.name}, or set INFLUENCE_DATA" in message
    assert all(url in message for url in file.urls)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert list(data.rglob("*")) == []


def test_a_download_is_stored_and_not_repeated(server, data):
    file = remote(server.url("/digits"))
    assert registry.fetch(file) == CONTENT
    assert files_in(data) == ["mnist/digits.gz"]
    assert not (data / ".partial").exists()
    server.paths.clear()
    assert registry.fetch(file) == CONTENT
    assert server.paths == []


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ({"body": gzip.compress(b"other")}, "wrong content"),
        ({"body": PACKED[:-20], "missing": 20}, "IncompleteRead"),
        ({"body": PACKED[:-20]}, "not a complete gzip file"),
        ({"body": b"<html>"}, "not a complete gzip file"),
        ({"body": gzip.compress(bytes(1001))}, "unpacks to more than the expected 1,000 bytes"),
        ({"status": 404}, "the server answers 404"),
        ({"status": 503}, "the server answers 503"),
    ],
)
def test_failed_downloads(server, data, answer, problem):
    fails(data, remote(server.url("/digits", **answer)), problem)


def test_an_interrupted_download_is_repeated_from_the_start(server, data):
    file = remote(server.url("/digits", PACKED[:30], missing=len(PACKED) - 30))
    fails(data, file, "IncompleteRead")
    server.url("/digits")
    assert registry.fetch(file) == CONTENT
    assert files_in(data) == ["mnist/digits.gz"]


def test_what_a_killed_download_left_is_removed(server, data):
    (data / ".partial").mkdir(parents=True)
    (data / ".partial/digits.gz").write_bytes(PACKED[:30])
    assert registry.fetch(remote(server.url("/digits"))) == CONTENT
    assert files_in(data) == ["mnist/digits.gz"]


def test_a_closed_port_is_unreachable(data, closed):
    fails(data, remote(closed), r"unreachable \(NewConnectionError\)")


def test_a_server_that_never_answers_is_given_up(data, monkeypatch):
    monkeypatch.setattr(registry, "ANSWER_SECONDS", 0.3)
    begin = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as listening:  # connects, and never reads
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        fails(data, remote(url), r"no answer in 0\.3 s|ReadTimeout")
    assert time.monotonic() - begin < 2


def test_all_addresses_share_the_patience_of_at_most_ten_seconds(data, monkeypatch):
    assert registry.ANSWER_SECONDS <= 10
    monkeypatch.setattr(registry, "ANSWER_SECONDS", 0.4)
    # Like a name service that hangs: the timeout of a connection does not end it.
    monkeypatch.setattr(registry, "_ask", lambda url: time.sleep(1.5))
    begin = time.monotonic()
    fails(data, remote(*(f"http://{i}.invalid/" for i in range(4))), r"no answer in 0\.4 s")
    assert time.monotonic() - begin < 1


def test_a_slow_first_address_has_the_whole_patience(server, monkeypatch):
    monkeypatch.setattr(registry, "ANSWER_SECONDS", 2.0)
    slow, gone = server.url("/slow", delay=1.3), server.url("/gone", status=404)
    assert registry.fetch(remote(slow, gone)) == CONTENT


@pytest.mark.parametrize("answer", [{"status": 404}, {"body": gzip.compress(b"other")}])
def test_a_bad_first_address_falls_over_to_the_second(server, data, answer):
    first, second = server.url("/first", **answer), server.url("/second")
    assert registry.fetch(remote(first, second)) == CONTENT
    assert files_in(data) == ["mnist/digits.gz"]


def test_the_first_address_is_preferred(server):
    first, second = server.url("/first"), server.url("/second", gzip.compress(b"other"))
    assert registry.fetch(remote(first, second)) == CONTENT
    assert server.paths.count("/second") <= 1  # only asked


def _zip(name="folder/table.csv", content=CONTENT, mode=stat.S_IFREG, flags=0):
    buffer = io.BytesIO()
    header = zipfile.ZipInfo(name)
    header.external_attr, header.compress_type = mode << 16, zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(header, content)
    archive = bytearray(buffer.getvalue())
    archive[6] |= flags
    archive[archive.index(b"PK\x01\x02") + 8] |= flags
    return bytes(archive)


def table(*urls):
    return registry.RemoteFile("table.zip", urls, SHA256, max_bytes=1000, member="table.csv")


def test_a_member_of_a_downloaded_archive(server, data):
    assert registry.fetch(table(server.url("/t", _zip()))) == CONTENT
    assert files_in(data) == ["table.zip"]


@pytest.mark.parametrize(
    ("archive", "problem"),
    [
        pytest.param(_zip("../table.csv"), "leaves its folder", id="parent"),
        pytest.param(_zip("/table.csv"), "leaves its folder", id="absolute"),
        pytest.param(_zip(mode=stat.S_IFLNK), "link", id="link"),
        pytest.param(_zip(content=bytes(5000)), "unpacks to more than", id="bomb"),
        pytest.param(_zip(flags=1), "not a complete archive", id="encrypted"),
        pytest.param(_zip("folder/other.csv"), "has no member table.csv", id="other-member"),
        pytest.param(_zip()[:60], "not a complete archive", id="truncated"),
    ],
)
def test_hostile_or_damaged_archives_over_http(server, data, tmp_path, archive, problem):
    fails(data, table(server.url("/t", archive)), problem)
    assert files_in(tmp_path) == []


def test_the_data_folder_comes_before_influence_data(data, tmp_path, monkeypatch):
    monkeypatch.setenv("INFLUENCE_DATA", str(tmp_path / "shared"))
    put(data)
    put(tmp_path / "shared", b"corrupt")
    assert registry.fetch(remote()) == CONTENT


def test_influence_data_comes_before_a_download(server, data, tmp_path, monkeypatch):
    monkeypatch.setenv("INFLUENCE_DATA", str(tmp_path / "shared"))
    put(tmp_path / "shared")
    assert registry.fetch(remote(server.url("/digits"))) == CONTENT
    assert server.paths == []
    assert not data.exists()


def test_a_file_that_influence_data_lacks_is_downloaded_to_the_data_folder(
    server, data, tmp_path, monkeypatch
):
    monkeypatch.setenv("INFLUENCE_DATA", str(tmp_path / "shared"))
    assert registry.fetch(remote(server.url("/digits"))) == CONTENT
    assert files_in(tmp_path) == ["data/mnist/digits.gz"]


@pytest.mark.parametrize("folder", ["data", "shared"])
@pytest.mark.parametrize(
    "content",
    [b"corrupt", gzip.compress(b"other"), PACKED[:-4]],
    ids=["no-gzip", "other-content", "truncated"],
)
@pytest.mark.parametrize("choice", ["auto", "real"])
def test_a_corrupt_file_is_an_error_never_a_stand_in(
    server, tmp_path, monkeypatch, folder, content, choice
):
    monkeypatch.setenv("INFLUENCE_DATA", str(tmp_path / "shared"))
    path = put(tmp_path / folder, content)
    with pytest.raises(DataError, match="delete it") as caught:
        registry.load(choice, {"x": remote(server.url("/digits"))}, lambda: {"x": b"s"})
    assert not isinstance(caught.value, registry.MissingError)
    assert str(path) in str(caught.value)
    assert server.paths == []
    assert path.read_bytes() == content


def test_auto_says_that_it_falls_to_the_stand_in(closed, capsys):
    contents, provenance = registry.load("auto", {"x": remote(closed)}, lambda: {"x": b"s"})
    printed = capsys.readouterr().out
    assert "STAND-IN" in printed
    assert "mnist/digits.gz" in printed
    assert contents == {"x": b"s"}
    assert provenance.data == "stand-in"
    assert provenance.sha256 == {"stand-in/x": hashlib.sha256(b"s").hexdigest()}


def test_real_never_falls_to_the_stand_in(closed, capsys):
    with pytest.raises(registry.MissingError, match=r"mnist/digits\.gz"):
        registry.load("real", {"x": remote(closed)}, lambda: {"x": b"s"})
    assert "STAND-IN" not in capsys.readouterr().out


def test_a_stand_in_as_asked_for_is_said_and_touches_no_file(server, data, capsys):
    put(data)
    file = remote(server.url("/digits"))
    contents, provenance = registry.load("stand-in", {"x": file}, lambda: {"x": b"s"})
    assert "STAND-IN" in capsys.readouterr().out
    assert (contents, provenance.data, server.paths) == ({"x": b"s"}, "stand-in", [])


@pytest.mark.parametrize("choice", ["auto", "real"])
def test_real_data_is_said_to_be_the_paper_s(data, choice, capsys):
    put(data)
    contents, provenance = registry.load(choice, {"x": remote()}, lambda: {"x": b"s"})
    assert contents == {"x": CONTENT}
    assert provenance == registry.Provenance("paper", {"mnist/digits.gz": SHA256})
    assert "STAND-IN" not in capsys.readouterr().out


@pytest.mark.parametrize("choice", ["", "Real", "standin", None])
def test_an_unknown_choice_is_refused(choice):
    with pytest.raises(ValueError, match="auto"):
        registry.load(choice, {}, dict)
