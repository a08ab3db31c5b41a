"""Checks of what training reads: weights, passes, tokenizer, token files, loader speed."""

import time
from pathlib import Path
from typing import Any

from pretrain.arithmetic import flops_per_token
from pretrain.checks import Facts, Finding, fail, ok, skip, warn, worst
from pretrain.config import PretrainConfig
from pretrain.devices import find
from pretrain.plan import MFU
from pretrain.sources import Draw, mixture_index

RESERVED = "<|reserved_special_token_"
"""Llama 3's spare tokens; fine-tuning puts ChatML on two of them where a tokenizer lacks it."""

CHATML = ("<|im_start|>", "<|im_end|>")


def weights_bounded(facts: Facts) -> Finding:
    """Weights are explicit, and no source is passed over more often than its bound."""
    for i, found in enumerate(facts.draws):
        for draw in found:
            if draw.epochs is not None and draw.epochs > draw.max_epochs * 1.02:
                return fail(
                    f"{facts.name(i)}{draw.source} is passed over {draw.epochs:.2f} times (bound {draw.max_epochs:g}): "
                    f"{draw.tokens:,} tokens from {draw.available:,}",
                    "add text, lower its weight or budget, train fewer steps, or raise max_epochs",
                )
    parts = []
    for i, found in enumerate(facts.draws):
        for d in found:
            passes = f", {d.epochs:.2f} passes" if d.epochs is not None else ""
            parts.append(f"{facts.name(i)}{Path(d.source).name} {d.weight:.1%}{passes}")
    return ok("; ".join(parts))


def end_of_data(facts: Facts) -> Finding:
    """Where a source ends and starts over is planned: its bound on passes was written by a person."""
    data = facts.recipe.data
    over: list[Draw] = []
    for config, found in zip(facts.configs, facts.draws):
        for draw in found:
            if draw.epochs is None or draw.epochs <= 1.02:
                continue
            own = getattr(data, "sources", {}).get(draw.source)
            stated = "max_epochs" in (config.duetto if config.data_stages is not None else data).model_fields_set
            if not stated and (own is None or own.max_epochs is None):
                over.append(draw)
    if over:
        draw = over[0]
        return warn(
            f"{draw.source} ends after {1 / (draw.epochs or 1):.0%} of stage {draw.stage} and starts over, up to the "
            f"default bound of {draw.max_epochs:g} passes",
            "write max_epochs in the data configuration (or under duetto:), so that repetition is a decision",
        )
    repeated = [d for found in facts.draws for d in found if (d.epochs or 0) > 1.02]
    known = [d for found in facts.draws for d in found if d.epochs is not None]
    if not known:
        return skip("nothing is tokenized yet")
    return ok(
        ", ".join(f"{Path(d.source).name} {d.epochs:.2f} passes, as planned" for d in repeated) or "no source ends"
    )


def tokenizer_fits(facts: Facts) -> Finding:
    """Model, tokenizer and token files are of one vocabulary, and the tokenizer is a local file."""
    named = facts.recipe.tokenizer
    for i, config in enumerate(facts.configs):
        asked = config.tokenizer.tokenizer_name_or_path
        if asked is not None and isinstance(named, str) and asked != named:
            return fail(
                f"{facts.name(i)}tokenizer.tokenizer_name_or_path is {asked}, the recipe's tokenizer is {named}",
                "make them equal, or set it to null",
            )
    tokenizer = facts.tokenizer
    if tokenizer is None:
        return _before_tokenizing(facts)
    for i, config in enumerate(facts.configs):
        own = config.model.shape.vocab_size
        if own not in (-1, tokenizer.vocab_size):
            return fail(
                f"{facts.name(i)}model.model_config.vocab_size is {own:,}, the tokenizer has "
                f"{tokenizer.vocab_size:,} entries ({tokenizer.path})",
                f"set pretrain.model.model_config.vocab_size={tokenizer.vocab_size} (or -1)",
            )
    if facts.mixture and facts.mixture["tokenizer"]["sha256"] != tokenizer.sha256:
        return fail("the token files were written with another tokenizer than the run's", "duetto tokenize --force")
    return ok(f"{tokenizer.vocab_size:,} entries in model, tokenizer and token files ({tokenizer.path})")


def _before_tokenizing(facts: Facts) -> Finding:
    named = facts.recipe.tokenizer
    if isinstance(named, str):
        return skip(f"{named} is not on this disk yet; duetto fetch brings it, duetto tokenize copies it into the run")
    size = named.train.vocab_size
    for i, config in enumerate(facts.configs):
        if config.model.shape.vocab_size not in (-1, size):
            return fail(
                f"{facts.name(i)}model.model_config.vocab_size is {config.model.shape.vocab_size:,}, the recipe trains "
                f"a tokenizer of {size:,}",
                f"set one of them to the other, for example pretrain.model.model_config.vocab_size={size}",
            )
    return ok(f"a tokenizer of {size:,} entries will be trained")


def token_files_decode(facts: Facts) -> Finding:
    """Ids fit the width of the files and the vocabulary, and the first window of every source is text."""
    tokenizer = facts.tokenizer
    folders = _folders(facts)
    if tokenizer is None or not folders:
        return skip("nothing is tokenized yet")
    import numpy as np

    length = facts.configs[0].tokens.sequence_length + 1
    for name, (path, width) in folders.items():
        if tokenizer.vocab_size > 2 ** (8 * width):
            return fail(
                f"{name}: {width} bytes a token cannot hold a vocabulary of {tokenizer.vocab_size:,}",
                "duetto tokenize --force, with the model's tokenizer",
            )
        first = np.fromfile(path, dtype=f"<u{width}", count=length)
        if len(first) == 0:
            return fail(f"{path} is empty", "duetto tokenize --force")
        if int(first.max()) >= tokenizer.vocab_size:
            return fail(
                f"{path}: token {int(first.max()):,} in the first window, the vocabulary has {tokenizer.vocab_size:,}",
                "it was written with another tokenizer, or another width: duetto tokenize --force",
            )
        text = _decode(facts, first.tolist())
        if text.count("�") > 0.1 * len(text) or not text.strip():
            return fail(
                f"{path}: its first window decodes to no text ({text[:40]!r})",
                "it was written with another tokenizer: duetto tokenize --force",
            )
    return ok(f"the first window of {len(folders)} sources decodes")


def _folders(facts: Facts) -> dict[str, tuple[Path, int]]:
    """First token file of each source and its bytes a token."""
    out: dict[str, tuple[Path, int]] = {}
    if facts.mixture is not None:
        for name, source in facts.mixture["sources"].items():
            if source["shards"]:
                out[name] = (facts.run_root / "tokens" / source["shards"][0]["path"], facts.mixture["token_size"])
    for config in facts.configs:
        for stage in config.stages:
            for folder in stage.data.dataset.folders:
                files = sorted(Path(folder).rglob("*.ds"))
                if files:
                    meta = files[0].with_name(files[0].name + ".metadata")
                    recorded = meta.read_text().splitlines()[0].rpartition("|")[2] if meta.exists() else ""
                    out[folder] = (
                        files[0],
                        int(recorded) if recorded.isdigit() else stage.data.dataset.token_size_in_bytes or 4,
                    )
    return {name: found for name, found in out.items() if found[0].exists()}


def _decode(facts: Facts, ids: list[int]) -> str:
    from tokenizers import Tokenizer

    return str(Tokenizer.from_file(str(facts.tokenizer.path)).decode(ids, skip_special_tokens=True))


def loader_keeps_up(facts: Facts) -> Finding:
    """Reading a step's samples takes less than computing it, measured here on the run's own files."""
    findings = [_fetch_time(facts, i, c) for i, c in enumerate(facts.configs)]
    return worst(findings)


def _fetch_time(facts: Facts, i: int, config: PretrainConfig) -> Finding:
    mixture = _open(facts, i, config)
    if mixture is None:
        return skip("nothing is tokenized yet")
    rows = config.tokens.micro_batch_size * config.tokens.batch_accumulation_per_replica
    mixture.batch(0, rows)  # the first touch opens files
    times = []
    for n in range(1, 6):
        began = time.perf_counter()
        mixture.batch(n * rows * config.parallelism.dp, rows)
        times.append(time.perf_counter() - began)
    fetch = sorted(times)[2]
    text = f"{facts.name(i)}a step's samples are read in {1000 * fetch:.1f} ms"
    device = find(getattr(facts.cluster, "gpu", None))
    if device is None:
        return ok(f"{text}; the time of a step is unknown here")
    rank_tokens = config.tokens_per_step / config.parallelism.world_size
    step = rank_tokens * flops_per_token(config.model.shape, config.tokens.sequence_length) / device.peak_flops / MFU[1]
    text += f", computed in {1000 * step:.0f} ms or more on {device.name}"
    workers = _workers(config)
    # Readers share the disk: count on half of what one measures alone, and on at most four of them.
    allowed = 0.5 * step * min(max(workers, 1), 4) if workers else 0.05 * step
    if fetch > allowed:
        return fail(
            f"{text}, with {workers} loader workers", "raise duetto.loader_workers, or copy the tokens to a faster disk"
        )
    return ok(f"{text}, with {workers} loader workers")


def _workers(config: PretrainConfig) -> int:
    return min((s.data.num_loading_workers for s in config.stages), default=config.duetto.loader_workers)


def _open(facts: Facts, i: int, config: PretrainConfig) -> Any:
    from data.loader import open_folders, open_mixture

    length = config.tokens.sequence_length
    if config.data_stages is None:
        if facts.mixture is None:
            return None
        stage = mixture_index(config, i, [s["name"] for s in facts.mixture["stages"]])
        path = facts.run_root / "tokens" / "mixture.json"
        return open_mixture(path, stage=stage, sequence_length=length, seed=config.general.seed, verify="quick")
    dataset = config.stages[0].data.dataset
    if not all(any(Path(f).rglob("*.ds")) for f in dataset.folders):
        return None
    return open_folders(dataset.folders, dataset.shares, sequence_length=length, seed=1, verify="quick")


def chat_tokens_single(facts: Facts) -> Finding:
    """<|im_start|> and <|im_end|> are one token each, or spare tokens are there for them."""
    tokenizer = facts.tokenizer
    if tokenizer is None:
        return skip("no tokenizer yet")
    missing = [t for t in CHATML if t not in tokenizer.added]
    if not missing:
        return ok(" and ".join(f"{t} is {tokenizer.added[t]}" for t in CHATML))
    spare = sum(t.startswith(RESERVED) for t in tokenizer.added)
    if spare >= len(missing):
        return ok(f"{', '.join(missing)} will take reserved tokens ({spare} are free)")
    return fail(
        f"{', '.join(missing)} would be several tokens in {tokenizer.path}: a chat model often leaves its turn open",
        "add them to the tokenizer before pretraining, or train one (tokenizer: {train: ...})",
    )
