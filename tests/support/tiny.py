"""The demo recipe at a size that a test can afford: the whole pipeline in about a minute of CPU."""

import fcntl
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCHEDULE = "pretrain.optimizer.learning_rate_scheduler"
OVERRIDES = (
    "name=tiny",
    "data.generate.scale=0.03",
    "data.stages=[{name: demo, tokens: {web_en: 12000, web_it: 8000, pdf_it: 3000, code: 7000}}]",
    "pretrain.tokens.train_steps=24",
    f"{SCHEDULE}.lr_warmup_steps=4",
    f"{SCHEDULE}.lr_decay_starting_step=12",
    f"{SCHEDULE}.lr_decay_steps=12",
    "pretrain.tokens.val_check_interval=12",
    "pretrain.tokens.limit_val_batches=1",
    "pretrain.checkpoints.checkpoint_interval=8",
    "sft.max_steps=6",
    "sft.save_steps=2",
    "eval.limit=8",
    "eval.chat.prompts=4",
)


def run_folder(home: Path) -> Path:
    return home / "tiny"


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "DUETTO_HOME": str(home), "OMP_NUM_THREADS": "1"}


def demo_command(*extra: str) -> list[str]:
    """What ``make demo ARGS=...`` runs."""
    return [str(ROOT / ".venv/bin/duetto"), "run", *OVERRIDES, *extra]


def finished_run(session_folder: Path) -> Path:
    """The home of a finished tiny run, made once a test session however many workers it has.

    Args:
        session_folder: a folder all workers of the session share.
    """
    home = session_folder / "tiny-home"
    home.mkdir(parents=True, exist_ok=True)
    with open(home / ".made-once", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (run_folder(home) / "manifests" / "card.json").exists():
            done = subprocess.run(demo_command(), cwd=ROOT, env=environment(home), capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
            (home / "output.txt").write_text(done.stdout)
    return home
