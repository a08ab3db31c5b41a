"""Every ``bash`` block of the README and the guides is executed."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    pytest.param(page, block, id=f"{page.name}-{i}")
    for page in PAGES
    if page.exists()
    for i, block in enumerate(re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.M | re.S))
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """One scratch home for all pages: a guide may build on the step before."""
    return tmp_path_factory.mktemp("home")


@pytest.mark.parametrize(("page", "block"), BLOCKS)
@pytest.mark.xdist_group("docs")
def test_block_runs(page, block, home):
    path = f"{ROOT / '.venv/bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=ROOT,
        env={**os.environ, "DUETTO_HOME": str(home), "PATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{page.name}:\n{block}\n{done.stdout}\n{done.stderr}"
