"""Files too large for SQL, such as a policy's weights: named by their content, written whole or not at all."""

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load, save
from torch import Tensor

from flowscout.db import ArtefactRecord
from flowscout.errors import WorkError


class ArtefactStore:
    """A folder of safetensors files, each named by its sha256."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, tensors: Mapping[str, Tensor], *, kind: str) -> ArtefactRecord:
        """Store named tensors and return the record of the file. The same content is stored once."""
        content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        digest = hashlib.sha256(content).hexdigest()
        path = self._path(digest)
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.folder, delete=False) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(file.name).replace(path)
        return ArtefactRecord(digest, kind, len(content))

    def get(self, record: ArtefactRecord) -> dict[str, Tensor]:
        """Return the tensors of a stored file.

        Raises:
            WorkError: the file is gone or is not what was stored.
        """
        path = self._path(record.sha256)
        content = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(content).hexdigest() != record.sha256:
            raise WorkError(
                f"the {record.kind} file {str(path)!r} is missing or damaged; put it back from a backup: it "
                "belongs to the history beside it."
            )
        return load(content)

    def _path(self, sha256: str) -> Path:
        return self.folder / f"{sha256}.safetensors"
