import errno
import json

import pytest

from duetto.errors import UserError
from duetto.files import atomic_write, files_under, read_json, sha256_json, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_beside(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), atomic_write(path) as f:
        f.write("half")
        raise RuntimeError
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_full_disk_is_one_line_that_says_what_to_free(tmp_path):
    path = tmp_path / "x.json"
    with pytest.raises(UserError, match="disk is full.*free some space"), atomic_write(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_torn_json_is_named(tmp_path):
    (tmp_path / "m.json").write_text('{"a": ')
    with pytest.raises(UserError, match=r"m\.json: not valid JSON"):
        read_json(tmp_path / "m.json")
    with pytest.raises(UserError, match="no such file"):
        read_json(tmp_path / "absent.json")


def test_hash_ignores_key_order_and_part_files_are_not_files(tmp_path):
    assert sha256_json({"a": 1, "b": 2}) == sha256_json({"b": 2, "a": 1})
    (tmp_path / "a.ds").write_text("x")
    (tmp_path / "b.part").write_text("x")
    assert [p.name for p in files_under(tmp_path)] == ["a.ds"]
