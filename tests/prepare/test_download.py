"""prepare --download: archives from a local server, whole and broken ones."""

import functools
import hashlib
import http.server
import io
import threading
import zipfile

import pytest
from raw_files import message

from recbole_diffusion.cli import main
from recbole_diffusion.errors import UsageError
from recbole_diffusion.prepare.archives import archive_url, download

quiet_download = functools.partial(download, show_progress=False, timeout=5)


def zipped(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


INTER = "user_id:token\titem_id:token\n1\t2\n"
GOOD = zipped(
    **{
        "Theirs/Theirs.inter": INTER,
        "Theirs/Theirs.train.inter": "train",
        "Theirs/other.item": "items",
        "Theirs/read me.txt": "left out",
        "__MACOSX/._Theirs.inter": "left out",
    }
)
FILES = {
    "/Theirs.zip": GOOD,
    "/cut.zip": GOOD,
    "/page.zip": b"<html>Access Denied</html>",
    "/up.zip": zipped(**{"../escaped.inter": INTER}),
    "/absolute.zip": zipped(**{"/escaped.inter": INTER}),
    "/backslash.zip": zipped(**{"..\\escaped.inter": INTER}),
    "/empty.zip": zipped(**{"readme.txt": ""}),
    "/twice.zip": zipped(**{"a/x.inter": INTER, "b/x.inter": INTER}),
    "/broken.zip": GOOD.replace(INTER.encode(), INTER.encode().replace(b"1", b"9")),
}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = FILES.get(self.path)
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", len(body))
        self.end_headers()
        self.wfile.write(body[:50] if self.path == "/cut.zip" else body)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.fixture
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


pytestmark = pytest.mark.usefixtures("no_proxy")


def test_download_renames_the_atomic_files(tmp_path, server):
    checksum = hashlib.sha256(GOOD).hexdigest().upper()
    paths = quiet_download("mine", tmp_path / "new", f"{server}/Theirs.zip", sha256=checksum)
    assert sorted(path.name for path in paths) == ["mine.inter", "mine.item", "mine.train.inter"]
    assert all(path.parent == tmp_path / "new" / "mine" and path.is_file() for path in paths)
    assert (tmp_path / "new" / "mine" / "mine.inter").read_text() == INTER
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mine"], "no temporary folder is left"
    with pytest.raises(UsageError, match="--force"):
        quiet_download("mine", tmp_path / "new", f"{server}/Theirs.zip")
    quiet_download("mine", tmp_path / "new", f"{server}/Theirs.zip", force=True)


@pytest.mark.parametrize(
    "path, expected",
    [
        ("cut.zip", rf"only 50 of {len(GOOD)} bytes arrived.*by hand.*prepare mine"),
        ("nothing.zip", "404.*by hand.*prepare mine"),
        ("page.zip", "not a zip archive"),
        ("broken.zip", "not a zip archive that can be read .*CRC"),
        ("up.zip", "outside its folder"),
        ("absolute.zip", "outside its folder"),
        ("backslash.zip", "outside its folder"),
        ("empty.zip", "holds no .inter file"),
        ("twice.zip", "more than one file for 'mine.inter'"),
    ],
)
def test_download_that_fails_changes_nothing(tmp_path, server, path, expected):
    out = tmp_path / "out"
    with pytest.raises(UsageError, match=expected) as error:
        quiet_download("mine", out, f"{server}/{path}")
    assert f"{server}/{path}" in message(error)
    assert list(out.iterdir()) == [] and list(tmp_path.rglob("escaped*")) == []


def test_download_with_a_link_in_the_archive(tmp_path, server, monkeypatch):
    link = zipfile.ZipInfo("x.inter")
    link.external_attr = 0o120777 << 16
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    monkeypatch.setitem(FILES, "/link.zip", file.getvalue())
    with pytest.raises(UsageError, match="outside its folder"):
        quiet_download("mine", tmp_path, f"{server}/link.zip")


def test_download_with_a_wrong_checksum(tmp_path, server):
    with pytest.raises(UsageError) as error:
        quiet_download("mine", tmp_path, f"{server}/Theirs.zip", sha256="00ff")
    assert "00ff is expected" in message(error) and hashlib.sha256(GOOD).hexdigest() in message(error)
    assert list(tmp_path.iterdir()) == []


def test_download_when_nobody_listens(tmp_path):
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as closed:
        port = closed.server_port
    with pytest.raises(UsageError, match="cannot be downloaded.*refused.*by hand") as error:
        quiet_download("mine", tmp_path, f"http://127.0.0.1:{port}/x.zip")
    assert str(tmp_path / "mine") in message(error)


def test_download_from_something_else_than_the_web(tmp_path):
    for url in (f"file://{tmp_path}/x.zip", "x.zip"):
        with pytest.raises(UsageError, match="must start with http"):
            quiet_download("mine", tmp_path, url)


def test_names_of_archives():
    assert archive_url("beauty").endswith("/Amazon_Beauty.zip")
    assert archive_url("toys").endswith("/Amazon_Toys_and_Games.zip")
    assert archive_url("sports").endswith("/Amazon_Sports_and_Outdoors.zip")
    assert archive_url("ml-1m").endswith("/ml-1m.zip")
    with pytest.raises(UsageError, match="no archive named 'beuty', did you mean 'beauty'"):
        archive_url("beuty")


def test_command_line_downloads(tmp_path, server, capsys):
    assert main(["prepare", "mine", "--download", f"--url={server}/Theirs.zip", f"--out={tmp_path}"]) == 0
    assert "mine.inter, mine.item, mine.train.inter" in capsys.readouterr().out
