"""Which source files of the standard library are kept for validation, and so must stay out of training."""

import hashlib
from pathlib import Path

VALIDATION_SHARE = 16
"""One file in this many is for validation; the choice is by file name, so that it holds for any Python release."""

# Tests, packages of third parties and generated tables are no examples of code.
SKIPPED_FOLDERS = frozenset(
    ["test", "tests", "site-packages", "__pycache__", "idlelib", "lib2to3", "encodings", "pydoc_data", "turtledemo"]
)


def is_validation_file(path: str | Path) -> bool:
    """True for a file whose documents belong to validation, whatever folder the library lies in."""
    return int(hashlib.md5(Path(path).name.encode()).hexdigest(), 16) % VALIDATION_SHARE == 0


def source_files(library: Path) -> list[Path]:
    """Python files worth reading, in a stable order."""
    files = (f for f in library.rglob("*.py") if not SKIPPED_FOLDERS & set(f.relative_to(library).parts))
    return sorted(files, key=lambda f: f.relative_to(library).as_posix())
