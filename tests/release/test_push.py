"""Push over HTTP with the real huggingface_hub client to a Hub on loopback."""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys

import pytest

from duetto.errors import UserError
from release import push
from tests.release.conftest import write_manifest


def arguments(**changed):
    return argparse.Namespace(
        **{"force": False, "public": False, "dry_run": False, "tag": None, "models": None, **changed}
    )


@pytest.fixture(autouse=True)
def sample_generation(request, monkeypatch):
    """Loads the model in a process of its own: once is enough here, the rest is in test_gates."""
    if "byte_identical" not in request.node.name:
        monkeypatch.setattr("release.gates.check_samples", lambda folder, languages: {})


def local_files(run, kind):
    folder = run.path("release", kind)
    return {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}


def test_push_then_download_is_byte_identical_and_loads(released, hub, tmp_path):
    run = released()
    push.run(run, arguments(tag="v1"))
    for kind, repo in (("base", "tester/tiny-duo"), ("instruct", "tester/tiny-duo-instruct")):
        assert hub.repos["model", repo].private
        there = hub.files(repo, "v1")
        here = local_files(run, kind)
        assert set(there) - {".gitattributes"} == set(here)
        for path, file in here.items():
            assert there[path].sha256 == hashlib.sha256(file.read_bytes()).hexdigest(), path
    code = """
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
m, r = (AutoModelForCausalLM.from_pretrained(x, revision="v1") for x in ("tester/tiny-duo-instruct",) * 2)
t = AutoTokenizer.from_pretrained("tester/tiny-duo-instruct", revision="v1")
text = t.apply_chat_template([{"role": "user", "content": "Ciao!"}], add_generation_prompt=True, tokenize=False)
assert text.endswith("<|im_start|>assistant\\n"), text
import sys
local = AutoModelForCausalLM.from_pretrained(sys.argv[1])
assert all(torch.equal(a, b) for a, b in zip(m.state_dict().values(), local.state_dict().values()))
print("loaded", m.generation_config.max_new_tokens)
"""
    env = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(run.path("instruct"))], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "loaded 32" in done.stdout


def test_second_push_sends_nothing(released, hub, capsys):
    run = released()
    push.run(run, arguments())
    commits, uploads = len(hub.repos["model", "tester/tiny-duo"].log), len(hub.uploaded)
    capsys.readouterr()
    push.run(run, arguments())
    assert len(hub.repos["model", "tester/tiny-duo"].log) == commits and len(hub.uploaded) == uploads
    assert "0 files to send" in capsys.readouterr().out


def test_dry_run_shows_the_difference_and_changes_nothing(released, hub, capsys):
    run = released()
    push.run(run, arguments(dry_run=True))
    out = capsys.readouterr().out
    assert "+ model.safetensors" in out and "nothing was changed" in out
    assert not hub.repos and not any(m in ("POST", "PUT") for m, _ in hub.requests)
    push.run(run, arguments())
    run = released(description="Another text.")
    capsys.readouterr()
    push.run(run, arguments(dry_run=True))
    out = capsys.readouterr().out
    assert "~ README.md" in out and "= model.safetensors" in out


def test_a_changed_card_moves_only_small_files(released, hub):
    push.run(released(), arguments())
    uploads = len(hub.uploaded)
    push.run(released(description="Another text."), arguments())
    assert len(hub.uploaded) == uploads
    assert b"Another text." in hub.content("tester/tiny-duo", "README.md")
    assert len(hub.repos["model", "tester/tiny-duo"].tags) == 2


def test_public_is_asked_for(released, hub):
    run = released()
    push.run(run, arguments(public=True))
    assert not hub.repos["model", "tester/tiny-duo"].private


POINTS = [
    ("GET", r"whoami", 0),
    ("POST", r"repos/create", 0),
    ("POST", r"repos/create", None),
    ("POST", r"preupload", 0),
    ("POST", r"lfs/objects/batch", 0),
    ("PUT", r"^/lfs/", 0),
    ("PUT", r"^/lfs/", 100_000),
    ("PUT", r"^/lfs/", None),
    ("POST", r"/commit/main", 1),
    ("POST", r"/commit/main", None),
    ("POST", r"/tag/", 0),
    ("POST", r"/tag/", None),
]


@pytest.mark.parametrize(("method", "path", "after"), POINTS)
def test_a_dropped_connection_is_survived(released, hub, method, path, after):
    hub.drop(method, path, after_bytes=after)
    push.run(released(), arguments(models=["base"], tag="v1"))
    repo = hub.repos["model", "tester/tiny-duo"]
    assert list(repo.tags) == ["v1"] and len(repo.log) == 2
    assert "model.safetensors" in hub.files("tester/tiny-duo", "v1")


@pytest.mark.parametrize("path", [r"^/lfs/", r"/commit/main", r"/tag/"])
def test_a_dead_connection_publishes_nothing_half_and_is_continued(released, hub, path):
    run = released()
    hub.drop("PUT" if "lfs" in path else "POST", path, after_bytes=0, times=50)
    with pytest.raises(UserError, match="broke.*run duetto push again"):
        push.run(run, arguments(models=["base"], tag="v1"))
    repo = hub.repos["model", "tester/tiny-duo"]
    assert not repo.tags
    assert set(hub.files("tester/tiny-duo")) in ({".gitattributes"}, {".gitattributes", *local_files(run, "base")})
    hub.faults.clear()
    sent = len(hub.uploaded)
    push.run(run, arguments(models=["base"], tag="v1"))
    assert list(repo.tags) == ["v1"]
    assert len(hub.uploaded) == (1 if "lfs" in path else sent)


# Refusals


def test_no_login(released, hub, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(UserError, match="no login"):
        push.run(released(), arguments())


def test_a_token_the_hub_does_not_know(released, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)
    with pytest.raises(UserError, match="does not accept the token"):
        push.run(released(), arguments())


def test_a_token_that_only_reads(released, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.read_token)
    with pytest.raises(UserError, match="can only read"):
        push.run(released(), arguments())
    assert not hub.repos


def test_another_namespace(released, hub):
    with pytest.raises(UserError, match="no permission to write"):
        push.run(released(hub_repo="somebody/tiny"), arguments())


@pytest.mark.parametrize("name", ["tester/a--b", "tester/x..y", "tester/model.git", "a/b/c", "tester/"])
def test_a_name_the_hub_refuses_is_refused_in_the_recipe(a_run, name):
    with pytest.raises(ValueError, match="no Hub name"):
        a_run(hub_repo=name)


def test_no_name(released, hub):
    with pytest.raises(UserError, match="hub_repo is not set"):
        push.run(released(hub_repo=None), arguments())


def test_other_content_is_not_overwritten(released, hub):
    hub.seed("tester/tiny-duo", {"weights.bin": b"somebody's"})
    run = released()
    with pytest.raises(UserError, match=r"exists with other content \(weights.bin"):
        push.run(run, arguments(models=["base"]))
    other = {"generator": "duetto", "model": {"name": "Else"}}
    hub.seed("tester/tiny-duo", {"card.json": json.dumps(other).encode(), "config.json": b"{}"})
    with pytest.raises(UserError, match="exists with the model 'Else'"):
        push.run(run, arguments(models=["base"]))
    push.run(run, arguments(models=["base"], force=True))
    assert "model.safetensors" in hub.files("tester/tiny-duo")


def test_a_tag_of_another_revision(released, hub):
    push.run(released(), arguments(models=["base"], tag="v1"))
    run = released(description="Another text.")
    with pytest.raises(UserError, match="tag v1 exists"):
        push.run(run, arguments(models=["base"], tag="v1"))
    push.run(run, arguments(models=["base"], tag="v1", force=True))
    assert b"Another text." in hub.content("tester/tiny-duo", "README.md", "v1")


def test_no_card_no_push(a_run, hub):
    with pytest.raises(UserError, match="duetto card"):
        push.run(a_run(), arguments())


def test_no_parity_no_push(released, hub):
    run = released()
    file = run.path("manifests", "convert.json")
    manifest = json.loads(file.read_text())
    manifest["metrics"]["max_abs_logit_difference"] = 0.2
    file.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="differ from the checkpoint by 0.2"):
        push.run(run, arguments())
    assert not hub.requests


# Quantized files, checkpoints, collection


def test_checkpoints_gguf_and_collection(released, hub, monkeypatch):
    run = released(checkpoints=[25, 50])
    for step in (25, 50):
        (run.path("pretrain", "checkpoints", str(step))).mkdir(parents=True)
        run.path("pretrain", "checkpoints", str(step), "COMMIT").write_text("{}")
        # As pretrain.convert leaves it: the conversion itself is pretrain's to test.
        folder = run.path("release", "checkpoints", f"step-{step}")
        shutil.copytree(run.path("base"), folder)
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes() + bytes([step]))
    edge = run.path("release", "gguf", "base")
    edge.mkdir(parents=True)
    (edge / "m-F16.gguf").write_bytes(b"GGUF")
    (edge / "card.json").write_text(json.dumps({"generator": "duetto", "model": {"name": "m", "kind": "gguf"}}))
    write_manifest(run.root, "export", ["convert"], ["release/gguf"], {})
    push.run(run, arguments(tag="v1"))
    repo = hub.repos["model", "tester/tiny-duo"]
    assert set(repo.branches) == {"main", "step-25", "step-50"} and list(repo.tags) == ["v1"]
    weights = [hub.files("tester/tiny-duo", b)["model.safetensors"].sha256 for b in ("main", "step-25", "step-50")]
    assert len(set(weights)) == 3
    assert "eval/cloze_en.json" not in hub.files("tester/tiny-duo", "step-25")
    assert "m-F16.gguf" in hub.files("tester/tiny-duo-GGUF", "v1")
    (collection,) = hub.collections.values()
    names = [item["id"] for item in collection["items"]]
    assert names == ["tester/tiny-duo", "tester/tiny-duo-GGUF", "tester/tiny-duo-instruct"]
    assert collection["private"] and collection["title"] == "Tiny Duo"
    push.run(run, arguments(tag="v1"))
    assert len(collection["items"]) == 3 and len(repo.log) == 4


def test_a_checkpoint_that_is_not_there(released, hub):
    with pytest.raises(UserError, match="step 77 has no complete checkpoint"):
        push.run(released(checkpoints=[77]), arguments(models=["base"]))
    assert not hub.repos
