"""The rules that let top-level folders be importable packages, and who may import whom."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("data", "pretrain", "sft", "eval", "release", "slurm")
SHARED = ("duetto",)
THIRD_PARTY = {"axolotl", "datasets", "datatrove", "lm_eval", "nanotron", "submitit", "tokenizers", "torch", "transformers", "trl", "wandb"}  # fmt: skip


def sources(*folders):
    return [p for f in folders for p in sorted((ROOT / f).rglob("*.py"))]


def imported(path):
    """Absolute module names a file imports, with whether the import stands at module level."""
    tree = ast.parse(path.read_text())
    top = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((a.name, id(node) in top, node) for a in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module, id(node) in top, node


def test_stages_do_not_import_each_other():
    for path in sources(*STAGES):
        own = path.relative_to(ROOT).parts[0]
        for module, _, node in imported(path):
            head = module.split(".")[0]
            allowed = {own} | ({"data"} if own == "pretrain" else set())
            assert head not in STAGES or head in allowed, f"{path}:{node.lineno} imports {module}"


def test_duetto_imports_no_stage_at_module_level():
    for path in sources("duetto"):
        for module, top, node in imported(path):
            assert not (top and module.split(".")[0] in STAGES), f"{path}:{node.lineno} imports {module}"


def test_eval_never_hides_the_builtin():
    for path in sources(*STAGES, *SHARED, "bench", "tests"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not any(a.name == "eval" or (a.name.startswith("eval.") and not a.asname) for a in node.names), (
                    path
                )


def test_no_module_is_named_like_the_standard_library_or_an_engine():
    for path in sources(*STAGES, *SHARED, "bench"):
        assert path.stem == "__init__" or path.stem == "__main__" or path.stem not in THIRD_PARTY | set(sys.stdlib_module_names), path  # fmt: skip


def test_every_make_target_is_phony():
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", text, re.M)[1]
    for target in re.findall(r"^([a-z][a-z-]*):", text, re.M):
        assert target in phony.split(), target
    assert "$(VERBS)" in phony


def test_every_make_verb_is_a_verb():
    from duetto.cli import VERBS

    named = re.search(r"^VERBS := (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
    assert set(named) == set(VERBS) - {"run"}


def test_gitignore_is_anchored_and_hides_no_source():
    for line in (ROOT / ".gitignore").read_text().split():
        assert line.startswith("/") or line in ("*.egg-info/", "__pycache__/"), line
    tracked = subprocess.run(["git", "check-ignore", *map(str, sources(*STAGES, *SHARED))], cwd=ROOT, capture_output=True, text=True)  # fmt: skip
    assert tracked.stdout == ""


def test_every_package_is_installed():
    text = (ROOT / "pyproject.toml").read_text()
    named = set(re.findall(r'"([a-z.]+)"', re.search(r"packages = \[(.*?)\]", text, re.S)[1]))
    found = {
        ".".join(p.parent.relative_to(ROOT).parts)
        for p in sources(*STAGES, *SHARED, "bench")
        if p.name == "__init__.py"
    }
    assert found == named


def test_verb_modules_import_no_engine():
    """A skipped stage costs what its import costs."""
    from duetto.cli import VERBS

    modules = sorted({v.module for v in VERBS.values() if (ROOT / (v.module.replace(".", "/") + ".py")).exists()})
    code = f"""
import importlib, sys
for m in {modules}:
    importlib.import_module(m)
    heavy = [x for x in ("torch", "transformers", "datatrove", "lm_eval", "axolotl", "nanotron", "gradio", "matplotlib.pyplot", "huggingface_hub") if x in sys.modules]
    assert not heavy, (m, heavy)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_configuration_key_has_a_comment(path):
    """A comment stands above, beside or first inside each top-level key, or above the block of keys it explains."""
    bare, explained = [], False
    lines = [*path.read_text().splitlines(), ""]
    for i, line in enumerate(lines):
        if not line.strip() or "#" in line:
            explained = "#" in line
        elif re.match(r"^[a-z_]+:", line) and not explained and not lines[i + 1].strip().startswith("#"):
            bare.append(f"{i + 1}: {line}")
    assert not bare
