"""Tensors too large for SQL, such as a policy's weights, as files named by their content.

Where the files lie and how they are written belongs in `db.filestore`.
"""

import hashlib
from collections.abc import Mapping

from safetensors.torch import load, save
from torch import Tensor

from flowscout.db import ArtefactRecord, FileStore, Place


class ArtefactStore:
    """Named tensors in safetensors files, each named by its sha256: in a folder, or at an fsspec URL."""

    def __init__(self, place: Place, *others: Place) -> None:
        """Keep files at `place`; those that are not there are looked for at the `others`."""
        self.files = FileStore(place, *others)

    def put(self, tensors: Mapping[str, Tensor], *, kind: str) -> ArtefactRecord:
        """Store named tensors and return the record of the file. The same content is stored once.

        Raises:
            ConfigError: the store's kind is not known or not installed.
            WorkError: the store does not take it.
        """
        content = as_file(tensors)
        return ArtefactRecord(self.files.write(content), kind, len(content))

    def get(self, record: ArtefactRecord) -> dict[str, Tensor]:
        """Return the tensors of a stored file.

        Raises:
            WorkError: the file is gone or is not what was stored, or the store does not answer.
        """
        return load(self.files.read(record.sha256, kind=record.kind))


class ArtefactsInMemory(ArtefactStore):
    """A store that is read as it is and written in memory only."""

    def __init__(self, store: ArtefactStore) -> None:
        self.files = store.files
        self._made: dict[str, bytes] = {}

    def put(self, tensors: Mapping[str, Tensor], *, kind: str) -> ArtefactRecord:
        """Keep named tensors for as long as this store lives, and return the record of the file they would be."""
        content = as_file(tensors)
        sha256 = hashlib.sha256(content).hexdigest()
        self._made[sha256] = content
        return ArtefactRecord(sha256, kind, len(content))

    def get(self, record: ArtefactRecord) -> dict[str, Tensor]:
        """Return the tensors that were put here, or else those of the store."""
        made = self._made.get(record.sha256)
        return super().get(record) if made is None else load(made)


def as_file(tensors: Mapping[str, Tensor]) -> bytes:
    """Return the content of the file that holds named tensors."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
