"""Cleans one source: its reader, its blocks, the cleaned documents, and the account of what was dropped."""

import shutil
from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep

from data.blocks import CleanWriter, build_blocks, text_hash
from data.config import Source
from data.executor import run_tasks
from data.ledger import Ledger, read_ledgers
from data.sources import SourceReader, input_bytes, tasks_of
from duetto.errors import UserError
from duetto.files import read_json, write_json
from duetto.run import Run


def clean_source(run: Run, name: str, source: Source, files: list[str], folder: Path) -> dict[str, Any]:
    """Write ``data/<source>/*.parquet`` and ``stats.json``; returns the counts.

    Completed tasks of a killed attempt are not done again.
    """
    stats_file, work = folder / "stats.json", folder / ".tasks"
    if not stats_file.exists():
        ledger = Ledger(work / "ledger")
        config = run.recipe.data
        steps: list[PipelineStep] = [SourceReader(name, source, files, ledger, config.bad_files)]
        steps += build_blocks(source, ledger, validation_hashes(config.validation.files))
        if config.decontaminate.enabled and source.decontaminate:
            from data.decontaminate import Decontamination, benchmark_files

            if benchmarks := benchmark_files(run):
                steps.append(Decontamination(benchmarks, config.decontaminate, ledger))
        steps.append(CleanWriter(str(folder), source.language, ledger))
        tasks = tasks_of(source, files, config)
        run_tasks(steps, f"clean-{name}", tasks, work, config.executor, input_bytes(source, files))
        stats = read_ledgers(work / "ledger")
        costs = stats.pop("blocks")  # times differ from run to run: kept apart from what must be identical
        write_json(folder / "costs.json", costs)
        write_json(stats_file, {"source": name, "language": source.language, "kind": source.kind, **stats})
    shutil.rmtree(work, ignore_errors=True)
    stats = read_json(stats_file)
    counts = stats["counts"]
    if not counts.get("documents_out"):
        raise UserError(
            f"source {name}: all {counts.get('documents_in', 0)} documents were dropped "
            f"({_reasons(stats['dropped'])}); see {stats_file}, and its `clean` list"
        )
    return {**counts, "dropped": {reason: entry["documents"] for reason, entry in stats["dropped"].items()}}


def _reasons(dropped: dict[str, Any]) -> str:
    most = sorted(dropped, key=lambda r: -dropped[r]["documents"])[:3]
    return ", ".join(f"{r}: {dropped[r]['documents']}" for r in most) or "no document was found"


def validation_hashes(files: dict[str, str]) -> frozenset[bytes]:
    """Hashes of the texts of the validation files.

    Raises:
        UserError: a file is missing or torn.
    """
    return frozenset(text_hash(d.text) for name in files for d in validation_documents(name, files[name]))


def validation_documents(name: str, path: str) -> Any:
    from data.sources import list_files

    source = Source(kind="parquet" if path.endswith(".parquet") else "jsonl", path=path, language=name)
    reader = SourceReader(
        f"validation {name}", source, list_files(source, f"validation {name}"), Ledger(Path()), "stop"
    )
    return reader.run()
