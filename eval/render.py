"""The table content of ``eval.tables.build`` as Markdown, LaTeX and CSV."""

import csv
import io
from collections.abc import Mapping
from typing import Any

LANGUAGES = {"en": "English", "it": "Italian", "es": "Spanish", "fr": "French", "pt": "Portuguese"}
MISSING = "–"
BESIDE = (("chance", "chance"), ("no_context", "no context"), ("word_overlap", "word overlap"))
NOTES = {
    "no_context": "no context: the same choices scored without the text before them",
    "word_overlap": "word overlap: picking the choice that shares most words with the text",
    "published": "† published by others, not measured here",
    "edited": "‡ the result file was changed after it was written (its hash does not match)",
    "best": "bold: ahead of every other value in the row by more than the standard error of the difference",
}


def language_name(code: str) -> str:
    return LANGUAGES.get(code, code)


def to_markdown(content: Mapping[str, Any]) -> str:
    parts = ["# Results\n"]
    for language, table in content["languages"].items():
        parts.append(f"## {language_name(language)}\n")
        head = ["task", "metric", *(name for _, name in _beside(table))]
        head += [c["name"] + (" †" if c["published"] else "") for c in table["columns"]]
        lines = [head, ["---", "---", *["---:"] * (len(head) - 2)]]
        for row in table["rows"]:
            cells = [_number(row[key]) for key, _ in _beside(table)]
            cells += [_cell(row["cells"][c["name"]], "**{}**", "{} ± {}", " ‡") for c in table["columns"]]
            lines.append([row["label"], _metric(row), *cells])
        mean = [_number(table["mean"]["chance"]) if key == "chance" else "" for key, _ in _beside(table)]
        lines.append(["mean", "", *mean, *(_number(table["mean"][c["name"]]) for c in table["columns"])])
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n")
    overall = content["overall"]
    names = overall["models"]
    parts.append("## Overall\n")
    head = ["mean over tasks", "chance", *(n + (" †" if n in overall["published"] else "") for n in names)]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for language, row in [*overall["rows"].items(), ("mean", overall["mean"])]:
        lines.append([language_name(language), _number(row["chance"]), *(_number(row[n]) for n in names)])
    parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n")
    parts.append("\n".join(f"- {note}" for note in notes(content)) + "\n")
    return "\n".join(parts)


def notes(content: Mapping[str, Any]) -> list[str]:
    """What the marks of these tables mean, and where published figures come from."""
    tables = content["languages"].values()
    rows = [row for t in tables for row in t["rows"]]
    cells = [c for row in rows for c in row["cells"].values() if c is not None]
    out = ["value ± one standard error; " + f"{MISSING} means not measured"]
    out += [NOTES[key] for key in ("no_context", "word_overlap") if any(row[key] is not None for row in rows)]
    out += [NOTES[key] for key in ("best", "published", "edited") if any(c[key] for c in cells)]
    unsaid = ", ".join(dict.fromkeys(row["label"] for row in rows if row["published_metric_unsaid"]))
    if unsaid:
        out.append(f"{unsaid}: the published source does not say which metric it shows; not compared with ours")
    sources = {c["name"]: c["published"] for t in tables for c in t["columns"] if c["published"]}
    return out + [f"† {name}: {source}" for name, source in sources.items()]


def to_latex(content: Mapping[str, Any]) -> str:
    parts = []
    for language, table in content["languages"].items():
        head = ["Task", "Metric", *(name for _, name in _beside(table))]
        head += [_escape(c["name"]) + (r"$^\dagger$" if c["published"] else "") for c in table["columns"]]
        parts += [rf"% {language_name(language)}", r"\begin{tabular}{ll" + "r" * (len(head) - 2) + "}", r"\toprule"]
        parts += [" & ".join(head) + r" \\", r"\midrule"]
        for row in table["rows"]:
            cells = [_number(row[key], "--") for key, _ in _beside(table)]
            cells += [
                _cell(row["cells"][c["name"]], r"\textbf{{{}}}", r"{} $\pm$ {}", r"$^\ddagger$", "--")
                for c in table["columns"]
            ]
            parts.append(" & ".join([_escape(row["label"]), _escape(_metric(row)), *cells]) + r" \\")
        parts += [r"\bottomrule", r"\end{tabular}", ""]
    overall = content["overall"]
    head = ["Mean over tasks", "chance", *(_escape(n) for n in overall["models"])]
    parts += ["% Overall", r"\begin{tabular}{l" + "r" * (len(head) - 1) + "}", r"\toprule"]
    parts += [" & ".join(head) + r" \\", r"\midrule"]
    for language, row in [*overall["rows"].items(), ("mean", overall["mean"])]:
        cells = [_number(row[n], "--") for n in ["chance", *overall["models"]]]
        parts.append(" & ".join([language_name(language), *cells]) + r" \\")
    parts += [r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join(parts + [f"% {note}" for note in notes(content)]) + "\n"


def to_csv(content: Mapping[str, Any]) -> str:
    """One line a cell, for spreadsheets and scripts."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["language", "task", "metric", "shots", "samples", "model", "value", "stderr", "published", "best", "edited"]
    )
    for language, table in content["languages"].items():
        for row in table["rows"]:
            key = [language, row["task"], row["metric"], row["shots"]]
            for name, _ in BESIDE:
                if row[name] is not None:
                    writer.writerow([*key, row["samples"], name, f"{row[name]:.4f}", "", "", "", ""])
            for column in table["columns"]:
                cell = row["cells"][column["name"]]
                if cell is None:
                    writer.writerow([*key, row["samples"], column["name"], "", "", "", "", ""])
                    continue
                error = "" if cell["stderr"] is None else f"{cell['stderr']:.4f}"
                flags = [int(cell[name]) for name in ("published", "best", "edited")]
                samples = "" if cell["published"] else row["samples"]
                writer.writerow([*key, samples, column["name"], f"{cell['value']:.4f}", error, *flags])
    return out.getvalue()


def _beside(table: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The columns beside the scores that this table has anything for."""
    return [(key, name) for key, name in BESIDE if any(row[key] is not None for row in table["rows"])]


def _metric(row: Mapping[str, Any]) -> str:
    return f"{row['metric']}, {row['shots']}-shot"


def _number(value: float | None, missing: str = MISSING) -> str:
    return missing if value is None else f"{value:.3f}"


def _cell(cell: Mapping[str, Any] | None, bold: str, pair: str, edited: str, missing: str = MISSING) -> str:
    if cell is None:
        return missing
    value = bold.format(_number(cell["value"])) if cell["best"] else _number(cell["value"])
    text = value if cell["stderr"] is None else pair.format(value, f"{cell['stderr']:.3f}")
    return text + (edited if cell["edited"] else "")


def _escape(text: str) -> str:
    return text.replace("_", r"\_").replace("%", r"\%").replace("&", r"\&")
