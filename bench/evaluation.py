"""How much faster is the ``hf-prefix`` backend than stock lm-eval, with the same scores?

    python -m bench.evaluation [--json FILE] [--items N]

A random 20 M parameter Llama on data in the schemas of m_mmlu (5-shot) and m_hellaswag (0-shot), through lm-eval's own
task files. Ratios are of CPU seconds in one process, so that a busy machine does not decide them. Stock runs at batch
sizes 1, 8 and 32; "best" is its fastest. Also times the start-up of ``duetto eval`` (imports, tasks, model).
"""

import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.common import finish, parser
from duetto.process import engine_env

MMLU_GOAL, HELLASWAG_GOAL, BATCH_1_GOAL, DIFFERENCE, STARTUP = 4.0, 1.8, 5.0, 1e-4, 15.0
STOCK_BATCHES = (1, 8, 32)
SYLLABLES = [a + b for a in "bcdfglmnprstv" for b in ("a", "e", "i", "o", "u", "an", "er", "io", "al", "on")]


def main() -> None:
    os.environ.update(engine_env())
    p = parser(__doc__.splitlines()[0])
    p.add_argument("--items", type=int, default=48, help="questions a task (default: %(default)s)")
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        text = write_data(folder, args.items)
        parameters = write_model(folder / "model", text)
        figures: dict[str, Any] = {"parameters": parameters, "items": args.items}
        for task, shots, metric in (("m_mmlu_it", 5, "acc"), ("hellaswag_it", 0, "acc_norm")):
            figures[task] = compare(folder, task, shots, metric)
        figures["startup_seconds"], figures["startup_cpu_seconds"] = startup(folder)
    mmlu, hellaswag = figures["m_mmlu_it"], figures["hellaswag_it"]
    worst = max(mmlu["max_abs_difference"], hellaswag["max_abs_difference"])
    same = float(mmlu["same_decisions"] and hellaswag["same_decisions"])
    finish(
        "evaluation",
        figures,
        {
            "mmlu_5_shot_speedup": (">=", MMLU_GOAL, mmlu["speedup_best"]),
            "hellaswag_0_shot_speedup": (">=", HELLASWAG_GOAL, hellaswag["speedup_best"]),
            "mmlu_5_shot_speedup_at_batch_1": (">=", BATCH_1_GOAL, mmlu["speedup_batch_1"]),
            "max_abs_difference": ("<=", DIFFERENCE, worst),
            "same_decisions": (">=", 1.0, same),
            "startup_seconds": ("<=", STARTUP, figures["startup_seconds"]),
        },
        args.json,
    )


def write_data(folder: Path, items: int) -> list[str]:
    """Questions with the lengths of the originals; returns all text, to train a tokenizer on."""
    import json

    rng = random.Random(5)
    words = ["".join(rng.choices(SYLLABLES, k=rng.choice((1, 2, 2, 3)))) for _ in range(3000)]
    text: list[str] = []

    def sentence(low: int, high: int) -> str:
        text.append(" ".join(rng.choices(words, k=rng.randint(low, high))).capitalize())
        return text[-1]

    def mmlu() -> dict[str, Any]:
        options = {f"option_{x}": sentence(2, 12) for x in "abcd"}
        return {"instruction": sentence(15, 60), **options, "answer": rng.choice("ABCD"), "id": "x/1"}

    def hellaswag() -> dict[str, Any]:
        return {
            "activity_label": sentence(1, 3),
            "ctx_a": sentence(30, 60),
            "ctx_b": sentence(3, 8),
            "endings": [sentence(12, 30) for _ in range(4)],
            "label": str(rng.randrange(4)),
        }

    for repo, splits, make in (
        ("m_mmlu", {"train": 5, "val": 1, "test": items}, mmlu),
        ("m_hellaswag", {"val": items}, hellaswag),
    ):
        home = folder / "data" / "alexandrainst" / repo
        (home / "it").mkdir(parents=True)
        card = "---\nconfigs:\n- config_name: it\n  data_files:\n"
        for split, count in splits.items():
            lines = [json.dumps(make()) for _ in range(count)]
            (home / "it" / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
            card += f"  - {{split: {split}, path: it/{split}.jsonl}}\n"
        (home / "README.md").write_text(card + "---\n")
    return text


def write_model(folder: Path, text: list[str]) -> int:
    """A random Llama of 20 M parameters with a byte-level BPE trained on ``text``."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=16384,
        special_tokens=["<|bos|>", "<|eos|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|bos|>", eos_token="<|eos|>")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16384,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=8,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())


def compare(folder: Path, task: str, shots: int, metric: str) -> dict[str, Any]:
    """CPU seconds of both backends on one task, and whether they agree."""
    from eval.config import EvalConfig
    from eval.harness import TaskLoader, leaves, load_lm
    from eval.models import LocalModel

    model = LocalModel("bench", folder / "model", ("it",))
    config = EvalConfig.model_validate(
        {
            "tasks": [{"task": task, "language": "it", "metric": metric, "shots": shots}],
            "datasets": str(folder / "data"),
            "backend": "hf-prefix",
            "threads": 1,
            "gate": 0,
        }
    )
    (lm_task,) = leaves(TaskLoader(config).load(config.tasks[0])).values()
    lm_task.build_all_requests(rank=0, world_size=1)
    requests = lm_task.instances

    def timed(lm: Any) -> tuple[float, list[tuple[float, bool]]]:
        lm.loglikelihood(requests[:4], disable_tqdm=True)  # warm up
        began = time.process_time()
        answers = lm.loglikelihood(requests, disable_tqdm=True)
        return time.process_time() - began, answers

    fast_seconds, fast = timed(load_lm(model, config))
    stock_seconds = {}
    for size in STOCK_BATCHES:
        stock_lm = load_lm(model, config.model_copy(update={"backend": "hf", "batch_size": size}))
        stock_seconds[size], stock = timed(stock_lm)
    best = min(stock_seconds.values())
    return {
        "requests": len(requests),
        "prefix_cpu_seconds": round(fast_seconds, 3),
        "stock_cpu_seconds": {str(k): round(v, 3) for k, v in stock_seconds.items()},
        "speedup_best": round(best / fast_seconds, 2),
        "speedup_batch_1": round(stock_seconds[1] / fast_seconds, 2),
        "max_abs_difference": max(abs(a[0] - b[0]) for a, b in zip(fast, stock)),
        "same_decisions": _picks(fast) == _picks(stock) and [a[1] for a in fast] == [b[1] for b in stock],
    }


def _picks(answers: list[tuple[float, bool]]) -> list[int]:
    groups = [answers[i : i + 4] for i in range(0, len(answers), 4)]
    return [max(range(4), key=lambda k: group[k][0]) for group in groups]


def startup(folder: Path) -> tuple[float, float]:
    """Wall and CPU seconds from nothing to a loaded model and indexed tasks, as the demo's suite needs them."""
    code = (
        "from pathlib import Path\n"
        "from duetto.recipe import ROOT, read_yaml\n"
        "from eval.config import EvalConfig\n"
        "from eval.harness import TaskLoader, load_lm\n"
        "from eval.models import LocalModel\n"
        "config = EvalConfig.model_validate(read_yaml(ROOT / 'configs' / 'eval' / 'demo.yaml'))\n"
        "TaskLoader(config)\n"
        f"load_lm(LocalModel('m', Path({str(folder / 'model')!r}), ('it',)), config)\n"
    )
    began, before = time.monotonic(), os.times()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return round(time.monotonic() - began, 1), round(cpu, 1)


if __name__ == "__main__":
    main()
