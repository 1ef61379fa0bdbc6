"""Files named by the sha256 of their content: in a folder of this machine, or at any URL that fsspec knows.

What the files hold belongs in `loop.artefacts`.
"""

import hashlib
import logging
import os
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import unquote, urlsplit

from flowscout.db.timings import ARTEFACTS_AGAIN_S
from flowscout.errors import ConfigError, WorkError

logger = logging.getLogger(__name__)

Place = Path | str
"""A folder, or a URL."""
T = TypeVar("T")


class FileStore:
    """Files that are written once and never changed; two that write the same one write the same.

    A name is there with all of its content or not at all, and what is read is what was stored. New files go to
    the first place; the others, where earlier ones may lie, are only read.
    """

    def __init__(self, place: Place, *others: Place, again_s: Sequence[float] = ARTEFACTS_AGAIN_S) -> None:
        """Open nothing yet. A URL that does not answer is asked again after each pause of `again_s`."""
        self.place, self._again_s = place, again_s
        self._places = [_Folder(one) if isinstance(one, Path) else _place(one) for one in (place, *others)]

    def write(self, content: bytes) -> str:
        """Store `content` and return its sha256. What is there already is looked at, and mended if damaged.

        Raises:
            ConfigError: the URL names a kind of store that is not known or not installed.
            WorkError: the store does not take it.
        """
        sha256 = hashlib.sha256(content).hexdigest()
        place, name = self._places[0], file_name(sha256)
        if self._answer(place, lambda: place.read(name)) != content:
            self._answer(place, lambda: place.write(name, content))
        return sha256

    def read(self, sha256: str, *, kind: str) -> bytes:
        """Return the content of a file; `kind` is what an error calls it.

        Raises:
            WorkError: it is missing or damaged, or the store does not answer.
        """
        content, _ = self._find(sha256)
        if content is None:
            raise WorkError(
                f"the {kind} file {self.path(sha256)!r} is missing or damaged. Put it back from a backup: it "
                "belongs to the history. If it was made on another machine, set `artefacts` in the campaign file "
                "to a store that all machines reach."
            )
        return content

    def look(self, sha256: str) -> Literal["missing", "damaged"] | None:
        """Return what is wrong with a file, None if nothing is."""
        content, damaged = self._find(sha256)
        return None if content is not None else "damaged" if damaged else "missing"

    def path(self, sha256: str) -> str:
        """Return where a file belongs, as a person is told."""
        return f"{str(self.place).rstrip('/')}/{file_name(sha256)}"

    def _find(self, sha256: str) -> tuple[bytes | None, bool]:
        """Return a file's content, None if it is nowhere; and whether a damaged one was met."""
        damaged = False
        for place in self._places:
            content = self._answer(place, lambda place=place: place.read(file_name(sha256)))  # type: ignore[misc]
            if content is not None and hashlib.sha256(content).hexdigest() == sha256:
                return content, damaged
            damaged = damaged or content is not None
        return None, damaged

    def _answer(self, place: "_Folder | _Url", ask: Callable[[], T]) -> T:
        """Return what a place answers; one that does not is asked again for a while."""
        if isinstance(place, _Folder):
            return _of_folder(place, ask)
        for pause_s in (*self._again_s, None):
            try:
                return ask()
            except ConfigError:
                raise
            except Exception as error:  # each kind of store raises errors of its own
                said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                if pause_s is None:
                    raise WorkError(
                        f"the store of artefacts {place.url!r} does not answer ({said}), expected one that "
                        "takes and gives files. Look whether it is there and this machine may use it; nothing is "
                        "lost, and the same command goes on where it was."
                    ) from error
                logger.warning(
                    "the store of artefacts %r did not answer (%s); again in %g s", place.url, said, pause_s
                )
                time.sleep(pause_s)
        raise AssertionError("the last try returns or raises")


def store_of(place: FileStore | Path) -> FileStore:
    """Return a store, or that of a folder."""
    return FileStore(place) if isinstance(place, Path) else place


def file_name(sha256: str) -> str:
    """Return the name of the file with this content."""
    return f"{sha256}.safetensors"


def check_place(url: str) -> None:
    """Refuse what is no URL of a store, or holds a password. Nothing is asked or imported of the store.

    Raises:
        ConfigError: it is.
    """
    protocol = url.partition("://")[0].rpartition("::")[2]
    if not protocol or "://" not in url:
        raise ConfigError(
            f"artefacts is {url!r}, expected the URL of a store that all machines reach, such as "
            "s3://BUCKET/FOLDER or file:///FOLDER; without the key they lie beside the database"
        )
    if "@" in urlsplit(url).netloc and ":" in urlsplit(url).netloc.rpartition("@")[0]:
        raise ConfigError(
            f"artefacts is a {protocol}:// URL with a password, expected one without: the campaign file is kept "
            "in the history. Give the password as the store's own settings and environment variables take it"
        )
    from fsspec.registry import known_implementations, registry

    if protocol not in known_implementations and protocol not in registry:
        raise ConfigError(
            f"artefacts is {url!r}, and fsspec knows no {protocol!r}, expected a store such as s3, gs, abfs, sftp "
            "or file; correct it, or install the package that brings it"
        )


class _Folder:
    """A folder of this machine, or of a disk that machines share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, name: str) -> bytes | None:
        try:
            return (self.folder / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, content: bytes) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / _part(name)
        try:
            # Not by way of tempfile, whose files nobody else may read: another user may share the folder.
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.folder / name)
        finally:
            temporary.unlink(missing_ok=True)


class _Url:
    """A store behind fsspec, opened when it is first asked."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._opened: tuple[Any, str] | None = None

    def read(self, name: str) -> bytes | None:
        system, root = self._open()
        try:
            content: bytes = system.cat_file(f"{root}/{name}")
        except FileNotFoundError:
            return None
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write under another name, then move: a file that was cut off never has the name of a whole one."""
        system, root = self._open()
        temporary, path = f"{root}/{_part(name)}", f"{root}/{name}"
        try:
            system.pipe_file(temporary, content)
        except FileNotFoundError:
            if "/" not in root.strip("/"):
                raise  # a bucket, which nobody makes by the way
            system.mkdir(root, create_parents=False)
            system.pipe_file(temporary, content)
        try:
            system.mv(temporary, path)
        except Exception:
            if self.read(name) != content:  # else another was first, where a file is not moved onto another
                raise
            system.rm(temporary)

    def _open(self) -> tuple[Any, str]:
        if self._opened is None:
            check_place(self.url)
            from fsspec.core import url_to_fs

            try:
                system, root = url_to_fs(self.url)
            except ImportError as error:
                raise ConfigError(
                    f"artefacts is {self.url!r}, and its package is not installed here ({error}). Install it "
                    "with pip in this environment."
                ) from error
            self._opened = system, root.rstrip("/")
        return self._opened


def _place(url: str) -> _Folder | _Url:
    """Return the place that a URL names. One of file:// is a folder, which flushes what it writes."""
    if url.startswith("file://"):
        return _Folder(Path(unquote(urlsplit(url).path)))
    return _Url(url)


def _part(name: str) -> str:
    return f".{name}.{secrets.token_hex(8)}.part"


def _of_folder(place: _Folder, ask: Callable[[], T]) -> T:
    try:
        return ask()
    except OSError as error:
        raise WorkError(
            f"the folder of artefacts {str(place.folder)!r} cannot be used ({error.strerror}), expected one to "
            "read and write. Make room or mend its permissions; nothing is lost, and the same command goes on "
            "where it was."
        ) from error
