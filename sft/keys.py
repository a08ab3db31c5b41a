"""The configuration keys that the installed Axolotl knows, read from its source without importing it.

Axolotl ignores a key it does not know; a misspelt ``lerning_rate`` would train at the default. Importing its schema
takes ten seconds, parsing the schema's files takes a tenth of one and cannot fall behind the installed version.
"""

import ast
import functools
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from duetto.errors import UserError


def _package() -> Path:
    spec = importlib.util.find_spec("axolotl")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("axolotl is not installed in this environment; run: make setup")
    return Path(spec.submodule_search_locations[0])


def _classes(files: Iterator[Path]) -> dict[str, tuple[list[str], set[str]]]:
    """Class name -> names of its bases, and its own fields with their aliases."""
    found: dict[str, tuple[list[str], set[str]]] = {}
    for file in files:
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                bases = [b.id for b in node.bases if isinstance(b, ast.Name)]
                found[node.name] = (bases, set(_fields(node)))
    return found


def _fields(node: ast.ClassDef) -> Iterator[str]:
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            yield item.target.id
            for keyword in (k for k in ast.walk(item) if isinstance(k, ast.keyword)):
                if keyword.arg in ("alias", "validation_alias"):
                    constants = (c.value for c in ast.walk(keyword.value) if isinstance(c, ast.Constant))
                    yield from (c for c in constants if isinstance(c, str))


@functools.cache
def _schemas() -> dict[str, tuple[list[str], set[str]]]:
    return _classes((_package() / "utils" / "schemas").rglob("*.py"))


def fields_of(name: str) -> set[str]:
    """Fields of one schema class and of all it inherits."""
    bases, own = _schemas().get(name, ([], set()))
    return own.union(*(fields_of(b) for b in bases))


@functools.cache
def top_level() -> frozenset[str]:
    """Keys of an Axolotl YAML, the plugins' own included."""
    plugins = _classes((_package() / "integrations").glob("*/args.py"))
    own = (fields for name, (_, fields) in plugins.items() if name.endswith("Args"))
    return frozenset(fields_of("AxolotlInputConfig").union(*own))


@functools.cache
def dataset() -> frozenset[str]:
    """Keys of one entry of ``datasets:``."""
    kinds = ("SFTDataset", "DPODataset", "KTODataset", "StepwiseSupervisedDataset", "SyntheticDataset")
    return frozenset(set().union(*(fields_of(k) for k in kinds)) | {"trust_remote_code"})


@functools.cache
def fsdp() -> frozenset[str]:
    return frozenset(fields_of("FSDPConfig"))
