"""``duetto sft``, ``masks`` and ``dpo`` as a user runs them: killed, continued, skipped, looked at, improved upon."""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from duetto.errors import UserError
from duetto.process import die_with_parent
from duetto.recipe import ROOT
from duetto.run import Run
from sft import chatml, dpo, launch, masks, measure, preferences, stage
from sft.export import tensor_shapes
from tests.sft.support import Pool, make_recipe, read_rows, section, write_rows

pytestmark = pytest.mark.xdist_group("axolotl")

CHANGES = {"micro_batch_size": 2, "save_steps": 8, "warmup_steps": 2, "learning_rate": 3e-3, "num_epochs": 1}

DRIVER = """
import sys
from pathlib import Path
from tests.sft.test_stage import sft
sft(Path(sys.argv[1]))
"""


def recipe_of(root: Path) -> Any:
    return make_recipe(root, sft=section("demo", root, **CHANGES), dpo=pairs_section(root))


def pairs_section(root: Path) -> Any:
    found = section("dpo", root, max_steps=8, learning_rate=1e-3, micro_batch_size=8)
    found["duetto"] = {**found["duetto"], "processes": 1}
    return found


def sft(root: Path, force: bool = False) -> dict[str, Any]:
    with Run(recipe_of(root)) as run:
        stage.run(run, argparse.Namespace(force=force))
        manifest = run.manifest("sft")
    assert manifest
    return dict(manifest["metrics"])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, base: Path, conversations: list[Any]) -> Path:
    """A run folder whose sft stage was killed after its second checkpoint, with a third one torn."""
    root = tmp_path_factory.mktemp("runs") / "run"
    shutil.copytree(base, root / "base")
    write_rows(root / "corpus/sft/train.jsonl", conversations)
    (root / "manifests").mkdir()
    convert = {"stage": "convert", "fingerprint": "x", "outputs": {"base": {"bytes": 1}}, "metrics": {}}
    (root / "manifests/convert.json").write_text(json.dumps(convert))
    command = [sys.executable, "-c", DRIVER, str(root)]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, preexec_fn=die_with_parent)
    second = root / "sft/checkpoint-16/COMMIT"
    while not second.exists():
        assert child.poll() is None, "the stage ended before it was killed"
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    left = workers(root)
    for _ in range(100):
        left = workers(root)
        if not left:
            break
        time.sleep(0.1)
    assert not left, "a killed stage leaves no process behind"
    torn = root / "sft/checkpoint-24"
    torn.mkdir(exist_ok=True)
    (torn / "COMMIT").unlink(missing_ok=True)
    (torn / "model.safetensors").write_bytes(b"torn")
    return root


def workers(root: Path) -> list[str]:
    """Processes that were started for this run folder."""
    out = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    return [x for x in out.splitlines() if "sft.worker" in x and str(root) in x]


@pytest.fixture(scope="module")
def finished(root: Path) -> dict[str, Any]:
    assert not (root / "instruct").exists()
    return sft(root)


def test_a_killed_stage_continues_from_its_last_whole_checkpoint(
    root: Path, finished: dict[str, Any], pool: Pool, tmp_path: Path
) -> None:
    text = (root / "sft/axolotl.yaml").read_text()
    assert f"resume_from_checkpoint: {root}/sft/checkpoint-16" in text
    config = tmp_path / "axolotl.yaml"
    lines = [x for x in text.splitlines() if not x.startswith("resume_from_checkpoint")]
    config.write_text("\n".join(lines).replace(f"{root}/sft\n", f"{tmp_path}/out\n").replace(
        f"{root}/sft/prepared", f"{tmp_path}/out/prepared"
    ))  # fmt: skip
    pool.run(config, processes=2)
    whole = (tmp_path / "out/model.safetensors").read_bytes()
    assert (root / "instruct/model.safetensors").read_bytes() == whole
    resumed, straight = (launch.read_metrics(p / "metrics.jsonl") for p in (root / "sft", tmp_path / "out"))
    assert [x.get("loss") for x in resumed] == [x.get("loss") for x in straight]


def test_the_manifest_says_what_happened(root: Path, finished: dict[str, Any]) -> None:
    assert finished["conversations"] == 600 and finished["rejected"] == {}
    assert finished["loss_last"] < 0.9 * finished["loss_first"]
    assert finished["steps"] == len([x for x in launch.read_metrics(root / "sft/metrics.jsonl") if "loss" in x])
    assert finished["tensors"] == len(tensor_shapes(root / "base"))


def test_an_unchanged_stage_is_skipped_in_no_time(
    root: Path, finished: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    begun = time.monotonic()
    assert sft(root) == finished
    assert time.monotonic() - begun < 5
    assert "sft: unchanged, skipped" in capsys.readouterr().out


def test_the_chat_model_loads_and_talks_its_training_format(root: Path, finished: dict[str, Any]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    model = AutoModelForCausalLM.from_pretrained(root / "instruct")
    tokenizer = AutoTokenizer.from_pretrained(root / "instruct")
    end = tokenizer.convert_tokens_to_ids(chatml.IM_END)
    assert tokenizer.chat_template == chatml.template()
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == model.config.eos_token_id == end == 3
    generation = GenerationConfig.from_pretrained(root / "instruct")
    assert (generation.eos_token_id, generation.do_sample, generation.temperature) == (end, True, 0.7)
    row = read_rows(root / "sft/conversations.jsonl")[0]
    trained = next(iter(launch_rows(root)))
    assert tokenizer.apply_chat_template(row["messages"])["input_ids"] in trained
    before = AutoModelForCausalLM.from_pretrained(root / "base")
    held_out = [json.loads(x) for x in (root / "corpus/sft/train.jsonl").read_text().splitlines()[:60]]
    losses = [measure.response_loss(m, tokenizer, held_out) for m in (before, model)]
    assert losses[1] < 0.8 * losses[0]


def launch_rows(root: Path) -> Any:
    import datasets

    for path in sorted((root / "sft/prepared").glob("*/dataset_info.json")):
        yield [r["input_ids"] for r in datasets.load_from_disk(str(path.parent))]


def show(root: Path, capsys: pytest.CaptureFixture[str], **options: Any) -> str:
    arguments = {"samples": 2, "html": None, "json": False, "force": False, **options}
    masks.run(Run(recipe_of(root), lock=False), argparse.Namespace(**arguments))
    return capsys.readouterr().out


def test_masks_show_the_packed_rows(
    root: Path, finished: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = json.loads(show(root, capsys, json=True))
    assert found["source"] == "as Axolotl prepared it"
    first = found["rows"][0]
    assert first["conversations"] > 1 and first["tokens"] <= 256
    assert all(p["text"].endswith("<|im_end|>") for p in first["pieces"] if p["trained"])
    assert not any("<|im_start|>" in p["text"] for p in first["pieces"] if p["trained"])
    page = tmp_path / "masks.html"
    show(root, capsys, html=page)
    text = page.read_text()
    assert text.count("<span class=t>") > 2 and "<script" not in text and "&lt;|im_end|&gt;</span>" in text
    assert "[[" in show(root, capsys)


def test_masks_work_before_training(
    root: Path, base: Path, conversations: list[Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shutil.copytree(base, tmp_path / "base")
    write_rows(tmp_path / "corpus/sft/train.jsonl", conversations[:3])
    found = json.loads(show(tmp_path, capsys, json=True))
    assert found["source"].startswith("by the gate's rule") and len(found["rows"]) == 2


def test_dpo_raises_the_held_out_margin(root: Path, finished: dict[str, Any]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with Run(recipe_of(root)) as run:
        dpo.run(run, argparse.Namespace(force=False))
        manifest = run.manifest("dpo")
    assert manifest
    metrics = manifest["metrics"]
    assert metrics["margin_last"] > metrics["margin_first"] and metrics["pairs"] > 300
    pairs = list(preferences.pairs(read_rows(root / "corpus/sft/train.jsonl"), 60, seed=99))
    tokenizer = AutoTokenizer.from_pretrained(root / "dpo/model")
    before, after = (
        measure.preference_margin(AutoModelForCausalLM.from_pretrained(root / m), tokenizer, pairs)
        for m in ("instruct", "dpo/model")
    )
    assert after > before + 0.03


def test_a_run_without_the_section_says_so(tmp_path: Path) -> None:
    run, arguments = Run(make_recipe(tmp_path), lock=False), argparse.Namespace(force=False, samples=1)
    for verb, name in ((stage, "sft"), (dpo, "dpo"), (masks, "sft")):
        with pytest.raises(UserError, match=f"the recipe has no '{name}'"):
            verb.run(run, arguments)


def test_the_gate_stops_the_stage_with_one_line(
    root: Path, finished: dict[str, Any], pool: Pool, tmp_path: Path
) -> None:
    """A template that drops the terminator: the model would never learn to stop."""
    template = tmp_path / "broken.jinja"
    template.write_text(chatml.template().replace("'<|im_end|>\\n'", "'\\n'"))
    text = (root / "sft/axolotl.yaml").read_text().replace(str(chatml.TEMPLATE_FILE), str(template))
    config = tmp_path / "axolotl.yaml"
    lines = [x for x in text.splitlines() if not x.startswith("resume_from_checkpoint")]
    config.write_text("\n".join(lines).replace(f"{root}/sft\n", f"{tmp_path}/out\n").replace(
        f"{root}/sft/prepared", f"{tmp_path}/out/prepared"
    ))  # fmt: skip
    assert "duetto-error: label mask: row 0" in pool.fail(config)
