"""model.init_method.path: weights to start from, whichever format they are in.

A nanotron checkpoint is used as it is; a Hugging Face folder is converted once, gated by logits parity, into
``<run>/pretrain/start-<file>/``.
"""

import sys
from pathlib import Path

from duetto.console import log
from duetto.files import read_json, sha256_file, sha256_json, write_json
from duetto.process import run_logged
from pretrain.job import Job


def is_hugging_face(folder: Path) -> bool:
    return (folder / "config.json").is_file() and not (folder / "model_config.json").is_file()


def digest(folder: Path) -> str:
    """Identity of the weights in a folder of either format."""
    if not is_hugging_face(folder):
        return sha256_file(folder / "COMMIT") if (folder / "COMMIT").is_file() else str(folder)
    files = [folder / "config.json", *sorted(folder.glob("*.safetensors"))]
    return sha256_json({f.name: sha256_file(f) for f in files})


def in_engine_format(job: Job, log_file: Path) -> Job:
    """``job`` with ``init_from`` converted where it is a Hugging Face folder.

    Raises:
        UserError: the folder is no plain Llama, or the converted weights give other logits.
    """
    if job.init_from is None or not is_hugging_face(Path(job.init_from)):
        return job
    source, out = Path(job.init_from), job.root / f"start-{job.stage}"
    made = {"of": digest(source), "interleaved": job.model.rope_interleaved}
    note = out.with_suffix(".json")
    if not (note.exists() and (out / "COMMIT").exists() and read_json(note) == made):
        log(f"pretrain: converts {source} to start from it")
        command = [sys.executable, "-m", "pretrain.convert", "to-nanotron", str(source), str(out)]
        run_logged(command + (["--interleaved"] if job.model.rope_interleaved else []), log_file)
        write_json(note, made)
    return job.model_copy(update={"init_from": str(out)})
