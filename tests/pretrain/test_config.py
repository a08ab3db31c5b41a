"""The pretraining files: every key of nanotron's format is known, and what cannot be honoured is refused."""

import copy
import re
from pathlib import Path

import pytest

from duetto.errors import UserError
from duetto.recipe import ROOT, read_yaml, validate
from pretrain import options, schedule, schema, schema_data, schema_model, schema_optimizer
from pretrain.config import PretrainConfig
from pretrain.mapping import checkpoints_folder, optimizer_options, to_nanotron, with_vocabulary
from tests.pretrain.ranks import in_engine

FILES = sorted((ROOT / "configs" / "pretrain").glob("*.yaml"))

# The keys of nanotron's main branch (2411b02), by dataclass.
MAIN = {
    PretrainConfig: "general parallelism model tokenizer checkpoints logging metrics_logging tokens optimizer data_stages "
    "profiler lighteval s3_upload",
    schema.General: "project run seed step consumed_train_samples benchmark_csv_path ignore_sanity_checks",
    schema.Checkpoints: "checkpoints_path checkpoint_interval save_initial_state save_final_state resume_checkpoint_path "
    "load_lr_scheduler load_optimizer checkpoints_path_is_shared_file_system",
    schema.Logging: "log_level log_level_replica iteration_step_info_interval",
    schema.MetricsLogging: "log_level log_detail_interval",
    schema.Parallelism: "dp pp tp pp_engine tp_mode tp_linear_async_communication recompute_layer tp_recompute_allgather "
    "expert_parallel_size context_parallel_size",
    schema.Tokenizer: "tokenizer_name_or_path tokenizer_revision tokenizer_max_length",
    schema.Tokens: "sequence_length train_steps micro_batch_size batch_accumulation_per_replica val_check_interval "
    "limit_val_batches limit_test_batches",
    schema_data.NanosetDataset: "dataset_folder dataset_weights dataset_read_path tokenizer_name vocab_size "
    "token_size_in_bytes return_positions skip_in_stream pad_samples_to_global_batch_size dataset_max_tokens "
    "shuffle_files use_old_brrr_dataloader",
    schema_data.StageData: "dataset seed num_loading_workers",
    schema_data.DataStage: "name start_training_step data sequence_length",
    schema_model.Model: "model_config init_method dtype make_vocab_size_divisible_by ddp_bucket_cap_mb",
    schema_model.InitMethod: "std scaling_method path",
    schema_model.LlamaShape: "bos_token_id eos_token_id hidden_act hidden_size initializer_range intermediate_size "
    "is_llama_config max_position_embeddings num_attention_heads num_hidden_layers attention_bias num_key_value_heads "
    "pad_token_id pretraining_tp rms_norm_eps rope_scaling rope_theta rope_interleaved tie_word_embeddings use_cache "
    "vocab_size _attn_implementation z_loss_enabled z_loss_coefficient",
    schema_optimizer.Optimizer: "optimizer_factory zero_stage weight_decay clip_grad accumulate_grad_in_fp32 "
    "learning_rate_scheduler weight_decay_exclude_named_params",
    schema_optimizer.OptimizerFactory: "adam_eps adam_beta1 adam_beta2 torch_adam_is_fused name",
    schedule.LRScheduler: "learning_rate lr_warmup_steps lr_warmup_style lr_decay_style lr_decay_steps "
    "lr_decay_starting_step min_decay_lr",
}


def load(name: str = "demo") -> PretrainConfig:
    return validate(PretrainConfig, read_yaml(ROOT / "configs" / "pretrain" / f"{name}.yaml"), "pretrain")


def changed(name: str = "demo", **changes: object) -> PretrainConfig:
    """A file with some values changed: ``parallelism__dp=4`` is parallelism.dp."""
    raw = read_yaml(ROOT / "configs" / "pretrain" / f"{name}.yaml")
    for path, value in changes.items():
        *parents, last = path.split("__")
        at = raw
        for key in parents:
            at = at.setdefault(key, {})
        at[last] = value
    return validate(PretrainConfig, raw, "pretrain")


def stage(**dataset: object) -> list[dict]:
    return [
        {"name": "all", "start_training_step": 1, "data": {"dataset": dataset, "seed": 8, "num_loading_workers": 0}}
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_file_loads_and_explains_its_keys(path: Path) -> None:
    config = validate(PretrainConfig, read_yaml(path), "pretrain")
    assert config.optimizer.learning_rate_scheduler.problem(config.tokens.train_steps) is None
    lines = path.read_text().splitlines()
    assert sum(line.lstrip().startswith("#") for line in lines) >= 15


def test_every_key_of_the_published_format_is_known() -> None:
    for section, keys in MAIN.items():
        fields = {f.alias or name for name, f in section.model_fields.items()}
        assert set(keys.split()) <= fields, section.__name__


def test_flagship_has_the_published_values() -> None:
    c = load("zagreus-0.4b-ita")
    m, t, s = c.model.shape, c.tokens, c.optimizer.learning_rate_scheduler
    assert (m.hidden_size, m.num_hidden_layers, m.num_attention_heads, m.num_key_value_heads) == (960, 32, 15, 5)
    assert (m.intermediate_size, m.vocab_size, m.tie_word_embeddings) == (2560, 128256, True)
    assert (m.rms_norm_eps, m.rope_theta, c.model.init_method.std) == (1e-5, 1e4, 0.03227)
    assert (c.parallelism.world_size, t.micro_batch_size, t.sequence_length) == (64, 4, 4096)
    assert c.tokens_per_step == 2**20
    assert (s.learning_rate, s.lr_warmup_steps, s.min_decay_lr) == (3e-3, 4000, 1e-7)
    assert (c.checkpoints.checkpoint_interval, c.general.seed, c.optimizer.zero_stage) == (5000, 8, 0)
    for sibling in ("spa", "fra", "por"):
        other = load(f"zagreus-0.4b-{sibling}")
        assert other.model_copy(update={"general": c.general}) == c


def test_the_two_published_mistakes_are_refused() -> None:
    with pytest.raises(UserError, match=r"ends at 800,000, but tokens.train_steps is 2,000,000"):
        changed("zagreus-0.4b-ita", tokens__train_steps=2_000_000)
    with pytest.raises(UserError, match="dataset_weights is missing for 3 folders"):
        changed("zagreus-0.4b-ita", data_stages=stage(dataset_folder=["/d/it", "/d/en", "/d/code"]))


def test_published_file_with_keys_one_level_up_loads() -> None:
    c = changed(
        "zagreus-0.4b-ita", resume_checkpoint_path="/checkpoints/630000", data_stages=stage(dataset_folder="/d/it")
    )
    assert c.checkpoints.resume_checkpoint_path == "/checkpoints/630000"
    assert c.stages[0].data.dataset.shares == [1.0]
    with pytest.raises(UserError, match="save_initial_state stands both"):
        changed("zagreus-0.4b-ita", save_initial_state=False)


def test_older_form_of_weighted_folders() -> None:
    c = changed(data_stages=stage(dataset_folder={"/d/en": 3, "/d/it": 1}))
    assert c.stages[0].data.dataset.shares == [0.75, 0.25]
    with pytest.raises(UserError, match="3 numbers for 2 folders"):
        changed(data_stages=stage(dataset_folder=["/a", "/b"], dataset_weights=[1, 2, 3]))


@pytest.mark.parametrize("section", [*MAIN, options.DuettoOptions], ids=lambda s: s.__name__)
def test_each_refused_value_says_why(section: type[schema.Section]) -> None:
    for name, (allowed, reason) in section.only.items():
        alias = section.model_fields[name].alias or name
        with pytest.raises(ValueError, match="cannot be honoured") as e:
            section.__pydantic_validator__.validate_assignment(section.model_construct(), name, "something else")
        assert reason in str(e.value) and alias
        assert allowed


REFUSED = {
    "hidden_size": ({"model__model_config__hidden_size": 130}, "not a multiple of num_attention_heads 4"),
    "kv heads": ({"model__model_config__num_key_value_heads": 3}, "not a multiple of num_key_value_heads"),
    "odd head": ({"model__model_config__num_attention_heads": 128}, "rotary embeddings need an even number"),
    "muon keys without muon": (
        {"optimizer__optimizer_factory__name": "adamW"},
        "would have no effect",
    ),
    "copying under tp": ({"parallelism__tp": 2}, "copying_init needs whole matrices"),
    "copying and silent": ({"duetto__zero_init_output_projections": True}, "set the same matrices: keep one"),
    "muon under tp": ({"parallelism__tp": 2, "duetto__copying_init": None}, "muon needs whole matrices"),
    "muon without rate": ({"optimizer__optimizer_factory__muon_learning_rate": None}, "muon_learning_rate is missing"),
    "float32": ({"model__dtype": "float32"}, "nanotron refuses it with float32"),
    "float16": ({"model__dtype": "float16"}, "needs loss scaling"),
    "sgd": ({"optimizer__optimizer_factory__name": "sgd"}, "sgd is not offered"),
    "too long": ({"tokens__sequence_length": 512}, "longer than model.model_config.max_position_embeddings"),
    "decay unset": ({"optimizer__learning_rate_scheduler__lr_decay_steps": None}, "lr_decay_steps is missing"),
    "warm-up": ({"optimizer__learning_rate_scheduler__lr_warmup_steps": 1300}, "reaches into the decay"),
    "floor": ({"optimizer__learning_rate_scheduler__min_decay_lr": 1.0}, "is above learning_rate"),
    "layers": ({"parallelism__pp": 5}, "more than the 4 layers"),
    "1f1b": ({"parallelism__pp": 4}, "needs at least 3 micro batches"),
    "raw data": ({"data_stages": stage(hf_dataset_or_datasets="c4")}, "run: duetto tokenize"),
    "no data": ({"data_stages": [{"name": "x", "start_training_step": 1, "data": {"dataset": None}}]}, "random tokens"),
    "late start": (
        {"data_stages": [stage(dataset_folder="/a")[0] | {"start_training_step": 2}]},
        "start_training_step 1",
    ),
    "qwen": ({"model__model_config__is_qwen2_config": True}, "are for Llama"),
    "mup": ({"model__init_method": {"use_mup": True}}, "no spectral muP"),
    "two starts": ({"model__init_method__path": "/base"}, "give either std"),
    "last step": (
        {"checkpoints__save_final_state": False, "checkpoints__checkpoint_interval": 999},
        "the trained model would not be saved",
    ),
    "nan": ({"optimizer__learning_rate_scheduler__learning_rate": float("nan")}, "finite number"),
    "zero 3": ({"optimizer__zero_stage": 3}, "optimizer.zero_stage"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_values_get_one_clear_line(case: str) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(UserError) as e:
        changed(**changes)
    assert message in str(e.value)
    # A section that a test writes in Python comes from no file, as one from the command line.
    assert "configs/pretrain/demo.yaml" in str(e.value) or ("data_stages" in changes and "command line" in str(e.value))
    assert "\n" not in str(e.value)


def test_tensor_parallel_checks() -> None:
    flagship = {"parallelism__dp": 8, "parallelism__tp_linear_async_communication": False}
    flagship |= {"parallelism__tp_recompute_allgather": False, "parallelism__tp_mode": "ALL_REDUCE"}
    assert changed("zagreus-0.4b-ita", parallelism__tp=5, **flagship | {"model__model_config__vocab_size": 128255})
    for changes, message in (
        ({"parallelism__tp": 2}, "backward pass is wrong"),
        ({"parallelism__tp": 2, **flagship}, "num_attention_heads 15 is not a multiple of parallelism.tp 2"),
        ({"parallelism__tp": 5, **flagship}, "vocab_size 128,256 is not a multiple"),
    ):
        with pytest.raises(UserError, match=message):
            changed("zagreus-0.4b-ita", **changes)


def test_unknown_key_of_the_shape_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"model_config: unknown key 'hiddn_size'; did you mean 'hidden_size'"):
        changed(model__model_config__hiddn_size=64)


def test_another_attention_is_refused() -> None:
    raw = read_yaml(ROOT / "configs" / "pretrain" / "demo.yaml")
    raw["model"]["model_config"]["_attn_implementation"] = "flash_attention_2"
    assert validate(PretrainConfig, raw, "pretrain")
    raw["model"]["model_config"]["_attn_implementation"] = "flex_attention"
    with pytest.raises(UserError, match="torch's fused attention elsewhere"):
        validate(PretrainConfig, raw, "pretrain")


def test_unknown_key_names_file_line_and_nearest(tmp_path: Path) -> None:
    given = (ROOT / "configs" / "pretrain" / "demo.yaml").read_text()
    (tmp_path / "demo.yaml").write_text(given.replace("  train_steps:", "  train_step:"))
    raw = read_yaml(tmp_path / "demo.yaml")
    with pytest.raises(
        UserError, match=r"demo\.yaml:\d+: unknown key 'pretrain\.tokens\.train_step'; did you mean 'train_steps'"
    ):
        validate(PretrainConfig, raw, "pretrain")


def test_null_is_the_default_where_it_means_nothing() -> None:
    c = changed(general__seed=None, parallelism__tp_mode=None, tokenizer=None, duetto__watch=None)
    assert c.general.seed == 42 and c.parallelism.tp_mode == "ALL_REDUCE" and c.duetto.watch.skip_spikes is False


def test_nanotron_accepts_what_we_hand_it(tmp_path: Path) -> None:
    for path in FILES:
        in_engine(accepted, path.stem, tmp_path)


def accepted(name: str, folder: Path) -> None:
    from nanotron.config import LlamaConfig, get_config_from_dict

    config = load(name)
    given = to_nanotron(config, checkpoints=folder, run_name="x", tokenizer="tok")
    kept = copy.deepcopy(given)
    found = get_config_from_dict(given)
    assert found.tokens.train_steps == config.tokens.train_steps
    assert found.global_batch_size == config.samples_per_step
    assert (
        found.optimizer.learning_rate_scheduler.learning_rate == config.optimizer.learning_rate_scheduler.learning_rate
    )
    shape = LlamaConfig(**kept["model"]["model_config"])
    assert shape.hidden_size == config.model.shape.hidden_size and shape.vocab_size == config.model.shape.vocab_size


@pytest.mark.parametrize("name", [p.stem for p in FILES])
def test_a_resolved_configuration_reads_back_as_itself(name: str) -> None:
    config = load(name)
    assert PretrainConfig.model_validate(config.model_dump(mode="json", by_alias=True)) == config


def test_vocabulary_must_be_the_tokenizers() -> None:
    with pytest.raises(UserError, match="is 4,096 but the tokenizer has 8,192 entries"):
        with_vocabulary(load(), 8192)
    open_size = changed(model__model_config__vocab_size=-1)
    assert with_vocabulary(open_size, 8192).model.shape.vocab_size == 8192
    with pytest.raises(UserError, match="run: duetto tokenize"):
        with_vocabulary(open_size, None)


def test_placeholders_of_the_run_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    given = to_nanotron(changed(general__run="tiny_%date_%jobid"), checkpoints=Path("/c"), run_name="x")
    assert re.fullmatch(r"tiny_\d{8}_\d{6}_77", given["general"]["run"])


def test_muon_options_and_checkpoint_folder(tmp_path: Path) -> None:
    muon = optimizer_options(load())
    assert (muon.name, muon.muon_learning_rate, muon.muon_weight_decay) == ("muon", 0.02, 0.01)
    assert muon.weight_decay_exclude == [".*norm.*", ".*token_embedding.*"]
    assert optimizer_options(load("zagreus-0.4b-ita")).name == "adamW"
    assert checkpoints_folder(load(), tmp_path) == tmp_path / "pretrain" / "checkpoints"
    elsewhere = changed(checkpoints__checkpoints_path="/scratch/c")
    assert checkpoints_folder(elsewhere, tmp_path) == Path("/scratch/c")
