"""Everything a card may say, read from the run folder with its origin.

``CardFacts`` opens the recipe, the manifests, the mixture, the parity file, the model's own configuration and the
evaluation results as traced documents, and derives from them what needs arithmetic (schedule, energy, findings).
"""

from __future__ import annotations

import json
import os
import sys
import sysconfig
from functools import cached_property
from pathlib import Path
from typing import Any

from duetto.errors import UserError
from duetto.files import read_json, sha256_file
from duetto.recipe import ROOT
from duetto.run import Run
from release.config import ModelKind, ReleaseConfig
from release.traced import Document, Traced, plain

STAGES = ("tokenize", "pretrain", "convert", "sft", "dpo", "eval")
"""Stages whose manifests a card may quote, in pipeline order."""


class CardFacts:
    """Facts about one model of a run.

    Raises:
        UserError: the model was not made, or a manifest it depends on is missing.
    """

    def __init__(self, run: Run, kind: ModelKind):
        self.run, self.kind = run, kind
        self.release: ReleaseConfig = run.recipe.release
        self.languages = run.recipe.languages
        self.digests: dict[str, str] = {}
        needed = ["tokenize", "pretrain", "convert", *(["sft"] if kind == "instruct" else [])]
        for stage in needed:
            run.require(stage)
        self.model_folder = run.path(kind)
        if not (self.model_folder / "config.json").is_file():
            verb = "sft" if kind == "instruct" else "convert"
            raise UserError(f"{self.model_folder}: holds no model; run: duetto {verb} --recipe {run.recipe.file}")
        self.recipe = Document(neutral(run.recipe.resolved, run), "recipe.yaml")
        self.m = {name: doc for name in STAGES if (doc := self.open("manifests", f"{name}.json")) is not None}
        self.arch: Document = self.open(kind, "config.json")  # type: ignore[assignment]
        self.parity = self.open("base", "parity.json")
        self.mixture = self.open("tokens", "mixture.json")

    def open(self, *parts: str) -> Document | None:
        """A JSON file of the run folder as a traced document; None where it is not."""
        path = self.run.path(*parts)
        if not path.is_file():
            return None
        name = "/".join(parts)
        self.digests[name] = sha256_file(path)
        return Document(read_json(path), name)

    # The model

    @cached_property
    def weights(self) -> Document:
        """Counted from the headers of the weight files, not believed from a manifest."""
        return Document(count_weights(self.model_folder), f"{self.kind}/*.safetensors")

    @property
    def name(self) -> Traced:
        return Traced(self.release.name_of(self.kind), ("recipe.yaml#/release/model_name",))

    @property
    def license(self) -> Traced:
        return Traced(self.release.license, ("recipe.yaml#/release/license",))

    @property
    def rope_theta(self) -> Traced | None:
        found = self.arch.at("rope_parameters", "rope_theta") or self.arch.at("rope_theta")
        return found if isinstance(found, Traced) else None

    @property
    def recipe_file(self) -> Traced:
        file = self.run.recipe.file.resolve()
        shown = file.relative_to(ROOT).as_posix() if file.is_relative_to(ROOT) else file.name
        return Traced(shown, ("recipe.yaml",))

    @property
    def checkpoints(self) -> str | list[Traced]:
        """``none``, ``all``, or the steps that push publishes as revisions."""
        chosen = self.release.checkpoints
        if isinstance(chosen, str):
            return chosen
        return [Traced(s, (f"recipe.yaml#/release/checkpoints/{i}",)) for i, s in enumerate(chosen)]

    @property
    def year(self) -> Traced:
        started = self.m["pretrain"]["started"]
        return Traced(str(started.value)[:4], started.sources)

    @property
    def citation_key(self) -> Traced:
        name = "".join(c if c.isalnum() else "_" for c in self.release.name_of(self.kind).lower())
        return Traced(name, ("recipe.yaml#/release/model_name",))

    # Data

    @cached_property
    def sources(self) -> list[dict[str, Any]]:
        """One row a source: documents and tokens on disk, tokens drawn, epochs, share of what was consumed."""
        on_disk = self.m["tokenize"].at("metrics", "sources") or Document({}, "manifests/tokenize.json")
        rows = []
        for name in on_disk:
            row: dict[str, Any] = {"name": on_disk.text(name), "documents": on_disk.at(name, "documents")}
            row |= {"tokens": on_disk.at(name, "tokens"), "bytes": on_disk.at(name, "bytes")}
            drawn = None
            for stage in (self.mixture.at("stages") or ()) if self.mixture else ():
                if (planned := stage.at("sources", name)) is not None:
                    drawn = planned["tokens"] if drawn is None else drawn + planned["tokens"]
            row["drawn"] = drawn
            rows.append(row)
        total = None
        for row in rows:
            if row["drawn"] is not None:
                total = row["drawn"] if total is None else total + row["drawn"]
        for row in rows:
            row["share"] = row["drawn"] / total if total and row["drawn"] is not None else None
            # The run may have used fewer tokens than were planned: what was consumed follows from the share.
            consumed = self.m["pretrain"].at("metrics", "tokens")
            row["consumed"] = row["share"] * consumed if row["share"] is not None and consumed else None
            row["epochs"] = row["consumed"] / row["tokens"] if row["consumed"] is not None and row["tokens"] else None
        return rows

    def seconds(self, stage: str) -> Traced | None:
        """Time of a stage; the data stage is many small ones, each with a manifest of its own."""
        manifest = self.m[stage]
        total = manifest.at("metrics", "seconds_total") or manifest.at("seconds")
        if stage != "tokenize" or manifest.at("metrics", "seconds_total") is not None:
            return total
        for part in data_stages(self.run):
            if (document := self.open("manifests", f"{part}.json")) is not None and total is not None:
                total = total + document["seconds"]
        return total

    # Training

    @cached_property
    def stages(self) -> list[dict[str, Any]]:
        """One entry a pretraining stage: the hyperparameters as used."""
        return [pretraining_row(stage, i) for i, stage in enumerate(self.recipe["pretrain"])]

    @cached_property
    def devices(self) -> Traced | int:
        stage = self.recipe["pretrain"][0]
        found = [stage.at("parallelism", axis) for axis in ("dp", "tp", "pp")]
        known = [x for x in found if isinstance(x, Traced)]
        product = known[0] if known else 1
        for factor in known[1:]:
            product = product * factor
        return product

    def gpu(self, stage: str) -> Traced | None:
        """Model of the GPUs that a stage ran on; None on CPUs."""
        found = self.m[stage].at("host", "gpus", 0)
        return found if isinstance(found, Traced) else None

    def used(self, stage: str) -> Traced | int:
        """GPUs of a stage; on CPUs the machine counts as one device."""
        if self.gpu(stage) is None:
            return 1
        return self.devices if stage == "pretrain" else self.m[stage].at("metrics", "processes") or 1

    @cached_property
    def energy(self) -> dict[str, Traced] | None:
        """kWh of all stages from the assumed draw; None where the recipe gives none."""
        assumed = self.recipe.at("release", "energy")
        if not isinstance(assumed, Document):
            return None
        seconds = None
        for stage in self.m:
            if (spent := self.seconds(stage)) is not None:
                spent = spent * self.used(stage)
                seconds = spent if seconds is None else seconds + spent
        kwh = seconds * assumed["watts_per_device"] / 3_600_000
        if (pue := assumed.at("pue")) is not None:
            kwh = kwh * pue
        out = {"kwh": kwh, "watts": assumed["watts_per_device"]}
        if assumed.at("grams_co2_per_kwh") is not None and assumed.at("grams_co2_per_kwh").value is not None:
            out["kg"] = kwh * assumed["grams_co2_per_kwh"] / 1000
            out["grid"] = assumed["grams_co2_per_kwh"]
        return out


def data_stages(run: Run) -> list[str]:
    """The finished parts of the data stage."""
    found = sorted(p.stem for p in run.path("manifests").glob("*.json"))
    return [n for n in found if n in ("corpus", "dedup", "tokenizer") or n.startswith(("clean-", "tokens-"))]


def pretraining_row(stage: Document, index: int) -> dict[str, Any]:
    """Hyperparameters of one nanotron stage file, None for what it leaves to the engine."""
    optimizer, scheduler = stage.at("optimizer"), stage.at("optimizer", "learning_rate_scheduler")
    get = stage.at
    row: dict[str, Any] = {
        "steps": get("tokens", "train_steps"),
        "sequence": get("tokens", "sequence_length"),
        "micro_batch": get("tokens", "micro_batch_size"),
        "accumulation": get("tokens", "batch_accumulation_per_replica"),
        "dp": get("parallelism", "dp"),
        "tp": get("parallelism", "tp"),
        "pp": get("parallelism", "pp"),
        "optimizer": get("optimizer", "optimizer_factory", "name"),
        "muon_learning_rate": get("optimizer", "optimizer_factory", "muon_learning_rate"),
        "zero": get("optimizer", "zero_stage"),
        "weight_decay": get("optimizer", "weight_decay"),
        "clip": get("optimizer", "clip_grad"),
        "betas": [optimizer.at("optimizer_factory", f"adam_beta{i}") for i in (1, 2)] if optimizer else [],
        "seed": get("general", "seed"),
    }
    keys = ("learning_rate", "lr_warmup_steps", "lr_decay_starting_step", "lr_decay_steps", "min_decay_lr")
    row |= {key: scheduler.at(key) if scheduler else None for key in keys}
    row["decay"] = scheduler.at("lr_decay_style") if scheduler else None
    parts = [row[k] for k in ("micro_batch", "accumulation", "dp", "sequence") if row[k] is not None]
    row["tokens_per_step"] = None
    if len(parts) == 4:
        row["tokens_per_step"] = parts[0] * parts[1] * parts[2] * parts[3]
    # Warm-up, stable, decay where the decay starts after the warm-up; otherwise the decay's own name.
    start, warmup = plain(row["lr_decay_starting_step"]), plain(row["lr_warmup_steps"]) or 0
    row["wsd"] = start is not None and start > warmup
    name = get("general", "run")
    numbered = Traced(str(index + 1), (f"recipe.yaml#/pretrain/{index}",))
    row["name"] = name if name is not None and name.value else numbered
    return row


def count_weights(folder: Path) -> dict[str, Any]:
    """Parameters, tensors, bytes and data types from the headers of ``*.safetensors``.

    Raises:
        UserError: there are no weight files, or one is torn.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder}: holds no *.safetensors; run the stage that makes it again")
    parameters, tensors, size, dtypes = 0, 0, 0, set()
    for file in files:
        with file.open("rb") as f:
            length = int.from_bytes(f.read(8), "little")
            if not 0 < length < file.stat().st_size:
                raise UserError(f"{file}: is torn (its header does not fit); run the stage that makes it again")
            header = json.loads(f.read(length))
        ends = [t["data_offsets"][1] for name, t in header.items() if name != "__metadata__"]
        if 8 + length + max(ends, default=0) != file.stat().st_size:
            raise UserError(f"{file}: is torn (size and header disagree); run the stage that makes it again")
        for name, tensor in header.items():
            if name == "__metadata__":
                continue
            count = 1
            for n in tensor["shape"]:
                count *= n
            parameters, tensors = parameters + count, tensors + 1
            dtypes.add(tensor["dtype"])
        size += file.stat().st_size
    return {"parameters": parameters, "tensors": tensors, "bytes": size, "dtype": " ".join(sorted(dtypes)).lower()}


def neutral(value: Any, run: Run) -> Any:
    """Absolute paths of this machine back to the names a recipe uses: {run}, {root}, {stdlib}, ~."""
    names = [(str(run.root), "{run}"), (str(ROOT), "{root}"), (sysconfig.get_path("stdlib"), "{stdlib}")]
    names += [(sys.prefix, "{env}"), (os.path.expanduser("~"), "~")]
    if isinstance(value, dict):
        return {k: neutral(v, run) for k, v in value.items()}
    if isinstance(value, list):
        return [neutral(v, run) for v in value]
    if isinstance(value, str):
        for path, name in names:
            if len(path) > 1:
                value = value.replace(path, name)
    return value
