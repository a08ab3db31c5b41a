"""The Axolotl files: misspelt keys are refused, dead ones are told, and what ships is understood by the installed Axolotl."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from duetto.errors import UserError
from duetto.recipe import ROOT, read_yaml
from sft import config, keys
from tests.sft.support import Pool, axolotl_yaml, losses, section

SHIPPED = ("demo", "demo-agentic", "nesso-0.4b-instruct", "open-zagreus-0.4b", "nesso-0.4b-agentic", "dpo")

PUBLISHED = """
base_model: giux78/zagreus-test-202000
strict: false
output_dir: ./out
datasets:
  - path: data.jsonl
    type: chat_template
    field_messages: conversation
    roles_to_train: [assistant]
    train_on_eos: turn
sequence_len: 4096
sample_packing: true
flash_attention: true
optimizer: adamw_torch_fused
lr_scheduler: constant
cosine_constant_lr_ratio: 0.8
cosine_min_lr_ratio: 0.3
learning_rate: 1.0e-03
bf16: auto
fsdp_config:
  fsdp_sharding_strategy: FULL_SHARD
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_transformer_layer_cls_to_wrap: LlamaDecoderLayer
  fsdp_backward_prefetch_policy: BACKWARD_PRE
  fsdp_state_dict_type: FULL_STATE_DICT
  fsdp_cpu_ram_efficient_loading: false
  fsdp_sync_module_states: false
special_tokens: {pad_token: "<|im_end|>", eos_token: "<|im_end|>"}
"""


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_files_are_accepted_and_have_nothing_dead(name: str) -> None:
    found = read_yaml(ROOT / f"configs/sft/{name}.yaml")
    config.check(found, "dpo" if name == "dpo" else "sft")
    assert config.findings(found) == []


@pytest.mark.parametrize("name", SHIPPED)
def test_every_block_of_keys_has_a_comment(name: str) -> None:
    """A comment stands above each key, or above the group that it belongs to."""
    blocks = (ROOT / f"configs/sft/{name}.yaml").read_text().split("\n\n")
    assert all(b.lstrip().startswith("#") for b in blocks if re.search(r"^\w+:", b, re.M))


@pytest.mark.parametrize(
    "change, says",
    [
        ("lerning_rate: 1.0", r"unknown key 'sft.lerning_rate'; did you mean 'learning_rate'\?"),
        ("duetto: {too_long: shorten}", "sft.duetto.too_long: "),
        ("duetto: {balanse: {}}", r"unknown key 'sft.duetto.balanse'; did you mean 'balance'\?"),
        ("fsdp_config: {fsdp_reshard_after_foward: true}", "unknown key 'sft.fsdp_config.fsdp_reshard_after_foward'"),
        ("test_datasets: [{path: x, feild_messages: y}]", "did you mean 'field_messages'"),
        ("duetto: {balance: {en: 0.5, it: 1.5}}", "sft.duetto.balance: shares are above 0 and sum to 1"),
        ("sequence_len: many", "sft.sequence_len: a number from 8 on is expected .got 'many'"),
        ("micro_batch_size: 0", "sft.micro_batch_size: a number from 1 on is expected"),
        ("chat_template_jinja: /none.jinja", "sft.chat_template_jinja: no file /none.jinja"),
        ("rl: dpo", "sft.rl: this file is for preference tuning; name it as dpo=FILE"),
        ("test_datasets: nothing", "sft.test_datasets: a list of mappings"),
    ],
)
def test_a_wrong_key_is_refused_with_its_line(change: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "sft.yaml"
    path.write_text(f"base_model: x\ndatasets: [{{path: x}}]\n{change}\n")
    with pytest.raises(UserError, match=says) as e:
        config.check(read_yaml(path), "sft")
    assert re.match(rf"{path}:3: ", str(e.value))


def test_missing_keys_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base_model: x\n")
    with pytest.raises(UserError, match=r"key 'sft.datasets' is missing"):
        config.check(read_yaml(tmp_path / "a.yaml"), "sft")
    (tmp_path / "b.yaml").write_text("base_model: x\ndatasets: [{path: x}]\nrl: kto\n")
    with pytest.raises(UserError, match=r"b.yaml:3: dpo.rl: a dpo file says 'rl: dpo' \(got 'kto'\)"):
        config.check(read_yaml(tmp_path / "b.yaml"), "dpo")


def published(tmp_path: Path) -> Any:
    path = tmp_path / "published.yaml"
    path.write_text(PUBLISHED)
    found = read_yaml(path)
    config.check(found, "sft")
    return found


def test_a_published_fsdp1_file_is_accepted_and_its_dead_keys_are_told_one_by_one(tmp_path: Path) -> None:
    told = {line.split(":")[0]: line for line in config.findings(published(tmp_path))}
    assert "renamed, read as attn_implementation: flash_attention_2" in told.pop("flash_attention")
    for key in ("cosine_min_lr_ratio", "cosine_constant_lr_ratio"):
        assert "dead, lr_scheduler: constant never reads it" in told.pop(key)
    assert "FSDP1 is deprecated" in told.pop("fsdp_version")
    dead = ("fsdp_sharding_strategy", "fsdp_backward_prefetch_policy")
    assert all("dead" in told.pop(f"fsdp_config.{k}") for k in dead)
    assert "dead, FSDP2 loads from rank 0" in told.pop("fsdp_config.fsdp_sync_module_states")
    renamed = {"auto_wrap_policy", "transformer_layer_cls_to_wrap", "state_dict_type", "cpu_ram_efficient_loading"}
    assert {k.removeprefix("fsdp_config.fsdp_") for k in told} == renamed


def resolved(found: Any, cuda: bool) -> tuple[dict[str, Any], list[str]]:
    return config.resolve(found, output=Path("/o"), datasets=[], test_datasets=[], overrides={}, cuda=cuda)


def test_the_published_file_means_what_the_shipped_one_says(tmp_path: Path) -> None:
    ours, _ = resolved(section("nesso-0.4b-instruct", tmp_path), cuda=True)
    theirs, notes = resolved(published(tmp_path), cuda=True)
    assert notes == []
    for key in ("attn_implementation", "fsdp_version", "special_tokens", "sequence_len"):
        assert theirs[key] == ours[key]
    assert theirs["fsdp_config"] == {**ours["fsdp_config"], "cpu_ram_efficient_loading": False}


def test_a_cpu_run_says_what_it_changes(tmp_path: Path) -> None:
    out, notes = resolved(section("nesso-0.4b-instruct", tmp_path, optimizer="adamw_bnb_8bit"), cuda=False)
    assert (out["bf16"], out["tf32"], out["attn_implementation"], out["optimizer"]) == (
        False, False, "sdpa", "adamw_torch",
    )  # fmt: skip
    assert {n.split(":")[0] for n in notes} == {"bf16", "tf32", "attn_implementation", "optimizer"}
    assert "duetto" not in out and out["plugins"] == list(config.PLUGINS)


def test_checking_is_quick() -> None:
    keys.top_level()
    begun = time.perf_counter()
    keys._schemas.cache_clear()
    keys.top_level.cache_clear()
    keys.top_level()
    assert time.perf_counter() - begun < 3


@pytest.mark.xdist_group("axolotl")
def test_all_keys_of_the_installed_axolotl_are_known(pool: Pool, tmp_path: Path) -> None:
    fields = json.loads(pool.run(tmp_path / "none.yaml", SHOW_FIELDS="1").splitlines()[-1])
    assert set(fields) <= keys.top_level() and len(fields) > 300


@pytest.mark.xdist_group("axolotl")
@pytest.mark.parametrize("name", [n for n in SHIPPED if n != "dpo" and not n.startswith("demo")])
def test_flagship_files_train_two_steps(
    name: str, pool: Pool, reserved_base: Path, conversations: list[Any], tool_dialogues: list[Any], tmp_path: Path
) -> None:
    """Validated by the installed Axolotl and trained under FSDP2, on a base whose tokenizer lacks the ChatML tokens."""
    rows = tool_dialogues if "agentic" in name else conversations[:200]
    found = section(name, tmp_path, sequence_len=1024, val_set_size=0, max_steps=2, gradient_accumulation_steps=1)
    changes = {"dataset_num_proc": 1, "eval_strategy": "no", "save_steps": 2, "dataloader_num_workers": 0}
    config_file = axolotl_yaml(tmp_path, {**found, **changes}, reserved_base, rows)
    log = pool.run(config_file, processes=2)
    assert len(losses(config_file)) == 2 and "parameters are DTensor shards" in log
    saved = json.loads((tmp_path / "out/tokenizer.json").read_text())
    assert {t["id"]: t["content"] for t in saved["added_tokens"] if t["id"] in (2, 3)} == {
        2: "<|im_start|>", 3: "<|im_end|>",
    }  # fmt: skip
    assert json.loads((tmp_path / "out/config.json").read_text())["vocab_size"] == 1024
