"""From a run and its recipe to jobs: what each pretraining file trains on, from where, and what must not change.

Everything that can be wrong with the input is found here, before a process starts.
"""

from pathlib import Path
from typing import Any

from duetto.errors import UserError
from duetto.files import read_json, sha256_file
from duetto.run import Run
from pretrain import arithmetic, mapping
from pretrain.config import PretrainConfig
from pretrain.job import DataStage, Job, ValidationSet
from pretrain.start import digest, local_folder


def jobs(run: Run) -> list[Job]:
    """One job a pretraining file, chained: the second starts from the weights of the first, and so on.

    Raises:
        UserError: the token files are missing or of another tokenizer, or a budget needs too many passes.
    """
    mixture = read_json(run.path("tokens", "mixture.json"))
    _same_tokenizer(run, mixture)
    made: list[Job] = []
    for index, given in enumerate(run.recipe.pretrain):
        config = mapping.with_vocabulary(given, mixture["tokenizer"]["vocab_size"])
        made.append(_job(run, config, index, mixture, made))
    return made


def _same_tokenizer(run: Run, mixture: dict[str, Any]) -> None:
    path = run.path("tokenizer", "tokenizer.json")
    if not path.exists():
        raise UserError(f"{path}: no such file; run: duetto tokenize --recipe {run.recipe.file}")
    if sha256_file(path) != mixture["tokenizer"]["sha256"]:
        raise UserError(
            f"{run.path('tokens', 'mixture.json')} was made with another tokenizer than {path}; "
            f"run: duetto tokenize --recipe {run.recipe.file} --force"
        )


def _job(run: Run, config: PretrainConfig, index: int, mixture: dict[str, Any], before: list[Job]) -> Job:
    t, own = config.tokens, config.duetto
    checkpoints = mapping.checkpoints_folder(config, run.root)
    root = run.path("pretrain")
    data = _data(run, config, index, mixture)
    _enough(config, data, mixture)
    offset = before[-1].last_step if before else 0
    tokens_before = before[-1].tokens_before + before[-1].steps * before[-1].tokens_per_step if before else 0
    shape = config.model.shape
    tokenizer = mixture["tokenizer"]
    return Job(
        folder=str(root),
        stage=index,
        offset=offset,
        tokens_before=tokens_before,
        nanotron=mapping.to_nanotron(
            config,
            checkpoints=checkpoints,
            run_name=run.recipe.name,
            tokenizer=str(run.path("tokenizer")),
        ),
        model=mapping.model_options(config),
        optimizer=mapping.optimizer_options(config),
        schedule=config.optimizer.learning_rate_scheduler,
        data=data,
        validation=mapping.validation_options(config, _validation(run, mixture)),
        checkpoints=mapping.checkpoint_options(config, converted(run)),
        guards=mapping.guard_options(config),
        eos_id=tokenizer["eos_id"],
        init_from=_start(config, root, offset),
        resume_from=_resume(config) if not before else None,
        identity=_identity(config, data, mixture, index),
        flops_per_token=arithmetic.flops_per_token(shape, t.sequence_length),
        flops_per_token_causal=arithmetic.flops_per_token(shape, t.sequence_length, causal=True),
        device=own.device,
        threads=own.threads,
        max_restarts=own.watch.max_restarts,
        trackers=list(own.trackers),
        compare_before=own.compare_before,
    )


def _data(run: Run, config: PretrainConfig, index: int, mixture: dict[str, Any]) -> list[DataStage]:
    own = config.duetto
    if not config.stages:
        names = [s["name"] for s in mixture["stages"]]
        stage = own.mixture_stage or (names[index] if index < len(names) else None)
        if stage is None or stage not in names:
            raise UserError(
                f"pretraining file {index + 1} of {len(run.recipe.pretrain)} has no data: tokens/mixture.json has the "
                f"stages {', '.join(names)}; add a stage to the data configuration, or set duetto.mixture_stage"
            )
        seed = own.data_seed if own.data_seed is not None else config.general.seed
        return [
            DataStage(
                name=stage,
                mixture=str(run.path("tokens", "mixture.json")),
                mixture_stage=names.index(stage),
                seed=seed,
                loader_workers=own.loader_workers,
            )
        ]
    out = []
    for s in config.stages:
        folders = s.data.dataset.dataset_folder
        local = s.data.dataset.dataset_read_path
        found = local if local and all(Path(f).is_dir() for f in local) else folders
        out.append(
            DataStage(
                name=s.name,
                start_step=s.start_training_step,
                folders=list(found),
                weights=s.data.dataset.shares,
                seed=config.general.seed if s.data.seed is None else s.data.seed,
                loader_workers=s.data.num_loading_workers,
            )
        )
    return out


def _enough(config: PretrainConfig, data: list[DataStage], mixture: dict[str, Any]) -> None:
    """Open every stage once, in the parent: shards are checked, and passes over a source are counted."""
    from pretrain.samples import open_samples

    ends = [s.start_step for s in data[1:]] + [config.tokens.train_steps + 1]
    for stage, end in zip(data, ends):
        samples = open_samples(
            stage,
            config.tokens.sequence_length,
            mixture["tokenizer"]["eos_id"],
            config.model.shape.vocab_size,
            max_epochs=config.duetto.max_epochs,
        )
        samples.require((end - stage.start_step) * config.samples_per_step)


def _validation(run: Run, mixture: dict[str, Any]) -> list[ValidationSet]:
    return [
        ValidationSet(
            name=name,
            file=str(run.path("tokens", entry["path"])),
            tokens=entry["tokens"],
            bytes=entry["bytes"],
            token_size=mixture["token_size"],
        )
        for name, entry in mixture["validation"].items()
    ]


def _resume(config: PretrainConfig) -> str | None:
    path = config.checkpoints.resume_checkpoint_path
    if path is not None and not Path(path).is_dir():
        raise UserError(f"checkpoints.resume_checkpoint_path: {path}: no such checkpoint folder; a start without it "
                        "would be a new training")  # fmt: skip
    return path


def converted(run: Run) -> list[int]:
    """Steps that became a model (base/, base-<step>/): what was released can be made again only from them."""
    return sorted({int(read_json(p)["step"]) for p in run.root.glob("base*/parity.json")})


def _start(config: PretrainConfig, root: Path, offset: int) -> str | None:
    """Weights to start from: a model that the file names, or the last checkpoint of the file before."""
    path = config.model.init_method.path
    if path is not None:
        return str(local_folder(path))
    return str(root / "checkpoints" / str(offset)) if offset else None


def _identity(config: PretrainConfig, data: list[DataStage], mixture: dict[str, Any], index: int) -> dict[str, Any]:
    """What decides the numbers of a run; kept in every COMMIT and compared before a continuation."""
    t, o = config.tokens, config.optimizer
    return {
        "stage": index,
        "samples_per_step": config.samples_per_step,
        "sequence_length": t.sequence_length,
        "seed": config.general.seed,
        "dtype": config.model.dtype,
        "shape": config.model.shape.model_dump(mode="json"),
        "optimizer": o.model_dump(mode="json", exclude={"zero_stage"}),
        "tokenizer": mixture["tokenizer"]["sha256"],
        "data": [_data_identity(s, mixture) for s in data],
        "document_masking": bool(config.duetto.document_masking),
        "train_steps": t.train_steps,
        "start": digest(local_folder(config.model.init_method.path)) if config.model.init_method.path else None,
    }


def _data_identity(stage: DataStage, mixture: dict[str, Any]) -> dict[str, Any]:
    from duetto.files import sha256_json

    out: dict[str, Any] = {"name": stage.name, "seed": stage.seed, "start_step": stage.start_step}
    if stage.mixture:
        drawn = mixture["stages"][stage.mixture_stage]["sources"]
        shards = {n: [s["sha256"] for s in mixture["sources"][n]["shards"]] for n in drawn}
        out["mixture"] = sha256_json([{n: d["tokens"] for n, d in drawn.items()}, shards])[:16]
    else:
        out |= {"folders": stage.folders, "weights": stage.weights}
    return out
