"""Small local copies of the public benchmarks, in the schemas, splits and configuration names of the originals."""

import json
import random
import re
from pathlib import Path
from typing import Any

import yaml

LETTERS = "ABCD"
WORDS = ["mela", "fiume", "casa", "musica", "treno", "giardino", "finestra", "carta"]


def _sum(rng: random.Random) -> tuple[int, int, list[str], int]:
    a, b, right = rng.randint(1, 9), rng.randint(1, 9), rng.randrange(4)
    options = [str(a + b + d) for d in (1, 2, 3, 4)]
    options[right] = str(a + b)
    return a, b, options, right


def mmlu_translated(rng: random.Random, i: int) -> dict[str, Any]:
    a, b, options, right = _sum(rng)
    row = {f"option_{letter.lower()}": option for letter, option in zip(LETTERS, options)}
    return {"instruction": f"Quanto fa {a} più {b}?", **row, "answer": LETTERS[right], "id": f"x/{i}"}


def arc_translated(rng: random.Random, i: int) -> dict[str, Any]:
    return {**mmlu_translated(rng, i), "option_e": ""}


def hellaswag(rng: random.Random, i: int) -> dict[str, Any]:
    start, then = "Una persona prende", "poi dice che"
    return {
        "ind": i,
        "activity_label": "Cucina",
        "ctx_a": start,
        "ctx_b": then,
        "ctx": f"{start} {then}",
        "endings": [f"la {word} è qui." for word in rng.sample(WORDS, 4)],
        "source_id": f"a~{i}",
        "split": "val",
        "split_type": "indomain",
        "label": str(rng.randrange(4)),
    }


def mmlu(rng: random.Random, i: int) -> dict[str, Any]:
    a, b, options, right = _sum(rng)
    return {"question": f"What is {a} plus {b}?", "subject": "x", "choices": options, "answer": right}


def arc(rng: random.Random, i: int) -> dict[str, Any]:
    a, b, options, right = _sum(rng)
    choices = {"text": options, "label": list(LETTERS)}
    return {"id": str(i), "question": f"How much is {a} and {b}?", "choices": choices, "answerKey": LETTERS[right]}


def ifeval(rng: random.Random, i: int) -> dict[str, Any]:
    return {
        "key": i,
        "prompt": f"Scrivi di una {WORDS[i % 8]} in minuscolo e senza virgole.",
        "instruction_id_list": ["change_case:english_lowercase", "punctuation:no_comma"],
        "kwargs": [{}, {}],
    }


def put(root: Path, repo: str, config: str, make: Any, **splits: int) -> None:
    """Write the splits of one configuration, and the card that names them."""
    folder = root / repo
    rng = random.Random(f"{repo}/{config}")
    for split, count in splits.items():
        path = folder / config / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(make(rng, i), ensure_ascii=False) for i in range(count)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    configs = [
        {
            "config_name": c.name,
            "data_files": [{"split": f.stem, "path": f"{c.name}/{f.name}"} for f in sorted(c.glob("*.jsonl"))],
        }
        for c in sorted(folder.iterdir())
        if c.is_dir()
    ]
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n", encoding="utf-8")


def subjects() -> list[str]:
    """Configuration names of the 57 MMLU tasks of lm-eval."""
    import lm_eval.tasks

    folder = Path(lm_eval.tasks.__file__).parent / "mmlu" / "default"
    pattern = re.compile(r'dataset_name["\s]*:\s*"?(\w+)')
    return sorted(pattern.search(p.read_text())[1] for p in folder.glob("mmlu_*.yaml"))  # type: ignore[index]


def write_mirror(root: Path, language: str = "it", items: int = 4) -> Path:
    """Everything that the published English and ``language`` commands read."""
    put(root, "alexandrainst/m_mmlu", language, mmlu_translated, train=6, val=2, test=items)
    put(root, "alexandrainst/m_arc", language, arc_translated, train=3, validation=3, test=items)
    put(root, "alexandrainst/m_hellaswag", language, hellaswag, val=items)
    put(root, "Rowan/hellaswag", "default", hellaswag, train=3, validation=items)
    put(root, "allenai/ai2_arc", "ARC-Challenge", arc, train=3, validation=3, test=items)
    put(root, "google/IFEval", "default", ifeval, train=2)
    put(root, "mii-llm/ifeval-ita", "default", ifeval, train=2)
    for subject in subjects():
        put(root, "cais/mmlu", subject, mmlu, dev=5, validation=1, test=1)
    # nltk's splitter with empty parameters: plain sentence ends.
    punkt = root / "nltk_data" / "tokenizers" / "punkt_tab" / "english"
    punkt.mkdir(parents=True)
    for name in ("abbrev_types.txt", "collocations.tab", "sent_starters.txt", "ortho_context.tab"):
        (punkt / name).write_text("")
    return root
