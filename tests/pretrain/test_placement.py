"""checkpoints_path on another disk: a link in the run folder, and nothing lost."""

from pathlib import Path

import pytest

from duetto.errors import UserError
from duetto.recipe import ROOT, read_yaml, validate
from pretrain.config import PretrainConfig
from pretrain.placement import place, remove


def config(path: str | None) -> PretrainConfig:
    raw = read_yaml(ROOT / "configs" / "pretrain" / "demo.yaml")
    raw["checkpoints"]["checkpoints_path"] = path
    return validate(PretrainConfig, raw, "pretrain")


def test_default_needs_no_link(tmp_path: Path) -> None:
    place([config(None)], tmp_path)
    assert not (tmp_path / "pretrain" / "checkpoints").exists()


@pytest.mark.parametrize("where", ["checkpoints_zagreus_ita_v2", "{tmp}/scratch/c"])
def test_checkpoints_live_where_the_file_says(where: str, tmp_path: Path) -> None:
    run, where = tmp_path / "run", where.format(tmp=tmp_path)
    place([config(where)], run)
    expected = run / "pretrain" / "checkpoints"
    (expected / "100").mkdir()
    target = run / "pretrain" / where
    assert (target / "100").is_dir()
    place([config(where)], run)  # again: nothing changes
    with pytest.raises(UserError, match="already has checkpoints"):
        place([config("elsewhere")], run)
    (target / "notes").mkdir()
    remove(run)
    assert not expected.is_symlink() and not (target / "100").exists() and (target / "notes").is_dir()


def test_existing_checkpoints_are_not_hidden(tmp_path: Path) -> None:
    (tmp_path / "pretrain" / "checkpoints" / "100").mkdir(parents=True)
    with pytest.raises(UserError, match="already has checkpoints"):
        place([config("/scratch/c")], tmp_path)


def test_one_folder_for_all_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="share one"):
        place([config(None), config("other")], tmp_path)
