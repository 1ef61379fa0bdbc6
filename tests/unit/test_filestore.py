"""Files named by their content, in folders and behind fsspec: whole or not at all, and never another's."""

import hashlib
import logging
import os
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import known_implementations

from flowscout.db import FileStore, check_place
from flowscout.db.filestore import file_name
from flowscout.errors import ConfigError, WorkError

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(params=["folder", "file", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Return a place for files, of each kind."""
    if request.param == "folder":
        return tmp_path / "files"
    return f"file://{tmp_path}/my%20files" if request.param == "file" else f"memory://{uuid.uuid4()}/files"


def put(place: Path | str, name: str, content: bytes) -> None:
    """Write a file past the store."""
    url = str(place).replace("%20", " ")
    with fsspec.open(f"{url}/{name}", "wb") as file:
        file.write(content)


def names(place: Path | str) -> list[str]:
    system, root = fsspec.url_to_fs(str(place).replace("%20", " "))
    return [Path(path).name for path in system.ls(root, detail=False)]


def test_what_is_written_is_read_and_is_there_once(place: Path | str) -> None:
    store = FileStore(place)
    assert store.look(SHA256) == "missing"
    assert store.write(CONTENT) == store.write(CONTENT) == SHA256
    assert FileStore(place).read(SHA256, kind="sampler") == CONTENT
    assert store.look(SHA256) is None
    assert names(place) == [file_name(SHA256)]


def test_what_is_damaged_is_never_returned_and_is_mended_by_who_writes_it_again(place: Path | str) -> None:
    store = FileStore(place)
    store.write(CONTENT)
    put(place, file_name(SHA256), CONTENT[:-1] + b"x")
    assert store.look(SHA256) == "damaged"
    with pytest.raises(WorkError, match=r"sampler file .*missing or damaged"):
        store.read(SHA256, kind="sampler")
    store.write(CONTENT)
    assert store.read(SHA256, kind="sampler") == CONTENT


def test_what_lay_elsewhere_before_is_found_and_new_files_go_to_the_first_place(
    place: Path | str, tmp_path: Path
) -> None:
    FileStore(tmp_path / "before").write(CONTENT)
    store = FileStore(place, tmp_path / "before")
    assert store.read(SHA256, kind="fit") == CONTENT
    other = store.write(b"other")
    assert names(place) == [file_name(other)]
    put(tmp_path / "before", file_name(other), b"damaged")
    assert store.look(other) is None


def test_a_move_that_breaks_off_leaves_no_file_of_that_name(monkeypatch: pytest.MonkeyPatch) -> None:
    place = f"memory://{uuid.uuid4()}"

    def broken(*_: Any, **__: Any) -> None:
        raise ConnectionError("the line went dead")

    with monkeypatch.context() as patched:
        patched.setattr(MemoryFileSystem, "mv", broken)
        with pytest.raises(WorkError, match=r"does not answer .ConnectionError: the line went dead"):
            FileStore(place, again_s=()).write(CONTENT)
    assert FileStore(place).look(SHA256) == "missing"
    assert [name.endswith(".part") for name in names(place)] == [True]


def test_a_store_that_moves_no_file_onto_another_has_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    place = f"memory://{uuid.uuid4()}"

    def second(self: MemoryFileSystem, one: str, other: str) -> None:
        self.pipe_file(other, CONTENT)  # another writer was faster
        raise FileExistsError(other)

    monkeypatch.setattr(MemoryFileSystem, "mv", second)
    FileStore(place).write(CONTENT)
    assert names(place) == [file_name(SHA256)]


def test_a_store_that_is_away_for_a_moment_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place = f"memory://{uuid.uuid4()}"
    FileStore(place).write(CONTENT)
    answers, real = [ConnectionError("refused"), PermissionError("not now")], MemoryFileSystem.cat_file

    def away(self: MemoryFileSystem, path: str) -> bytes:
        if answers:
            raise answers.pop(0)
        found: bytes = real(self, path)
        return found

    monkeypatch.setattr(MemoryFileSystem, "cat_file", away)
    with caplog.at_level(logging.WARNING):
        assert FileStore(place, again_s=(0.0, 0.0)).read(SHA256, kind="fit") == CONTENT
    assert [record.message.partition("(")[2].partition(")")[0] for record in caplog.records] == [
        "ConnectionError: refused",
        "PermissionError: not now",
    ]


def test_a_bucket_that_is_not_there_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def absent(self: MemoryFileSystem, path: str, value: bytes) -> None:
        raise FileNotFoundError(path)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", absent)
    monkeypatch.setattr(MemoryFileSystem, "mkdir", lambda self, path, create_parents: made.append(path))
    with pytest.raises(WorkError, match=r"does not answer .FileNotFoundError"):
        FileStore("memory://bucket", again_s=()).write(CONTENT)
    assert made == []


WRITE = """\
import sys
from pathlib import Path
from flowscout.db import FileStore

store = FileStore(Path(sys.argv[1]))
for _ in range(15):
    for letter in b"abcdef":
        store.write(bytes([letter]) * 300_000)
print("done")
"""


def test_writers_of_several_processes_and_a_reader_meet_no_half_file(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITE, str(tmp_path / "files")], stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    wanted = {hashlib.sha256(bytes([letter]) * 300_000).hexdigest() for letter in b"abcdef"}
    store, met = FileStore(tmp_path / "files"), set()
    while any(writer.poll() is None for writer in writers):
        met |= {store.look(sha256) for sha256 in wanted}
    assert [writer.communicate()[0] for writer in writers] == [b"done\n"] * 3
    assert met <= {None, "missing"}
    assert set(names(tmp_path / "files")) == {file_name(sha256) for sha256 in wanted}


def test_threads_that_write_the_same_file_to_a_url_leave_one() -> None:
    place = f"memory://{uuid.uuid4()}"
    threads = [threading.Thread(target=FileStore(place).write, args=(CONTENT,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names(place) == [file_name(SHA256)]


def test_another_user_may_read_what_is_written(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        FileStore(tmp_path).write(CONTENT)
    finally:
        os.umask(before)
    assert (tmp_path / file_name(SHA256)).stat().st_mode & 0o777 == 0o644


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(WorkError, match=r"folder of artefacts .*file' cannot be used"):
        FileStore(tmp_path / "file").write(CONTENT)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("/data/files", "expected the URL of a store"),
        ("files", "expected the URL of a store"),
        ("s4://bucket/prefix", "fsspec knows no 's4'"),
        ("sftp://me:secret@host/folder", "URL with a password"),
    ],
)
def test_what_is_no_url_of_a_store_is_refused(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        check_place(url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("url", ["s3://bucket/prefix", "gs://bucket", "sftp://me@host/folder", "file:///data"])
def test_a_url_is_right_whether_or_not_its_package_is_here(url: str) -> None:
    check_place(url)


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {"class": "no_such_package.Files", "err": "Install no_such_package to access it"}
    monkeypatch.setitem(known_implementations, "missing", missing)
    with pytest.raises(ConfigError, match=r"not installed here .Install no_such_package"):
        FileStore("missing://bucket/prefix").write(CONTENT)
