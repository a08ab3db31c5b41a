"""Real Axolotl runs on a CPU: one process, DDP, FSDP2 and ZeRO-2 train alike, and resume where they stopped."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

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


@pytest.fixture(scope="module")
def single(pool: Pool, base: Path, conversations: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, gradient accumulation 2: the arithmetic of two ranks with one batch each."""
    folder = tmp_path_factory.mktemp("single")
    config = axolotl_yaml(
        folder, demo(folder), base, conversations, gradient_accumulation_steps=2, micro_batch_size=2, max_steps=STEPS
    )
    pool.run(config)
    return config


def demo(folder: Path, **changes: Any) -> Any:
    return section("demo", folder, num_epochs=2, save_steps=3, save_total_limit=4, warmup_steps=2, **changes)


def two(folder: Path, base: Path, rows: list[Any], **changes: Any) -> Path:
    return axolotl_yaml(folder, demo(folder), base, rows, micro_batch_size=2, max_steps=STEPS, **changes)


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
    assert shapes(tmp_path / "out") == shapes(single.parent / "out")


def test_zero2_trains_alike(pool: Pool, single: Path, base: Path, conversations: Any, tmp_path: Path) -> None:
    config = two(tmp_path, base, conversations, deepspeed="configs/sft/zero2.json")
    log = pool.run(config, processes=2)
    assert "DeepSpeed" in log or "deepspeed" in log
    assert losses(config) == pytest.approx(losses(single), rel=2e-3)
    assert shapes(tmp_path / "out") == shapes(single.parent / "out")


def test_a_resumed_run_equals_an_uninterrupted_one(pool: Pool, single: Path, tmp_path: Path) -> None:
    config = tmp_path / "axolotl.yaml"
    whole = single.parent / "out"
    shutil.copytree(whole, tmp_path / "out", ignore=shutil.ignore_patterns("checkpoint-6", "model.safetensors"))
    text = single.read_text().replace(str(single.parent), str(tmp_path))
    config.write_text(f"{text}resume_from_checkpoint: {tmp_path}/out/checkpoint-3\n")
    shutil.copy(single.parent / "conversations.jsonl", tmp_path)
    pool.run(config)
    assert losses(config) == losses(single)
    again, first = (p / "model.safetensors" for p in (tmp_path / "out", whole))
    assert again.read_bytes() == first.read_bytes()


def shapes(folder: Path) -> Any:
    from sft.export import tensor_shapes

    return tensor_shapes(folder)
