"""An Axolotl YAML as Duetto reads it: checked key by key, then resolved for one run on this machine.

The file stays plain Axolotl. One extra block, ``duetto:``, holds what Axolotl has no word for (how conversations are
prepared, how many processes a CPU run takes); it is taken out before Axolotl sees the file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from duetto.errors import UserError
from duetto.recipe import StrictModel, nearest, validate
from sft import keys
from sft.chatml import IM_END

PLUGINS = ("sft.compat.GlooPlugin", "sft.plugin.DuettoPlugin")

RENAMED = {
    "flash_attention": "attn_implementation: flash_attention_2",
    "sdp_attention": "attn_implementation: sdpa",
    "eager_attention": "attn_implementation: eager",
    "flex_attention": "attn_implementation: flex_attention",
    "xformers_attention": "attn_implementation: xformers",
    "evaluation_strategy": "eval_strategy",
    "noisy_embedding_alpha": "neftune_noise_alpha",
    "dpo_beta": "rl_beta",
}
"""Top-level keys that Axolotl 0.19 maps or wants under another name."""

FSDP_DEAD = {
    "sharding_strategy": "Axolotl 0.19 drops it; reshard_after_forward says it under FSDP2 (FULL_SHARD is true)",
    "backward_prefetch_policy": "Axolotl 0.19 drops it; FSDP2 prefetches by itself",
    "forward_prefetch": "Axolotl 0.19 drops it; FSDP2 prefetches by itself",
    "limit_all_gathers": "Axolotl 0.19 drops it; FSDP2 always does",
}
"""Keys of a published ``fsdp_config`` that no longer do anything."""

FSDP1_ONLY = {
    "sync_module_states": "FSDP2 loads from rank 0 when cpu_ram_efficient_loading is true",
    "use_orig_params": "FSDP2 always keeps the original parameters",
}


LEAST = {
    "sequence_len": 8,
    "micro_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "num_epochs": 0.001,
    "max_steps": 1,
    "logging_steps": 1,
    "val_set_size": 0,
}
"""Numbers on which Axolotl would fail late, or with a traceback."""


class Toolbox(StrictModel):
    """Dialogues with tools, written by ``sft/toolbox.py`` before the data sets are read."""

    folder: Path
    """Gets tools.jsonl and tools-heldout.jsonl."""
    rows: int = Field(6000, ge=1)
    seed: int = 8


class Pairs(StrictModel):
    """Preference pairs, made by ``sft/preferences.py`` from conversations before the data sets are read."""

    source: Path
    """Conversations with language tags."""
    target: Path
    rows: int = Field(1500, ge=1)
    seed: int = 8


class Preparation(StrictModel):
    """The ``duetto:`` block of an Axolotl YAML."""

    processes: int = Field(2, ge=1)
    """Processes of a run without a GPU (with GPUs: one for each)."""
    too_long: Literal["drop", "truncate", "split"] = "drop"
    """A conversation longer than sequence_len: dropped, cut after its last turn that fits, or split at turns."""
    deduplicate: bool = True
    """Keep the first of conversations that are equal up to case, accents and spacing."""
    decontaminate: list[str] = []
    """Held-out questions (files, folders, or data sets of the Hub); conversations that repeat one are dropped."""
    balance: dict[str, float] | None = None
    """Share of trained tokens for each language; the languages in excess are cut down to it."""
    max_rejected: float = Field(0.2, ge=0, le=1)
    """Stop when more than this share of the rows is rejected: the files are probably not what you think."""
    toolbox: Toolbox | None = None
    """Write synthetic dialogues with tools first."""
    pairs: list[Pairs] = []
    """Make preference pairs first."""

    @field_validator("balance")
    @classmethod
    def _whole(cls, shares: dict[str, float] | None) -> dict[str, float] | None:
        if shares is not None and (min(shares.values(), default=0) <= 0 or abs(sum(shares.values()) - 1) > 1e-6):
            raise ValueError("shares are above 0 and sum to 1")
        return shares


def preparation(section: Mapping[str, Any], where: str = "sft") -> Preparation:
    return validate(Preparation, section.get("duetto") or {}, f"{where}.duetto")


def check(section: dict[str, Any], where: str) -> None:
    """Refuse what Axolotl would silently ignore; called when the recipe is loaded.

    Args:
        section: the YAML's mapping.
        where: ``sft`` or ``dpo``, the section's name in the recipe.

    Raises:
        UserError: an unknown key (with file, line and nearest key), or no ``base_model`` or ``datasets``.
    """
    known = keys.top_level() | {"duetto"}
    for key in section:
        if key not in known:
            raise UserError(f"{_at(section, key)}unknown key '{where}.{key}'{nearest(str(key), sorted(known))}")
    for key in ("base_model", "datasets"):
        if not section.get(key):
            raise UserError(f"{_at(section, None)}key '{where}.{key}' is missing")
    for name in ("datasets", "test_datasets"):
        entries = section.get(name) or []
        if not isinstance(entries, list) or not all(isinstance(d, dict) for d in entries):
            raise UserError(f"{_at(section, name)}{where}.{name}: a list of mappings, each with a path, is expected")
        for i, entry in enumerate(entries):
            for key in entry:
                if key not in keys.dataset():
                    hint = nearest(str(key), sorted(keys.dataset()))
                    raise UserError(f"{_at(entry, key)}unknown key '{where}.{name}.{i}.{key}'{hint}")
            if not entry.get("path"):
                raise UserError(f"{_at(entry, None)}key '{where}.{name}.{i}.path' is missing")
    known_fsdp = keys.fsdp() | FSDP_DEAD.keys()
    for key in section.get("fsdp_config") or {}:
        if str(key).removeprefix("fsdp_") not in known_fsdp and key not in known_fsdp:
            hint = nearest(str(key), sorted(known_fsdp))
            raise UserError(f"{_at(section['fsdp_config'], key)}unknown key '{where}.fsdp_config.{key}'{hint}")
    preparation(section, where)
    for key, least in LEAST.items():
        value = section.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value < least):
            raise UserError(f"{_at(section, key)}{where}.{key}: a number from {least} on is expected (got {value!r})")
    template = section.get("chat_template_jinja")
    if template and "{" not in template and not Path(template).is_file():  # an inline template has braces
        raise UserError(f"{_at(section, 'chat_template_jinja')}{where}.chat_template_jinja: no file {template}")
    if where == "sft" and section.get("rl"):
        raise UserError(f"{_at(section, 'rl')}sft.rl: this file is for preference tuning; name it as dpo=FILE")
    if where == "dpo" and section.get("rl") != "dpo":
        raise UserError(f"{_at(section, 'rl')}{where}.rl: a dpo file says 'rl: dpo' (got {section.get('rl')!r})")


def findings(section: Mapping[str, Any]) -> list[str]:
    """One line for each key that Axolotl 0.19 renames, drops or never reads, with what happens instead."""
    out = []
    for key, new in RENAMED.items():
        if key in section:
            out.append(f"{key}: renamed, read as {new}")
    scheduler = section.get("lr_scheduler", "cosine")
    for key in ("cosine_min_lr_ratio", "cosine_constant_lr_ratio"):
        if section.get(key) is not None and scheduler != "cosine":
            out.append(f"{key}: dead, lr_scheduler: {scheduler} never reads it (the learning rate was measured flat)")
    if section.get("fsdp"):
        out.append("fsdp: renamed, fsdp_config says it all")
    fsdp = section.get("fsdp_config") or {}
    for key in fsdp:
        plain = key if key == "fsdp_version" else key.removeprefix("fsdp_")
        if plain in FSDP_DEAD:
            out.append(f"fsdp_config.{key}: dead, {FSDP_DEAD[plain]}")
            continue
        if plain != key:
            out.append(f"fsdp_config.{key}: renamed, read as {plain}")
        if plain in FSDP1_ONLY and _fsdp_version(section) == 2:
            out.append(f"fsdp_config.{key}: dead, {FSDP1_ONLY[plain]}")
    if fsdp and _stated_fsdp_version(section) is None:
        out.append("fsdp_version: missing, FSDP1 is deprecated; run as FSDP2 (fsdp_version: 2)")
    return out


def _stated_fsdp_version(section: Mapping[str, Any]) -> int | None:
    fsdp = section.get("fsdp_config") or {}
    stated = section.get("fsdp_version") or fsdp.get("fsdp_version") or fsdp.get("version")
    return int(stated) if stated is not None else None


def _fsdp_version(section: Mapping[str, Any]) -> int:
    return _stated_fsdp_version(section) or 2


def _modern(section: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings in the words of Axolotl 0.19; what changes is told by ``findings``."""
    out = {k: v for k, v in section.items() if k not in ("duetto", "fsdp")}
    for key, new in RENAMED.items():
        if key in out:
            value = out.pop(key)
            name, _, constant = new.partition(": ")
            if not constant:
                out.setdefault(name, value)
            elif value:
                out.setdefault(name, constant)
    if section.get("fsdp_config"):
        version = _fsdp_version(section)
        plain = {k.removeprefix("fsdp_"): v for k, v in section["fsdp_config"].items()}
        if version == 2 and str(plain.get("sharding_strategy", "")).upper() in ("FULL_SHARD", "1"):
            plain.setdefault("reshard_after_forward", True)
        dropped = FSDP_DEAD.keys() | {"version"} | (FSDP1_ONLY.keys() if version == 2 else set())
        out["fsdp_config"] = {k: v for k, v in plain.items() if k not in dropped}
        out["fsdp_version"] = version
    return out


def resolve(
    section: Mapping[str, Any],
    *,
    output: Path,
    datasets: list[dict[str, Any]],
    test_datasets: list[dict[str, Any]],
    overrides: Mapping[int, str],
    cuda: bool,
) -> tuple[dict[str, Any], list[str]]:
    """The YAML that Axolotl gets, and one line for each setting that this machine changes.

    Args:
        section: a checked section of the recipe.
        output: Axolotl's ``output_dir``.
        datasets: entries that replace ``datasets`` (the prepared conversations).
        test_datasets: the same for ``test_datasets``; may be empty.
        overrides: reserved token ids that become ChatML tokens.
        cuda: whether a GPU is there; without one precision, attention and optimizer fall back to what a CPU has.
    """
    notes: list[str] = []
    out = _modern(section)

    def change(key: str, value: Any, reason: str) -> None:
        if out.get(key) != value:
            notes.append(f"{key}: {out.get(key, 'not set')} -> {value} ({reason})")
            out[key] = value

    if not cuda:
        for key in ("bf16", "fp16", "tf32"):
            if out.get(key):
                change(key, False, "no GPU")
            out[key] = False
        if out.get("attn_implementation", "") not in ("sdpa", "eager"):
            change("attn_implementation", "sdpa", "no GPU")
        if any(x in str(out.get("optimizer", "")) for x in ("8bit", "4bit", "bnb", "paged")):
            change("optimizer", "adamw_torch", "no GPU")
        kept = [p for p in out.get("plugins") or [] if "liger" not in p and "cut_cross_entropy" not in p]
        if kept != (out.get("plugins") or []):
            change("plugins", kept, "their kernels need a GPU")
            for key in [k for k in out if k.startswith("liger_") or k == "cut_cross_entropy"]:
                del out[key]
    out |= {
        "output_dir": str(output),
        "dataset_prepared_path": str(output / "prepared"),
        "datasets": datasets,
        "plugins": [*(out.get("plugins") or []), *PLUGINS],
        "special_tokens": {"pad_token": IM_END, "eos_token": IM_END, **(out.get("special_tokens") or {})},
    }
    out.pop("test_datasets", None)
    if test_datasets:
        out["test_datasets"] = test_datasets
    if overrides:
        out["added_tokens_overrides"] = dict(overrides)
    return out, notes


def _at(section: Any, key: str | None) -> str:
    where = section.where(key) if hasattr(section, "where") else ""
    return f"{where}: " if where else ""
