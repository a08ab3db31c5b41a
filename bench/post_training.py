"""What post-training does to the demo: held-out loss, preference margin, tool calls, and how long a start takes.

    python -m bench.post_training [--home DIR] [--only start sft dpo agentic] [--json FILE]

Reads a finished demo (``make demo``; ``--home`` is where its run folder lies) and trains in copies of it with the real
verbs, so the run itself stays as it is. About 15 minutes on 2 cores; ``agentic`` takes ten of them.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.common import finish, parser
from duetto.process import engine_env
from duetto.recipe import ROOT, load_recipe

START_SECONDS, LOSS_DROP, TOOL_RATE = 60, 0.30, 0.90
DEMO = ROOT / "configs" / "recipes" / "demo.yaml"
NEEDED = ("recipe.yaml", "manifests", "base", "instruct", "tokenizer", "corpus/sft")
"""What post-training reads of a run."""
Figures = dict[str, Any]
Goals = dict[str, tuple[str, float, float]]


def duetto(run: Path, *arguments: str) -> float:
    """Wall seconds of one verb on the copy."""
    began = time.monotonic()
    env = {**os.environ, "DUETTO_HOME": str(run.parent)}
    subprocess.run([sys.executable, "-m", "duetto", *arguments], cwd=ROOT, env=env, stdout=sys.stderr, check=True)
    return time.monotonic() - began


def load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


def read(path: Path) -> list[dict[str, Any]]:
    from sft.sources import rows

    return [row for _, row in rows({"path": str(path)})]


def measure_start(run: Path, figures: Figures, goals: Goals) -> None:
    """Everything from the command to the exported model, with 20 packed steps."""
    seconds = duetto(run, "sft", "sft.max_steps=20")
    figures["start_and_20_steps_seconds"] = round(seconds, 1)
    goals["start_and_20_steps_seconds"] = ("<=", START_SECONDS, round(seconds, 1))


def measure_sft(run: Path, figures: Figures, goals: Goals) -> None:
    from transformers import AutoTokenizer

    from sft.measure import response_loss

    rows, tokenizer = read(run / "corpus/sft/heldout.jsonl"), AutoTokenizer.from_pretrained(run / "instruct")
    before, after = (response_loss(load(run / m), tokenizer, rows) for m in ("base", "instruct"))
    figures |= {"sft_heldout_loss_before": round(before, 4), "sft_heldout_loss_after": round(after, 4)}
    goals["sft_heldout_loss_drop"] = (">=", LOSS_DROP, round(1 - after / before, 4))


def measure_dpo(run: Path, figures: Figures, goals: Goals) -> None:
    from transformers import AutoTokenizer

    from sft.measure import preference_margin
    from sft.preferences import pairs

    figures["dpo_seconds"] = round(duetto(run, "dpo", "dpo=configs/sft/dpo.yaml"), 1)
    held_out = list(pairs(read(run / "corpus/sft/heldout.jsonl"), 200, seed=99))
    tokenizer = AutoTokenizer.from_pretrained(run / "instruct")
    margins = [preference_margin(load(run / m), tokenizer, held_out) for m in ("instruct", "dpo/model")]
    figures |= {"dpo_margin_before": round(margins[0], 4), "dpo_margin_after": round(margins[1], 4)}
    goals["dpo_margin_raised"] = (">=", 0.0, round(margins[1] - margins[0], 4))


def measure_agentic(run: Path, figures: Figures, goals: Goals) -> None:
    from transformers import AutoTokenizer

    from duetto.chat_checks import check_chat

    figures["agentic_seconds"] = round(duetto(run, "sft", "sft=configs/sft/demo-agentic.yaml"), 1)
    held_out = read(run / "synthetic/tools-heldout.jsonl")
    tokenizer = AutoTokenizer.from_pretrained(run / "instruct")
    found = check_chat(load(run / "instruct"), tokenizer, held_out, max_new_tokens=64)
    prompts = sum(rates["tool_prompts"] for rates in found.values())
    right = sum(rates["tool_prompts"] * rates["tool_parse_rate"] for rates in found.values())
    goals["agentic_right_tool"] = (">=", TOOL_RATE, round(right / prompts, 4))
    for language, rates in found.items():
        figures |= {f"agentic_{k}_{language}": rates[k] for k in ("tool_prompts", "tool_parse_rate", "tool_exact_rate")}


PARTS = {"start": measure_start, "sft": measure_sft, "dpo": measure_dpo, "agentic": measure_agentic}


def main() -> None:
    os.environ.update(engine_env())
    p = parser((__doc__ or "").splitlines()[0])
    p.add_argument(
        "--home", type=Path, help="folder that holds the finished run folder (default: where make demo put it)"
    )
    p.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="some of the measurements")
    args = p.parse_args()
    done = load_recipe(DEMO, home=args.home).run_root
    if not (done / "manifests/sft.json").exists():
        sys.exit(f"{done} holds no finished demo: run make demo first")
    figures: Figures = {"cpus": len(os.sched_getaffinity(0))}
    goals: Goals = {}
    for part in args.only:
        with tempfile.TemporaryDirectory() as scratch:
            run = Path(scratch) / "demo"
            for name in NEEDED:
                (run / name).parent.mkdir(parents=True, exist_ok=True)
                copy: Any = shutil.copytree if (done / name).is_dir() else shutil.copy
                copy(done / name, run / name)
            PARTS[part](run, figures, goals)
        print(f"{part}: {figures}", file=sys.stderr, flush=True)
    finish("post_training", figures, goals, args.json)


if __name__ == "__main__":
    main()
