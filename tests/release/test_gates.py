"""What is refused before anything is uploaded: secrets, local paths, states, models that do not generate."""

import json

import pytest

from duetto.errors import UserError
from release.gates import check_release
from release.sample import check_samples, generate
from release.scan import findings, scan


def scanned(run, name, text):
    folder = run.path("release", "base")
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    paths = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return list(scan(folder, paths, run.root))


def test_a_fresh_release_is_clean(released):
    run = released()
    for kind in ("base", "instruct"):
        folder = run.path("release", kind)
        paths = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        assert list(scan(folder, paths, run.root)) == []


SECRETS = [
    "token: hf_" + "a" * 34,
    "key = sk-" + "abcDEF123" * 4,
    "AKIA" + "ABCDEFGHIJKLMNOP",
    "ghp_" + "a1" * 20,
    "-----BEGIN OPENSSH PRIVATE KEY-----",
    "password: correcthorse",
    "https://me:secret@example.org/x",
]


@pytest.mark.parametrize("text", SECRETS)
def test_a_secret_is_refused_and_not_repeated(released, text):
    (told,) = scanned(released(), "notes.md", f"first line\n{text}\n")
    assert told.startswith("notes.md:2: ") and text not in told


@pytest.mark.parametrize(
    "text",
    ["see /home/anna/runs/x", "/leonardo_work/EUHPC/run", "out: /scratch/me", r"C:\\Users\\anna", "/root/.cache"],
)
def test_a_local_path_is_refused(released, text):
    assert any("path" in told for told in scanned(released(), "notes.md", text))


def test_the_value_of_a_token_variable_is_refused(released, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    assert any("WANDB_API_KEY" in told for told in scanned(released(), "notes.md", "x 0123456789abcdef"))


def test_urls_and_hub_ids_are_no_local_paths(tmp_path):
    text = "https://hf.co/data/x and org/data/x, `{run}/base`, ../data/x, application/json, and/or"
    assert list(findings(text, tmp_path / "somewhere")) == []


@pytest.mark.parametrize(
    "name", ["optimizer.pt", "rng_state_0.pth", "model.bin", "training_args.bin", "x.log", "a.pkl"]
)
def test_states_and_pickles_are_refused(released, name):
    assert any(told.startswith(f"{name}: is no file of a release") for told in scanned(released(), name, "x"))


def test_metadata_of_weights_is_read(released):
    from safetensors.numpy import load_file, save_file

    run = released()
    file = run.path("release", "base", "model.safetensors")
    tensors = load_file(file)
    file.unlink()
    save_file(tensors, file, metadata={"from": "/home/anna/checkpoint"})
    folder = run.path("release", "base")
    assert any("a local path" in told for told in scan(folder, ["model.safetensors"], run.root))


def test_a_link_out_of_the_run_is_refused(released, tmp_path):
    run = released()
    (tmp_path / "elsewhere.txt").write_text("x")
    (run.path("release", "base") / "link.txt").symlink_to(tmp_path / "elsewhere.txt")
    assert any("link out" in told for told in scan(run.path("release", "base"), ["link.txt"], run.root))


def test_lint_gates_the_push(released):
    run = released()
    file = run.path("release", "base", "README.md")
    file.write_text(file.read_text().replace("12,800 tokens", "12,900 tokens"))
    with pytest.raises(UserError, match=r"does not pass its lint: README.md:\d+: says 12,900"):
        check_release(run, run.path("release", "base"), "base", [])


def test_samples_of_a_working_model(released):
    texts = check_samples(released().path("release", "instruct"), ["en", "it"])
    assert set(texts) == {"en", "it"} and all(texts.values())


def test_samples_of_broken_models(released):
    """In this process: starting one for each takes seconds."""
    from safetensors.numpy import load_file, save_file

    folder = released().path("release", "instruct")
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").unlink()
    (folder / "generation_config.json").write_text(json.dumps({**config, "eos_token_id": 5}))
    assert "generation ends at token" in generate(folder, ["en"])["problem"]
    (folder / "generation_config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    broken = {k: (v * float("nan") if "embed" in k else v) for k, v in tensors.items()}
    save_file(broken, folder / "model.safetensors", metadata={"format": "pt"})
    assert "are not finite" in generate(folder, ["en"])["problem"]


def test_a_failing_sample_generation_refuses_the_push(released):
    run = released()
    (run.path("release", "base") / "config.json").unlink()
    with pytest.raises(UserError, match="sample generation failed"):
        check_samples(run.path("release", "base"), ["en"])
