"""Real Axolotl runs on a CPU: one process, DDP, FSDP2 and ZeRO-2 train alike, and resume where they stopped."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sft.export import export
from tests.sft.support import Pool, axolotl_yaml, losses, section

pytestmark = pytest.mark.xdist_group("axolotl")

STEPS = 6
FSDP2 = {
    "fsdp_version": 2,
    "fsdp_config": {
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "transformer_layer_cls_to_wrap": "LlamaDecoderLayer",
        "state_dict_type": "FULL_STATE_DICT",
        "reshard_after_forward": True,
    },
}


def demo(folder: Path, **changes: Any) -> Any:
    """The demo's file, in the order of the data: accelerate shuffles differently for one process and for two."""
    found = section("demo", folder, warmup_steps=2, **{"curriculum_sampling": True, "save_strategy": "no", **changes})
    return {k: v for k, v in found.items() if k != "save_steps" or found["save_strategy"] == "steps"}


@pytest.fixture(scope="module")
def single(pool: Pool, base: Path, conversations: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, gradient accumulation 2: the arithmetic of two ranks with one batch each."""
    folder = tmp_path_factory.mktemp("single")
    found = demo(folder, gradient_accumulation_steps=2, micro_batch_size=2, max_steps=STEPS)
    config = axolotl_yaml(folder, found, base, conversations)
    pool.run(config)
    return config


def two(folder: Path, base: Path, rows: list[Any], **changes: Any) -> Path:
    return axolotl_yaml(folder, demo(folder, micro_batch_size=2, max_steps=STEPS), base, rows, **changes)


def test_ddp_trains_as_one_process(pool: Pool, single: Path, base: Path, conversations: Any, tmp_path: Path) -> None:
    config = two(tmp_path, base, conversations)
    pool.run(config, processes=2)
    assert losses(config) == pytest.approx(losses(single), rel=2e-3)
    assert json.loads((tmp_path / "out/gate.json").read_text())["trained_tokens"] > 5000


def test_fsdp2_shards_and_trains_alike(
    pool: Pool, single: Path, base: Path, conversations: Any, tmp_path: Path
) -> None:
    config = two(tmp_path, base, conversations, **FSDP2)
    log = pool.run(config, processes=2)
    assert "parameters are DTensor shards" in log
    assert losses(config) == pytest.approx(losses(single), rel=2e-3)
    # FSDP2 saves the tied embeddings twice; the exported model has the base model's tensors.
    assert "lm_head.weight" in shapes(tmp_path / "out")
    export(tmp_path / "out", base, tmp_path / "instruct")
    assert shapes(tmp_path / "instruct") == shapes(base)


def test_zero2_trains_alike(pool: Pool, single: Path, base: Path, conversations: Any, tmp_path: Path) -> None:
    config = two(tmp_path, base, conversations, deepspeed="configs/sft/zero2.json")
    log = pool.run(config, processes=2)
    assert "DeepSpeed" in log or "deepspeed" in log
    assert losses(config) == pytest.approx(losses(single), rel=2e-3)
    assert shapes(tmp_path / "out") == shapes(single.parent / "out")


@pytest.fixture(scope="module")
def shuffled(pool: Pool, base: Path, conversations: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight steps over more than one pass of shuffled data, with a checkpoint in each pass."""
    folder = tmp_path_factory.mktemp("shuffled")
    saving = {"save_strategy": "steps", "save_steps": 3, "save_total_limit": 4}
    found = demo(folder, curriculum_sampling=False, max_steps=8, num_epochs=2, **saving)
    config = axolotl_yaml(folder, found, base, conversations[:64])
    pool.run(config)
    return config


@pytest.mark.parametrize("step", [3, 6])
def test_a_resumed_run_equals_an_uninterrupted_one(pool: Pool, shuffled: Path, step: int, tmp_path: Path) -> None:
    config, whole = tmp_path / "axolotl.yaml", shuffled.parent / "out"
    shutil.copytree(whole, tmp_path / "out", ignore=shutil.ignore_patterns("checkpoint-8"))
    (tmp_path / "out/model.safetensors").unlink()
    shutil.copy(shuffled.parent / "conversations.jsonl", tmp_path)
    text = shuffled.read_text().replace(str(shuffled.parent), str(tmp_path))
    config.write_text(f"{text}resume_from_checkpoint: {tmp_path}/out/checkpoint-{step}\n")
    pool.run(config)
    assert losses(config) == losses(shuffled)
    again, first = (p / "model.safetensors" for p in (tmp_path / "out", whole))
    assert again.read_bytes() == first.read_bytes()


def shapes(folder: Path) -> Any:
    from sft.export import tensor_shapes

    return tensor_shapes(folder)
