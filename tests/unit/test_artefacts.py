"""Artefacts are named by their content and are never taken for what they are not."""

from pathlib import Path

import pytest
import torch

from flowscout.errors import WorkError
from flowscout.loop.artefacts import ArtefactStore


def test_what_is_put_comes_back_to_the_last_bit_and_is_stored_once(tmp_path: Path) -> None:
    store = ArtefactStore(tmp_path / "files")
    tensors = {"a": torch.randn(3, 2, dtype=torch.float64), "n": torch.tensor(4)}
    record = store.put(tensors, kind="test")
    assert store.put(tensors, kind="test") == record
    found = store.get(record)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert [path.stem for path in (tmp_path / "files").iterdir()] == [record.sha256]


def test_a_damaged_or_missing_file_is_named(tmp_path: Path) -> None:
    store = ArtefactStore(tmp_path)
    record = store.put({"a": torch.zeros(2)}, kind="sampler")
    path = tmp_path / f"{record.sha256}.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(WorkError, match="sampler file"):
        store.get(record)
    path.unlink()
    with pytest.raises(WorkError, match="missing or damaged"):
        store.get(record)
