"""What the post-training tests are made of: a tiny base model, a warm Axolotl process, resolved configurations."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from duetto.process import die_with_parent, engine_env
from duetto.recipe import ROOT, Recipe, _expand, read_yaml
from sft import chatml
from sft.config import Preparation, resolve
from sft.conversations import prepare
from sft.stage import prepared_entry

SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", chatml.IM_START, chatml.IM_END]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return path


def make_base(folder: Path, texts: list[str], special: list[str], hidden: int = 64, vocab: int = 1024) -> Path:
    """A random Llama and a byte-level BPE trained on ``texts``: everything a real base folder has, in 0.2 MB."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=special[0], eos_token=special[1])
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


class Pool:
    """See axolotl_pool.py."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("axolotl_pool.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env={**os.environ, **engine_env(), "PYTHONDONTWRITEBYTECODE": ""},
            preexec_fn=die_with_parent,
        )

    def run(self, config: Path, processes: int = 1, **env: str) -> str:
        """Train (or only prepare, with ONLY_PREPARE=1); the log; a failed rank fails the test with the log's end."""
        log = config.with_suffix(".log")
        log.unlink(missing_ok=True)
        codes = self.codes(config, log, processes, env)
        text = log.read_text(errors="replace")
        assert codes == [0] * processes, text[-3000:]
        return text

    def fail(self, config: Path, processes: int = 1) -> str:
        """A run that must fail; its log."""
        log = config.with_suffix(".log")
        assert self.codes(config, log, processes, {}) != [0] * processes
        return log.read_text(errors="replace")

    def codes(self, config: Path, log: Path, processes: int, env: dict[str, str]) -> list[int]:
        assert self.process.stdin and self.process.stdout
        job = {"config": str(config), "processes": processes, "log": str(log), "env": env}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return list(json.loads(self.process.stdout.readline())["codes"])


def section(name: str, run: Path, **changes: Any) -> Any:
    """configs/sft/NAME.yaml as the recipe would hand it over, with changes."""
    found = _expand(read_yaml(ROOT / "configs" / "sft" / f"{name}.yaml"), {"{run}": str(run), "{root}": str(ROOT)})
    found.update(changes)
    return found


def make_recipe(run_root: Path, **parts: Any) -> Recipe:
    """A recipe with the sections that post-training reads."""
    empty = {"data": None, "pretrain": [], "sft": None, "dpo": None, "eval": None, "release": None, "cluster": None}
    return Recipe(
        file=Path("configs/recipes/demo.yaml"),
        name="test",
        languages=["en", "it"],
        tokenizer="x",
        run_root=run_root,
        resolved={},
        **{**empty, **parts},
    )


def axolotl_yaml(folder: Path, found: Any, base: Path, rows: list[dict[str, Any]], **changes: Any) -> Path:
    """Prepare ``rows`` and write a resolved YAML that trains ``base`` on them in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    if rows:
        raw = {"path": str(write_rows(folder / "raw.jsonl", rows))}
        target, context = folder / "conversations.jsonl", found["sequence_len"]
        prepare([raw], target, tokenizer_folder=base, context=context, **PREPARE_ALL)
    config, _ = resolve(
        {**found, "base_model": str(base)},
        output=folder / "out",
        datasets=[prepared_entry(folder / "conversations.jsonl")],
        test_datasets=[],
        overrides=chatml.token_overrides(base),
        cuda=False,
    )
    config = {k: v for k, v in {**config, **changes}.items() if v is not None}
    path = folder / "axolotl.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(config, default=str)), sort_keys=False))
    return path


def losses(config: Path) -> list[float]:
    lines = (config.parent / "out" / "metrics.jsonl").read_text().splitlines()
    return [row["loss"] for row in map(json.loads, lines) if "loss" in row]


PREPARE_ALL: dict[str, Any] = {
    "languages": ["en", "it"],
    "rules": Preparation(deduplicate=False, max_rejected=1.0),
}


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(x) for x in path.read_text(encoding="utf-8").splitlines()]


def expected_labels(row: dict[str, Any], tokenizer: Any) -> tuple[list[int], list[int]]:
    """Ids and labels of a prepared row from its text alone: written out by hand, labelled by character offsets.

    Shares no code with the template, the gate or Axolotl.
    """
    text, spans = "", []
    turns = list(row["messages"])
    if row.get("tools"):
        lines = [json.dumps(t["function"], ensure_ascii=False) for t in json.loads(row["tools"])]
        system = turns.pop(0)["content"] + "\n\n" if turns[0]["role"] == "system" else ""
        shown = "".join(f"{x}\n" for x in lines)
        reminder = '<tool_call>{"name": ..., "arguments": ...}</tool_call>'
        text = f"<|im_start|>system\n{system}<tools>\n{shown}</tools>\n{reminder}<|im_end|>\n"
    for turn in turns:
        text += f"<|im_start|>{turn['role']}\n"
        start = len(text)
        parts = [turn["content"]] if turn["content"] else []
        if turn["role"] == "tool":
            parts = [f"<tool_response>\n{turn['content']}\n</tool_response>"]
        for call in turn.get("tool_calls") or []:
            f = call["function"]
            parts.append(f'<tool_call>\n{{"name": "{f["name"]}", "arguments": {f["arguments"]}}}\n</tool_call>')
        text += "\n".join(parts) + "<|im_end|>"
        if turn["role"] == "assistant":
            spans.append((start, len(text)))
        text += "\n"
    encoded = tokenizer.encode(text, add_special_tokens=False)
    labels = [
        i if any(a <= start and end <= b for a, b in spans) else -100
        for i, (start, end) in zip(encoded.ids, encoded.offsets)
    ]
    return encoded.ids, labels
