"""The Markdown tables of a card; every number passes through the renderer's filters and keeps its origin."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from release.facts import CardFacts
from release.render import Renderer
from release.scores import Score
from release.traced import Document, Traced, plain

EMPTY = "–"

PRETRAINING_ROWS = (
    *("steps", "sequence", "micro_batch", "accumulation", "tokens_per_step", "dp", "tp", "pp", "zero", "optimizer"),
    *(
        "learning_rate",
        "muon_learning_rate",
        "min_decay_lr",
        "lr_warmup_steps",
        "lr_decay_starting_step",
        "lr_decay_steps",
        "decay",
    ),
    *("weight_decay", "clip", "seed"),
)
SFT_ROWS = (
    *("learning_rate", "lr_scheduler", "cosine_min_lr_ratio", "cosine_constant_lr_ratio", "warmup_steps"),
    *("warmup_ratio", "num_epochs", "max_steps", "micro_batch_size", "gradient_accumulation_steps", "sequence_len"),
    *("sample_packing", "optimizer", "weight_decay", "max_grad_norm", "chat_template", "seed"),
)


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], align: str) -> str:
    """A table; ``align`` has one of ``l r`` a column."""
    rules = {"l": "---", "r": "---:"}
    lines = [header, [rules[a] for a in align], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


class Tables:
    """Tables of one card in one language."""

    def __init__(self, renderer: Renderer, facts: CardFacts):
        self.r, self.f, self.w = renderer, facts, renderer.words

    def language(self, code: str) -> str:
        return str(self.w["languages"].get(code, code))

    def languages(self) -> str:
        names = [self.language(c) for c in self.f.languages]
        return f" {self.w['and']} ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]

    def maybe(self, value: Traced | None, show: Callable[..., str], *args: Any) -> str:
        return EMPTY if value is None or value.value is None else show(value, *args)

    def any(self, value: Traced | None) -> str:
        """A setting as written: text, switch or number."""
        if value is None or value.value is None:
            return EMPTY
        return self.r.cell(value) if isinstance(value.value, str) else self.r.scientific(value)

    def sources(self) -> str:
        r, w = self.r, self.w
        header = [w[k] for k in ("source", "documents", "tokens_on_disk", "tokens_consumed", "share", "passes")]
        rows = [
            [
                r.cell(s["name"]),
                self.maybe(s["documents"], r.integer),
                self.maybe(s["tokens"], r.integer),
                self.maybe(s["consumed"], r.integer),
                self.maybe(s["share"], r.percent),
                self.maybe(s["epochs"], r.number, 2),
            ]
            for s in self.f.sources
        ]
        return markdown(header, rows, "lrrrrr")

    def source_names(self) -> str:
        return ", ".join(self.r.cell(s["name"]) for s in self.f.sources)

    def datasets(self) -> str:
        named = self.f.recipe.at("release", "datasets")
        return ", ".join(self.r.cell(d) for d in named) if named else self.w["none"]

    def contamination(self, found: dict[str, Any]) -> str:
        table, benchmarks = found["table"], found["benchmarks"]
        first = {b: next(row[b] for row in table.values() if b in row) for b in benchmarks}
        header = [self.w["source"], *(self.r.mark(first[b], b) for b in benchmarks)]
        rows = []
        for source, row in table.items():
            counts = [self.maybe(row.get(b), self.r.integer) for b in benchmarks]
            rows.append([self.r.mark(next(iter(row.values())), source), *counts])
        return markdown(header, rows, "l" + "r" * len(benchmarks))

    def pretraining(self) -> str:
        stages, w = self.f.stages, self.w
        header = [w["item"], *(self.r.cell(s["name"]) for s in stages)]
        rows = [
            [w[key], *(self.any(s[key]) for s in stages)]
            for key in PRETRAINING_ROWS
            if any(s[key] is not None for s in stages)
        ]
        rows.append([w["schedule"], *(w["wsd"] if s["wsd"] else self.any(s["decay"]) for s in stages)])
        return markdown(header, rows, "l" + "l" * len(stages))

    def validation(self) -> str:
        found = self.f.m["pretrain"].at("metrics", "validation")
        rows = [
            [
                self.language(lang),
                self.maybe(found.at(lang, "loss"), self.r.number),
                self.maybe(found.at(lang, "bits_per_byte"), self.r.number),
            ]
            for lang in found
        ]
        return markdown([self.w[k] for k in ("language", "loss", "bits_per_byte")], rows, "lrr")

    def sft(self) -> str:
        settings = self.f.recipe.at("sft") or Document({}, "recipe.yaml#/sft")
        rows = [[self.w[k], self.any(settings[k])] for k in SFT_ROWS if plain(settings.at(k)) is not None]
        if (steps := self.f.m["sft"].at("metrics", "steps")) is not None:
            rows.append([self.w["steps"], self.r.integer(steps)])
        return markdown([self.w["item"], self.w["value"]], rows, "ll")

    def times(self) -> str:
        rows = []
        for stage, manifest in self.f.m.items():
            cpus, machine = manifest.at("host", "cpus"), manifest.at("host", "machine")
            where = f"{self.r.integer(cpus)} {self.w['cores']}" if cpus is not None else EMPTY
            where += f" ({self.r.cell(machine)})" if machine is not None else ""
            rows.append([stage, self.maybe(self.f.seconds(stage), self.r.duration), self.gpus(stage) or where])
        return markdown([self.w[k] for k in ("stage", "time", "machine")], rows, "lrl")

    def gpus(self, stage: str) -> str:
        """``64 x NVIDIA A100-SXM4-80GB``; empty on CPUs."""
        model, used = self.f.gpu(stage), self.f.used(stage)
        if model is None:
            return ""
        return (f"{self.r.integer(used)} x " if isinstance(used, Traced) else "") + self.r.cell(model)

    def devices(self) -> str:
        devices = self.f.devices
        count = self.r.integer(devices) if isinstance(devices, Traced) else EMPTY
        return self.gpus("pretrain") or f"{count} {self.w['processes']}"

    def software(self) -> str:
        found = self.f.m["pretrain"]["versions"]
        return ", ".join(f"{name} {self.r.text(found[name])}" for name in found if name != "duetto")

    def scores(self, found: Sequence[Score]) -> str:
        other = "base" if self.f.kind == "instruct" else "instruct"
        header = [
            self.w[k] for k in ("task", "metric", "shots", "score", other, "chance", "no_context", "word_overlap")
        ]
        rows = []
        for s in found:
            score = self.r.number(s.value) + (f" ± {self.r.number(s.stderr)}" if s.stderr is not None else "")
            beside = (s.other, s.chance, s.no_context, s.word_overlap)
            numbers = [self.maybe(x, self.r.number) for x in beside]
            rows.append(
                [self.r.cell(s.task), self.r.cell(s.metric), self.maybe(s.shots, self.r.integer), score, *numbers]
            )
        return markdown(header, rows, "llrrrrrr")

    def chat(self, checks: Document) -> str:
        rows = [
            [
                self.language(lang),
                self.maybe(checks.at(lang, "stop_rate"), self.r.percent, 0),
                self.maybe(checks.at(lang, "language_rate"), self.r.percent, 0),
            ]
            for lang in checks
        ]
        return markdown([self.w[k] for k in ("language", "stop_rate", "language_rate")], rows, "lrr")

    def samples(self, found: Document) -> str:
        blocks = []
        for lang in found:
            for key in ("prompt", "answer"):
                if (text := found.at(lang, key)) is not None:
                    blocks.append(f"**{self.w[key]} ({self.language(lang)})**\n\n{self.quote(text)}")
        return "\n\n".join(blocks)

    def quote(self, value: Traced) -> str:
        """A Markdown block quote of what the model wrote; the whole text is one claim a line."""
        lines = str(plain(value)).strip().splitlines() or [""]
        return "\n".join("> " + self.r.mark(value, line) for line in lines)
