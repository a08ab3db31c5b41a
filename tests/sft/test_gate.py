"""The gate: labels derived from ids agree with labels derived from text, and every kind of mistake stops the run."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from duetto.errors import UserError
from sft import chatml, gate, toolbox
from sft.conversations import prepare
from sft.masks import labels_of
from sft.stage import prepared_entry
from tests.sft.support import PREPARE_ALL, Pool, axolotl_yaml, expected_labels, read_rows, section, write_rows


def shaped(rows: list[Any]) -> dict[str, list[Any]]:
    """The same conversations in each supported shape."""
    speaker = {"user": "human", "assistant": "gpt"}
    one = [r for r in rows if [t["role"] for t in r["messages"]] == ["user", "assistant"]]
    two = [{**r, "messages": [*r["messages"], *rows[i - 1]["messages"]]} for i, r in enumerate(rows)]
    system = [{**r, "messages": [{"role": "system", "content": "Sii breve."}, *r["messages"]]} for r in rows]
    return {
        "messages": rows,
        "multi-turn": two,
        "system": system,
        "conversation": [{"conversation": r["messages"], "language": r["language"]} for r in rows],
        "sharegpt": [
            {"conversations": [{"from": speaker[t["role"]], "value": t["content"]} for t in r["messages"]]}
            for r in rows
        ],
        "alpaca": [
            {"instruction": r["messages"][0]["content"], "input": "", "output": r["messages"][1]["content"]}
            for r in one
        ],
        "tools": list(toolbox.dialogues(len(rows), seed=5)),
    }  # fmt: skip


@pytest.fixture(scope="module")
def every_shape(tmp_path_factory: pytest.TempPathFactory, base: Path, conversations: list[Any]) -> Path:
    """500 conversations of each shape in one file."""
    folder = tmp_path_factory.mktemp("shapes")
    entries = []
    for name, rows in shaped(conversations[:500]).items():
        assert len(rows) == 500
        entries.append({"path": str(write_rows(folder / f"{name}.jsonl", rows))})
    report = prepare(entries, folder / "all.jsonl", tokenizer_folder=base, context=1024, **PREPARE_ALL)
    assert report["kept"] == 3500, report["rejected"]
    return folder / "all.jsonl"


def test_ids_and_text_give_the_same_labels(every_shape: Path, base: Path) -> None:
    tokenizer = chatml.fast_tokenizer(base)
    for row in read_rows(every_shape):
        ids, labels = expected_labels(row, tokenizer)
        assert labels_of(ids, tokenizer) == labels
        assert labels[-1] == gate.IGNORED and labels[-2] == tokenizer.token_to_id("<|im_end|>")


@pytest.mark.xdist_group("axolotl")
def test_axolotl_gives_the_same_labels(every_shape: Path, base: Path, pool: Pool, tmp_path: Path) -> None:
    """Every token of 500 conversations of each shape, as Axolotl's own code prepares them."""
    found = section("demo", tmp_path, sequence_len=1024)
    config = axolotl_yaml(tmp_path, found, base, [], datasets=[prepared_entry(every_shape)])
    pool.run(config, ONLY_PREPARE="1")
    (folder,) = (p.parent for p in (tmp_path / "out/prepared").glob("*/dataset_info.json"))
    tokenizer = chatml.fast_tokenizer(base)
    expected = sorted(map(list, (expected_labels(r, tokenizer) for r in read_rows(every_shape))))
    prepared = datasets.load_from_disk(str(folder))
    assert sorted([r["input_ids"], r["labels"]] for r in prepared) == expected


def table(rows: list[tuple[list[int], list[int]]]) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"input_ids": [r[0] for r in rows], "labels": [r[1] for r in rows]})


class Words:
    """Just enough of a tokenizer: <|im_start|> is 1, <|im_end|> 2, "assistant\\n" is 3 4."""

    def convert_tokens_to_ids(self, token: str) -> int:
        return {"<|im_start|>": 1, "<|im_end|>": 2}[token]

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        assert text == "assistant\n"
        return [3, 4]

    def decode(self, ids: Any) -> str:
        return " ".join(map(str, ids))


ROW = [1, 9, 4, 20, 2, 4, 1, 3, 4, 30, 31, 2, 4]
GOOD = [-100] * 9 + [30, 31, 2, -100]


def test_a_good_table_passes_and_is_counted() -> None:
    assert gate.check_labels(table([(ROW, GOOD)] * 3), Words()) == {"rows": 3, "tokens": 39, "trained_tokens": 9}


@pytest.mark.parametrize(
    "labels, says",
    [
        ([*GOOD[:11], -100, -100], "token 11 .* is assistant text but is not trained"),  # the terminator is masked
        ([*GOOD[:3], 20, *GOOD[4:]], "token 3 .* is trained but is not assistant text"),
        ([*GOOD[:12], 4], "token 12 .* is trained but is not assistant text"),
        ([*GOOD[:8], 4, *GOOD[9:]], "token 8 .* is trained"),
    ],
)
def test_a_wrong_label_stops_the_run(labels: list[int], says: str) -> None:
    with pytest.raises(UserError, match=f"row 1, {says}"):
        gate.check_labels(table([(ROW, GOOD), (ROW, labels)]), Words())


def test_nothing_to_train_on_stops_the_run() -> None:
    with pytest.raises(UserError, match="no conversation has an assistant turn"):
        gate.check_labels(table([([1, 9, 4, 20, 2, 4], [-100] * 6)]), Words())


def test_a_turn_cut_off_by_the_end_of_its_row_does_not_reach_into_the_next() -> None:
    ids = np.asarray([1, 3, 4, 30, 31, 5, 6, 1, 3, 4, 7, 2])
    mask = gate.trained(ids, np.asarray([0, 5]), 1, 2, np.asarray([3, 4]))
    assert mask.nonzero()[0].tolist() == [3, 4, 10, 11]


def test_samples_that_see_each_other_are_found(base: Path) -> None:
    """transformers isolates packed samples by their positions, unless there is a mask or a cache."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, attn_implementation="sdpa", use_cache=False)
    ids = torch.arange(5, 29)[None]
    inputs = {"input_ids": ids, "position_ids": torch.cat([torch.arange(12), torch.arange(12)])[None]}
    assert gate.check_isolation(model, inputs) == 1
    with pytest.raises(UserError, match="packed samples see each other: changing sample 1 of row 0"):
        gate.check_isolation(model, {**inputs, "attention_mask": torch.ones_like(ids)})
    model.config.use_cache = True
    with pytest.raises(UserError, match="moved the logits of sample 2"):
        gate.check_isolation(model, inputs)
