"""From sources to shuffled token shards and their mixture.

    duetto tokenize [--recipe FILE] [--only clean|dedup|tokenize|mix]

The steps are stages of their own, one for each source where sources are independent: ``corpus`` (generated, when asked
for), ``clean-<source>``, ``dedup``, ``tokenizer``, ``tokens-<source>``, ``tokens-validation`` and ``tokenize``, which
writes the mixture and the report and is what later stages require.
"""

import argparse
import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.config import DataConfig, Source
from duetto.console import log
from duetto.errors import UserError
from duetto.files import disk_full, read_json, sha256_json, write_json
from duetto.recipe import ROOT, TokenizerTraining
from duetto.run import Run
from duetto.stage import Job, Stage

ORDER = ("clean", "dedup", "tokenize", "mix")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", choices=ORDER, help="stop after this part (what it needs must be done)")


def run(run: Run, args: argparse.Namespace) -> None:
    try:
        _run(run, args)
    except OSError as e:
        if e.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise disk_full(Path(e.filename) if e.filename else run.root) from e


def _run(run: Run, args: argparse.Namespace) -> None:
    for part in ("data", "tokens", "tokenizer"):
        for torn in run.path(part).rglob(".*.part"):
            if torn.is_file():  # written beside its place by a run that was killed
                torn.unlink()
    only, force = getattr(args, "only", None), args.force
    wanted = (only,) if only else ORDER
    if "clean" in wanted:
        _clean(run, force)
    if "dedup" in wanted:
        _dedup(run, force)
    if "tokenize" in wanted:
        _tokenizer(run, force)
        _tokens(run, force)
    if "mix" in wanted:
        _mix(run, force)


def _config(run: Run) -> DataConfig:
    config = run.recipe.data
    assert isinstance(config, DataConfig)
    return config


def _active(config: DataConfig) -> dict[str, Source]:
    """Sources with a budget in some stage; the others are not read."""
    used = {name for stage in config.stages for name, tokens in stage.tokens.items() if tokens}
    return {name: source for name, source in config.sources.items() if name in used}


# -- corpus and cleaning ----------------------------------------------------------------------------------------------


def _clean(run: Run, force: bool) -> None:
    config = _config(run)
    generated = []
    if config.generate is not None:
        options = config.generate
        generated = ["corpus"]

        def make(job: Job) -> dict[str, Any]:
            from data.demo.corpus import write_corpus

            return {"parts": write_corpus(run.path("corpus"), seed=options.seed, scale=options.scale)["parts"]}

        from data.demo import corpus

        Stage(
            "corpus",
            version=corpus.VERSION,
            config=options.model_dump(),
            outputs=[run.path("corpus")],
            work=make,
        ).execute(run, force)
    for name, source in _active(config).items():
        _clean_source(run, name, source, generated, force)


def _clean_source(run: Run, name: str, source: Source, inputs: list[str], force: bool) -> None:
    from data.sources import list_files, listing_digest, tasks_of

    config = _config(run)
    named, fetched = source, None
    if source.kind == "hub":
        from data import hub

        fetched = None if source.stream else hub.fetched_source(run, name, source.path)
        found = fetched["folder"] if fetched else hub.parse(source.path).url
        source = source.model_copy(update={"path": found})
    files = list_files(source, name)
    if fetched and (len(files) != fetched["files"] or not all(Path(source.path, f).exists() for f in files)):
        raise UserError(
            f"source {name}: `duetto fetch` brought {fetched['files']} files of {named.path}, and not all of these or "
            f"others are in {source.path}; run `duetto fetch` again"
        )
    folder = run.path("data", name)

    def work(job: Job) -> Mapping[str, Any]:
        from data.clean import clean_source

        return clean_source(run, name, source, files, folder)

    Stage(
        f"clean-{name}",
        version=1,
        config={
            "source": named.model_dump(),
            "blocks": source.blocks,
            "bad_files": config.bad_files,
            "tasks": tasks_of(source, files, config),
            "input": listing_digest(source, files) | ({"commit": fetched["commit"]} if fetched else {}),
            "validation": _digests(config.validation.files),
            "decontaminate": _decontamination(run, source),
        },
        inputs=inputs,
        outputs=[folder],
        work=work,
    ).execute(run, force)


def _digests(files: Mapping[str, str]) -> dict[str, str]:
    from duetto.files import sha256_file

    return {name: sha256_file(p) if Path(p).is_file() else "absent" for name, p in files.items()}


def _decontamination(run: Run, source: Source) -> Any:
    """What decides which documents are contaminated; None when it is off for this source."""
    config = _config(run).decontaminate
    if not config.enabled or not source.decontaminate:
        return None
    from data.decontaminate import benchmark_files

    return {**config.model_dump(), "benchmarks": _digests(benchmark_files(run))}


# -- deduplication ----------------------------------------------------------------------------------------------------


def _dedup(run: Run, force: bool) -> None:
    config = _config(run)
    sources = _active(config)

    def work(job: Job) -> Mapping[str, Any]:
        from data.dedup import deduplicate

        return deduplicate(run, config, sources)

    Stage(
        "dedup",
        version=1,
        config={
            "dedup": config.dedup.model_dump(),
            "sources": {n: [s.language, s.dedup] for n, s in sources.items()},
        },
        inputs=[f"clean-{name}" for name in sources],
        outputs=[run.path("data", "dedup")],
        work=work,
    ).execute(run, force)


# -- tokenizer and tokens ---------------------------------------------------------------------------------------------


def _tokenizer(run: Run, force: bool) -> None:
    config, wanted = _config(run), run.recipe.tokenizer
    folder = run.path("tokenizer")
    if isinstance(wanted, TokenizerTraining):
        budgets = {n: sum(s.tokens.get(n, 0) for s in config.stages) for n in _active(config)}

        def work(job: Job) -> Mapping[str, Any]:
            from data.train_tokenizer import train_on_run

            return train_on_run(run, budgets, wanted.train.vocab_size, wanted.train.bytes, config.validation.holdout)

        Stage(
            "tokenizer",
            version=1,
            config={"train": wanted.train.model_dump(), "budgets": budgets, "holdout": config.validation.holdout},
            inputs=["dedup", *(f"clean-{n}" for n in budgets)],
            outputs=[folder],
            work=work,
        ).execute(run, force)
        return
    from data.encode import load_tokenizer

    source = find_tokenizer(run, wanted)

    def copy(job: Job) -> Mapping[str, Any]:
        from data.train_tokenizer import adopt

        adopt(source, folder)
        return {"vocab_size": load_tokenizer(folder).vocab_size}

    Stage(
        "tokenizer",
        version=1,
        config={"from": wanted, "sha256": load_tokenizer(source).sha256},
        outputs=[folder],
        work=copy,
    ).execute(run, force)


def find_tokenizer(run: Run, name: str) -> Path:
    """A local file or folder, or what ``duetto fetch`` brought of a Hub id: the commit that it brought for this run.

    Raises:
        UserError: neither.
    """
    for path in (Path(name), ROOT / name):
        if path.exists():
            return path
    if name.endswith(".json") or name.startswith((".", "/")) or name.count("/") != 1:
        raise UserError(f"tokenizer: {name}: no such file or folder, and not a Hub id (namespace/name)")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    from data import hub

    commit = (hub.fetched(run, "tokenizer", name) or {}).get("commit")
    try:
        path = Path(hf_hub_download(name, "tokenizer.json", revision=commit, local_files_only=True))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError):
        raise UserError(
            f"tokenizer: {name} is not on this machine; run `duetto fetch` where there is internet (the Llama "
            "tokenizers need an accepted licence and a login), or name a local tokenizer.json"
        ) from None
    return path.parent


def _tokens(run: Run, force: bool) -> None:
    config = _config(run)
    for name in _active(config):
        _tokens_of_source(run, name, force)

    def work(job: Job) -> Mapping[str, Any]:
        from data.tokenization import tokenize_validation

        return tokenize_validation(run, config, list(_active(config)))

    Stage(
        "tokens-validation",
        version=2,
        config={"validation": config.validation.model_dump(), "files": _digests(config.validation.files)},
        inputs=[
            "tokenizer",
            *(["dedup", *(f"clean-{n}" for n in _active(config))] if config.validation.holdout else []),
        ],
        outputs=[run.path("tokens", "validation")],
        work=work,
    ).execute(run, force)


def _tokens_of_source(run: Run, name: str, force: bool) -> None:
    config = _config(run)

    def work(job: Job) -> Mapping[str, Any]:
        from data.tokenization import tokenize_source

        return tokenize_source(run, name, config)

    Stage(
        f"tokens-{name}",
        version=1,
        # The engine is no part of it: all give the same bytes.
        config={
            "tokens_per_shard": config.tokenization.tokens_per_shard,
            "seed": config.tokenization.seed,
            "holdout": config.validation.holdout,
        },
        inputs=["tokenizer", "dedup", f"clean-{name}"],
        outputs=[run.path("tokens", name)],
        unhashed=["*.ds"],  # their hashes are in shards.json, made where the shard was made
        work=work,
    ).execute(run, force)


# -- mixture ----------------------------------------------------------------------------------------------------------


def _mix(run: Run, force: bool) -> None:
    config = _config(run)
    sources = _active(config)

    def work(job: Job) -> Mapping[str, Any]:
        return _write_mixture(run, config, sources)

    Stage(
        "tokenize",
        version=3,
        config={
            "stages": [s.model_dump() for s in config.stages],
            "max_epochs": {n: s.max_epochs or config.max_epochs for n, s in sources.items()},
            "languages": {n: s.language for n, s in sources.items()},
        },
        inputs=["tokenizer", "tokens-validation", *(f"tokens-{n}" for n in sources)],
        outputs=[
            run.path("tokens", "mixture.json"),
            *(run.path("data", name) for name in ("report.json", "report.html", "costs.js")),
        ],
        unhashed=["data/costs.js"],
        work=work,
    ).execute(run, force)


def _write_mixture(run: Run, config: DataConfig, sources: Mapping[str, Source]) -> dict[str, Any]:
    from data.encode import load_tokenizer
    from data.mixture import plan_stages

    tokenizer = load_tokenizer(run.path("tokenizer"))
    table = {}
    for name, source in sources.items():
        shards = read_json(run.path("tokens", name, "shards.json"))
        if shards["tokenizer_sha256"] != tokenizer.sha256:
            raise UserError(
                f"tokens/{name} was written with another tokenizer ({shards['tokenizer_sha256'][:16]}) than the run's "
                f"({tokenizer.sha256[:16]}); run `duetto tokenize --only tokenize --force`"
            )
        table[name] = {"language": source.language, **{k: shards[k] for k in ("documents", "tokens", "bytes")}}
        table[name]["shards"] = [{**s, "path": f"{name}/{s['path']}"} for s in shards["shards"]]
    max_epochs = {n: s.max_epochs or config.max_epochs for n, s in sources.items()}
    available = {n: t["tokens"] for n, t in table.items()}
    stages = plan_stages(
        {s.name: {n: t for n, t in s.tokens.items() if t} for s in config.stages}, available, max_epochs
    )
    mixture = {
        "format": 1,
        "tokenizer": {
            "sha256": tokenizer.sha256,
            "vocab_size": tokenizer.vocab_size,
            "eos": tokenizer.eos,
            "eos_id": tokenizer.eos_id,
        },
        "token_size": tokenizer.token_size,
        "max_epochs": max_epochs,
        "stages": stages,
        "sources": table,
        "validation": read_json(run.path("tokens", "validation", "index.json")),
    }
    write_json(run.path("tokens", "mixture.json"), mixture)
    for stage in stages:
        for name, draw in stage["sources"].items():
            log(
                f"  {stage['name']}: {name} {100 * draw['weight']:.1f} % = {draw['tokens']:,} tokens, "
                f"{draw['epochs']:.2f} passes over {available[name]:,}"
            )
    from data.report import write_report

    return {
        **write_report(run, config, sources, mixture),
        "documents": sum(t["documents"] for t in table.values()),
        "tokens": sum(available.values()),
        "sources": {n: {k: t[k] for k in ("documents", "tokens", "bytes")} for n, t in table.items()},
        "mixture": sha256_json(mixture),
    }
