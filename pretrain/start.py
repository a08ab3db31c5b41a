"""model.init_method.path: weights to start from, whichever format they are in.

A Hub id (``mii-llm/zagreus-0.4B-ita``) means its snapshot in the local cache. A nanotron checkpoint is used as it is; a
Hugging Face folder is converted once, gated by logits parity, into ``<run>/pretrain/start-<file>/``.
"""

import re
import sys
from pathlib import Path

from duetto.console import log
from duetto.errors import UserError
from duetto.files import read_json, sha256_file, sha256_json, write_json
from duetto.process import run_logged
from pretrain.job import Job


def local_folder(path: str) -> Path:
    """The folder that ``path`` means: itself, or the cached snapshot of a Hub model.

    Raises:
        UserError: there is no such folder, and the Hub model is not on this disk.
    """
    if Path(path).is_dir():
        return Path(path)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", path):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            return Path(snapshot_download(path, local_files_only=True))
        except LocalEntryNotFoundError:
            raise UserError(
                f"model.init_method.path: {path} is no folder here and not in the local Hub cache; on a machine with "
                f"internet: hf download {path}"
            ) from None
    raise UserError(f"model.init_method.path: {path}: no such folder; name a Hugging Face model or a checkpoint")


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
