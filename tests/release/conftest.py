"""A finished run in small: a random Llama, a tokenizer, and the manifests and results that the stages write."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import yaml

from duetto.cli import DEFAULT_RECIPE
from duetto.files import sha256_file, sha256_json, write_json
from duetto.recipe import ROOT, Recipe, load_recipe
from duetto.run import Run
from duetto.stage import engine_versions
from release import card_stage
from release.config import ReleaseConfig
from tests.support.hub import LocalHub

REAL_SLEEP = time.sleep
SPECIALS = ["<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>"]

RELEASE = {
    "model_name": "Tiny-Duo",
    "hub_repo": "tester/tiny-duo",
    "license": "apache-2.0",
    "developers": "The test suite",
    "description": {"en": "A model for tests.", "it": "Un modello per le prove."},
    "limits": {"en": "It has learned nothing.", "it": "Non ha imparato nulla."},
    "tags": ["test"],
    "generation": {"do_sample": False, "max_new_tokens": 32},
    "energy": {"watts_per_device": 65, "pue": 1.2, "grams_co2_per_kwh": 250},
    "collection": "Tiny Duo",
}
PRETRAIN = {
    "general": {"run": "demo", "seed": 8},
    "tokens": {"train_steps": 50, "sequence_length": 64, "micro_batch_size": 2, "batch_accumulation_per_replica": 1},
    "parallelism": {"dp": 2, "tp": 1, "pp": 1},
    "optimizer": {
        "zero_stage": 0,
        "weight_decay": 0.01,
        "clip_grad": 1.0,
        "optimizer_factory": {"name": "adamW", "adam_beta1": 0.9, "adam_beta2": 0.95},
        "learning_rate_scheduler": {
            "learning_rate": 0.003,
            "lr_warmup_steps": 5,
            "lr_decay_starting_step": 25,
            "lr_decay_steps": 25,
            "lr_decay_style": "linear",
            "min_decay_lr": 1e-7,
        },
    },
}
SFT = {"learning_rate": 0.001, "num_epochs": 1, "micro_batch_size": 4, "sequence_len": 128, "lr_scheduler": "cosine"}
SCORES = {
    "base": {
        "cloze_en": (0.81, 0.02),
        "cloze_it": (0.78, 0.02),
        "reading_en": (0.26, 0.03),
        "reading_it": (0.24, 0.03),
    },
    "instruct": {
        "cloze_en": (0.79, 0.02),
        "cloze_it": (0.69, 0.02),
        "reading_en": (0.41, 0.03),
        "reading_it": (0.23, 0.03),
    },
}


def make_recipe(root: Path, release: dict[str, Any] | None = None) -> Recipe:
    """A recipe as load_recipe leaves it, without the other stages' schemas."""
    wanted = {**RELEASE, **(release or {})}
    raw = {
        "name": "demo",
        "languages": ["en", "it"],
        "tokenizer": {"train": {"vocab_size": 320}},
        "pretrain": [PRETRAIN],
        "sft": {**SFT, "output_dir": str(root / "sft")},
        "release": wanted,
    }
    head = {k: raw[k] for k in ("name", "languages", "tokenizer", "sft")}
    empty = {"data": None, "eval": None, "cluster": None, "dpo": None}
    return Recipe(
        **head,
        **empty,
        pretrain=[PRETRAIN],
        release=ReleaseConfig(**wanted),
        file=ROOT / "configs" / "recipes" / "demo.yaml",
        run_root=root,
        resolved=raw,
    )


def make_models(root: Path) -> None:
    """base/ and instruct/: a random Llama and a small byte-level BPE."""
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    text = ["Once upon a time a dog lived by the river.", "C'era una volta un cane che viveva vicino al fiume."] * 8
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=316, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIALS])
    ids = {s: tokenizer.token_to_id(s) for s in SPECIALS}
    names = {"bos_token": SPECIALS[0], "eos_token": SPECIALS[1]}
    torch.manual_seed(0)
    size = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 320}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    length = {"max_position_embeddings": 512, "initializer_range": 0.2}
    for kind, end in (("base", SPECIALS[1]), ("instruct", SPECIALS[3])):
        config = LlamaConfig(**size, **heads, **length, bos_token_id=ids[SPECIALS[0]], eos_token_id=ids[end])
        model = LlamaForCausalLM(config)
        model.generation_config.pad_token_id = ids[end]
        model.save_pretrained(root / kind)
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{**names, "eos_token": end, "pad_token": end})
        if kind == "instruct":
            fast.chat_template = (ROOT / "sft" / "chatml.jinja").read_text()
        fast.save_pretrained(root / kind)


def make_results(root: Path) -> dict[str, Any]:
    """eval/<model>/<task>.json in eval.results' schema; returns the metrics of the manifest."""
    scores: dict[str, dict[str, Any]] = {}
    for model, tasks in SCORES.items():
        for task, (value, stderr) in tasks.items():
            language = task[-2:]
            facts = {"name": model, "path": str(root / model), "sha256": "0" * 64, "languages": ["en", "it"]}
            facts |= {"revision": None, "step": 50, "tokens": 12_800, "parameters": 70_000}
            metric = "acc_norm"
            content = {
                "schema_version": 1,
                "model": facts,
                "task": task,
                "label": task,
                "language": language,
                "metric": metric,
                "value": value,
                "stderr": stderr,
                "chance": 0.25,
                "metrics": {metric: value},
                "subtasks": {},
                "no_context": 0.27,
                "word_overlap": 0.55 if "cloze" in task else 0.3,
                "samples": 200,
                "limit": None,
                "truncated": 0,
                "shots": 0,
                "chat_template": False,
                "task_version": "1",
                "task_sha256": "0" * 64,
                "data": {f"{task}.jsonl": "0" * 64},
                "backend": "hf",
                "gate": None,
                "batch_size": 8,
                "dtype": "float32",
                "device": "cpu",
                "seeds": {},
                "versions": engine_versions(),
                "host": "secret-host",
                "git_commit": "unknown",
                "started": "2026-11-20T10:00:00+0000",
                "seconds": 3.0,
                "sample_log": f"{task}.samples.jsonl",
                "sample_log_sha256": "0" * 64,
                "fingerprint": "0" * 64,
            }
            write_json(root / "eval" / model / f"{task}.json", {**content, "sha256": sha256_json(content)})
            entry = {"value": value, "stderr": stderr, "metric": metric, "chance": 0.25}
            scores.setdefault(model, {})[task] = entry
    baselines = {task: {"no_context": 0.27, "word_overlap": 0.55} for task in SCORES["base"]}
    chat = {lang: {"stop_rate": 0.98, "language_rate": 1.0} for lang in ("en", "it")}
    samples = {
        "en": {"prompt": "Tell me a story.", "answer": "Once upon a time a dog lived by the river."},
        "it": {"prompt": "Racconta una storia.", "answer": "C'era una volta un cane | vicino al fiume."},
    }
    return {"scores": scores, "baselines": baselines, "chat": chat, "samples": samples}


def write_manifest(root: Path, stage: str, inputs: list[str], outputs: list[str], metrics: dict[str, Any]) -> None:
    """As duetto.stage writes it."""
    digests = {}
    for output in outputs:
        for path in sorted(p for p in (root / output).rglob("*") if p.is_file()):
            name = path.relative_to(root).as_posix()
            digests[name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    known = {}
    for name in inputs:
        known[name] = sha256_json(json.loads((root / "manifests" / f"{name}.json").read_text())["outputs"])
    write_json(
        root / "manifests" / f"{stage}.json",
        {
            "stage": stage,
            "fingerprint": sha256_json(stage),
            "recipe": "0" * 64,
            "version": 1,
            "config": {},
            "inputs": known,
            "outputs": digests,
            "versions": engine_versions(),
            "git_commit": "unknown",
            "host": {"name": "secret-host", "machine": "x86_64", "cpus": 2},
            "started": "2026-11-20T09:00:00+0000",
            "seconds": 61.5,
            "metrics": metrics,
        },
    )


def make_run(root: Path) -> None:
    """The whole folder."""
    make_models(root)
    sources = {
        "web_en": {"documents": 1200, "tokens": 410_000, "bytes": 1_600_000},
        "web_it": {"documents": 1100, "tokens": 390_000, "bytes": 1_500_000},
        "code": {"documents": 90, "tokens": 200_000, "bytes": 700_000},
    }
    draws = {"web_en": 5120, "web_it": 5120, "code": 2560}
    planned = {s: {"tokens": n, "weight": n / 12_800, "epochs": n / sources[s]["tokens"]} for s, n in draws.items()}
    write_json(root / "tokens" / "mixture.json", {"stages": [{"name": "main", "tokens": 12_800, "sources": planned}]})
    write_json(root / "base" / "parity.json", {"max_abs_logit_difference": 3.1e-06, "tensors": 20})
    (root / "manifests").mkdir(exist_ok=True)
    tokenized = {"documents": 2390, "tokens": 1_000_000, "sources": sources}
    write_stats(root, sources)
    write_manifest(root, "tokenize", [], ["tokens"], tokenized)
    validation = {"en": {"loss": 2.1, "bits_per_byte": 0.81}, "it": {"loss": 2.0, "bits_per_byte": 0.78}}
    trained = {"steps": 50, "tokens": 12_800, "loss_first": 5.8, "loss_last": 3.2, "tokens_per_second": 5321.7}
    write_metrics(root)
    write_manifest(root, "pretrain", ["tokenize"], ["pretrain"], {**trained, "validation": validation, "parameters": 1})
    write_manifest(root, "convert", ["pretrain"], ["base"], {"max_abs_logit_difference": 3.1e-06, "tensors": 20})
    tuned = {"steps": 12, "loss_first": 4.1, "loss_last": 2.2, "conversations": 300}
    write_manifest(root, "sft", ["convert"], ["instruct"], tuned)
    write_manifest(root, "eval", ["convert", "sft"], ["eval"], make_results(root))


def write_stats(root: Path, sources: dict[str, dict[str, int]]) -> None:
    """data/<source>/stats.json and some held-out tokens."""
    for name, made in sources.items():
        counts = {
            "documents_in": made["documents"] + 40,
            "documents_out": made["documents"],
            "bytes_out": made["bytes"],
        }
        example = {"rank": "0", "id": "doc-1", "text": "<script>alert(1)</script> too short"}
        dropped = {
            "too_short": {"documents": 30, "bytes": 900, "examples": [example]},
            "contaminated": {"documents": 10, "bytes": 800, "examples": []},
        }
        items = {"cloze_en": ["1", "2", "3"]} if name == "web_en" else {}
        content = {"counts": counts, "dropped": dropped, "contaminated_items": items, "bad_files": [], "blocks": {}}
        write_json(root / "data" / name / "stats.json", content)
    (root / "tokens" / "validation").mkdir(parents=True)
    for seed, name in enumerate(("en", "it")):
        ids = np.random.default_rng(seed).integers(0, 300, size=1024).astype(np.uint16)
        ids.tofile(root / "tokens" / "validation" / f"{name}.ds")


def write_metrics(root: Path) -> None:
    """pretrain/metrics.jsonl and validation.jsonl."""
    (root / "pretrain").mkdir(exist_ok=True)
    with (root / "pretrain" / "metrics.jsonl").open("w") as f:
        for step in range(1, 51):
            line = {"step": step, "tokens": step * 256, "loss": 5.8 - 0.052 * step, "lr": 0.003 * min(1, step / 5)}
            line |= {"grad_norm": 1.0, "tokens_per_second": 5300 + step, "step_seconds": 0.05, "goodput": 0.95}
            f.write(json.dumps(line) + "\n")
    with (root / "pretrain" / "validation.jsonl").open("w") as f:
        for step in (25, 50):
            for lang in ("en", "it", "code"):
                line = {"step": step, "source": lang, "loss": 3.0 - step / 50, "bits_per_byte": 1.5 - step / 100}
                f.write(json.dumps(line) + "\n")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder, made once; read-only by agreement (`a_run` gives copies)."""
    root = tmp_path_factory.mktemp("finished") / "demo"
    root.mkdir()
    make_run(root)
    return root


@pytest.fixture
def a_run(finished: Path, tmp_path: Path) -> Callable[..., Run]:
    """A run on a private copy of the finished folder; keyword arguments change the release section."""

    def make(**release: Any) -> Run:
        root = tmp_path / "demo"
        if not root.exists():
            shutil.copytree(finished, root)
        recipe = make_recipe(root, release)
        (root / "recipe.yaml").write_text(yaml.safe_dump(recipe.resolved))
        return Run(recipe, lock=False)

    return make


@pytest.fixture(scope="session")
def carded(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder with its cards, made once."""
    root = tmp_path_factory.mktemp("carded") / "demo"
    shutil.copytree(finished, root)
    card_stage.run(Run(make_recipe(root), lock=False), argparse.Namespace(force=False))
    return root


@pytest.fixture
def released(a_run: Callable[..., Run], carded: Path, tmp_path: Path) -> Callable[..., Run]:
    """A run with its cards, on a private copy; keyword arguments change the release section and remake them."""

    def make(**release: Any) -> Run:
        root = tmp_path / "demo"
        if not root.exists():
            shutil.copytree(carded, root)
        run = a_run(**release)
        if release:
            card_stage.run(run, argparse.Namespace(force=False))
        return run

    return make


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A Hub of its own, with a writer logged in."""
    with LocalHub(tmp_path / "hub") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", server.write_token)
        # The suite runs offline; these tests may talk, to loopback only.
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        # The client waits 1 to 8 s between its attempts; a server on loopback needs no mercy.
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: REAL_SLEEP(min(seconds, 0.01)))
        yield server


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots go: a scratch folder, or $DUETTO_PICTURES to renew those in docs/images."""
    wanted = os.environ.get("DUETTO_PICTURES")
    return Path(wanted) if wanted else tmp_path_factory.mktemp("pictures")


@pytest.fixture
def shown(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """The run in the pictures: a copy of the finished one that $DUETTO_SHOW names, else the small one of the tests."""
    if "DUETTO_SHOW" not in os.environ:
        return cast(Run, request.getfixturevalue("a_run")())
    shutil.copytree(os.environ["DUETTO_SHOW"], tmp_path / "demo")
    return Run(load_recipe(DEFAULT_RECIPE, home=tmp_path), lock=False)
