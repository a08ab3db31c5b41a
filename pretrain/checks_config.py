"""Checks of what the recipe says: engine versions, chaining, schedule, horizon, guards."""

import importlib.metadata
import shutil

from packaging.requirements import Requirement

from pretrain.checks import SHAPE, Facts, Finding, fail, ok, skip, warn, worst
from pretrain.mapping import checkpoints_folder

ENGINES = ("nanotron", "datatrove", "torch", "tokenizers", "safetensors")
"""Those whose behaviour pretrain/compat and the token format rely on."""


def engine_versions(facts: Facts) -> Finding:
    """The installed engines are the tested ones (pins of this project's own metadata)."""
    pins = {}
    for line in importlib.metadata.requires("duetto") or []:
        requirement = Requirement(line)
        if "==" in str(requirement.specifier):
            pins[requirement.name] = requirement.specifier
    wrong, seen = [], []
    for name in ENGINES:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{name} is not installed")
            continue
        seen.append(f"{name} {version}")
        if name in pins and not pins[name].contains(version.partition("+")[0]):
            wrong.append(f"{name} is {version}, tested with {pins[name]}")
    if wrong:
        return fail("; ".join(wrong), "make setup, which installs constraints.txt")
    return ok(", ".join(seen))


def stages_chained(facts: Facts) -> Finding:
    """Each file continues the model of the one before: same shape, same tokenizer, every stretch of steps fed."""
    fixed = [*SHAPE, "vocab_size", "tie_word_embeddings", "rms_norm_eps", "rope_interleaved"]
    first = facts.configs[0].model.shape
    for i, config in enumerate(facts.configs[1:], 2):
        for key in fixed:
            a, b = getattr(first, key), getattr(config.model.shape, key)
            if a != b:
                return fail(
                    f"file {i} has {key} {b}, file 1 has {a}: it cannot continue that model",
                    f"set model.model_config.{key} to {a}, or make file {i} a recipe of its own",
                )
    stages = [s for config in facts.configs for s in config.stages]
    chain = " -> ".join(c.general.run or f"file {i}" for i, c in enumerate(facts.configs, 1))
    return ok(f"{chain}; {len(stages)} data stages" if stages else chain)


def schedule_written(facts: Facts) -> Finding:
    """Start and length of the decay are written and end with the training."""
    curves = []
    for i, config in enumerate(facts.configs):
        s = config.optimizer.learning_rate_scheduler
        problem = s.problem(config.tokens.train_steps)
        if problem:
            return fail(facts.name(i) + problem, "write all three; `duetto pretrain --dry-run` draws the curve")
        curves.append(
            f"{facts.name(i)}{s.learning_rate:g} after {s.lr_warmup_steps:,} steps, {s.lr_decay_style} decay from "
            f"{s.lr_decay_starting_step:,} to {s.min_decay_lr:g} at {config.tokens.train_steps:,}"
        )
    return ok("; ".join(curves))


def true_horizon(facts: Facts) -> Finding:
    """The steps use the token budget: not more than it, and not much less."""
    findings = []
    budgets = {s.name: sum(s.tokens.values()) for s in getattr(facts.recipe.data, "stages", [])}
    for i, config in enumerate(facts.configs):
        if config.data_stages is not None:
            findings.append(ok(f"{facts.name(i)}{config.total_tokens:,} tokens; its data_stages have no budget"))
            continue
        stage = facts.draws[i][0].stage
        budget, total = budgets[stage], config.total_tokens
        text = f"{facts.name(i)}{config.tokens.train_steps:,} steps take {total:,} tokens, the budget is {budget:,}"
        if not 0.8 * budget <= total <= 1.05 * budget:
            steps = round(budget / config.tokens_per_step)
            findings.append(
                warn(text, f"set tokens.train_steps to {steps:,} (and the decay with it), or change the budgets")
            )
        else:
            findings.append(ok(f"{text} ({total / budget:.0%} of it)"))
    return worst(findings)


def watches(facts: Facts) -> Finding:
    """NaN, spikes, stalls and slow ranks are watched."""
    findings = []
    for i, config in enumerate(facts.configs):
        w = config.duetto.watch
        if w.spike_sigma is None:
            findings.append(warn(facts.name(i) + "loss spikes are not recorded", "set duetto.watch.spike_sigma to 6"))
        elif w.stall_seconds > 3600:
            findings.append(
                warn(
                    f"{facts.name(i)}a stalled run is noticed after {w.stall_seconds:g} s, with all GPUs idle",
                    "set duetto.watch.stall_seconds to 1800 or less",
                )
            )
        else:
            findings.append(
                ok(
                    f"{facts.name(i)}spikes above {w.spike_sigma:g} sigma are "
                    f"{'skipped' if w.skip_spikes else 'recorded'}; a step of {w.stall_seconds:g} s ends it; ranks "
                    f"{w.slow_rank_factor:g} times slower are named"
                )
            )
    return worst(findings)


def no_late_compilation(facts: Facts) -> Finding:
    """What is compiled when training starts can be compiled on a compute node: torch.compile calls a C compiler."""
    by_default = _gpu(facts)
    for c in facts.configs:
        able = c.parallelism.tp == 1 and not c.duetto.document_masking
        if c.duetto.compile_layers or (c.duetto.compile_layers is None and able and by_default):
            break
    else:
        return ok("nothing is compiled at run time")
    compiler = next((c for c in ("cc", "gcc", "clang") if shutil.which(c)), None)
    if compiler is None:
        return fail(
            "duetto.compile_layers needs a C compiler when training starts, and this machine has none",
            "load a compiler module in the cluster file (modules: [gcc]), or set duetto.compile_layers=false",
        )
    where = "here; compute nodes need it too" if facts.cluster else "here"
    return ok(f"torch.compile of the decoder layers; {compiler} is {where}")


def _gpu(facts: Facts) -> bool:
    from pretrain.checks_machine import local_gpus

    return all(c.duetto.device != "cpu" for c in facts.configs) and bool(facts.cluster or local_gpus())


def schedule_restart(facts: Facts) -> Finding:
    """A file that restarts the learning rate does not start the data over: sample k follows from stage and seed."""
    seen: dict[tuple[str, int], int] = {}
    for i, config in enumerate(facts.configs):
        for draw in facts.draws[i]:
            stage = next((s for s in config.stages if s.name == draw.stage), None)
            seed = stage.data.seed if stage else config.duetto.data_seed
            key = (draw.source if stage else draw.stage, config.general.seed if seed is None else seed)
            first = seen.setdefault(key, i)
            if first != i:
                return fail(
                    f"file {i + 1} restarts the schedule and would read {key[0]} from the start again, in the order "
                    f"that file {first + 1} read it (seed {key[1]})",
                    f"give file {i + 1} another seed (duetto.data_seed, or seed of its data_stages)",
                )
    if len(facts.configs) == 1:
        return ok("one schedule; the data position follows from the step")
    return ok(f"{len(facts.configs)} schedules, each with data of its own")


def document_masking_stated(facts: Facts) -> Finding:
    """Whether documents of one window see each other is written down."""
    for i, config in enumerate(facts.configs):
        if config.duetto.document_masking is None:
            return warn(
                facts.name(i) + "duetto.document_masking is not stated; documents of one window see each other",
                "write duetto.document_masking: false (as published) or true",
            )
    stated = ", ".join("masked" if c.duetto.document_masking else "not masked" for c in facts.configs)
    return ok(f"documents are {stated}")


def retention(facts: Facts) -> Finding:
    """Checkpoints are pruned by rule."""
    findings = []
    for i, config in enumerate(facts.configs):
        keep, interval = config.duetto.keep, config.checkpoints.checkpoint_interval
        written = -(-config.tokens.train_steps // interval)
        milestones = sum(
            1 for s in range(interval, config.tokens.train_steps + 1, interval) if keep.every and s % keep.every == 0
        )
        kept = min(written, keep.last + milestones)
        text = f"{facts.name(i)}{kept} of {written} checkpoints stay in {checkpoints_folder(config, facts.run_root)}"
        if kept > 100:
            findings.append(warn(text, "raise duetto.keep.every, a multiple of checkpoint_interval"))
        elif keep.every and keep.every % interval:
            findings.append(
                warn(
                    f"{facts.name(i)}duetto.keep.every {keep.every} is no multiple of checkpoint_interval {interval}: "
                    f"only {milestones} checkpoints match",
                    f"set duetto.keep.every to a multiple of {interval}",
                )
            )
        else:
            findings.append(ok(text))
    return worst(findings) if findings else skip("no pretraining file")
