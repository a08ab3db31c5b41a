"""Terminal chat on the tiny model: piped, streaming, with its commands."""

import argparse
import io
import time

import pytest

from duetto.errors import UserError
from release import chat
from release.generation import LoadedModel, Sampling, find_model


def arguments(**changed):
    usual = {
        "model": None,
        "system": "",
        "max_new_tokens": 12,
        "temperature": 0.0,
        "top_p": 1.0,
        "seed": None,
        "web": False,
    }
    return argparse.Namespace(**{**usual, "force": False, **changed})


@pytest.fixture(scope="module")
def model(finished):
    return LoadedModel(finished / "instruct")


def test_piped_one_prompt_a_line(a_run, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("Ciao!\n\nHello!\n/reset\n/nonsense\nCiao!\n/exit\nnever read\n"))
    chat.run(a_run(), arguments())
    lines = capsys.readouterr().out.split("\n")
    assert "forgotten" in lines and any("/nonsense: no such command" in line for line in lines)
    # Greedy and forgotten: the third answer equals the first.
    answers = [line for line in lines if line and line != "forgotten" and "no such command" not in line]
    assert len(answers) >= 3 and answers[0] == answers[-1]


def test_pieces_arrive_one_by_one_and_make_the_whole(model):
    import torch

    sampling = Sampling(max_new_tokens=16)
    messages = [{"role": "user", "content": "Ciao!"}]
    start, first, pieces = time.monotonic(), None, []
    for piece in model.stream(messages, sampling):
        first = first or time.monotonic() - start
        pieces.append(piece)
    ids, _ = model.encode(messages, 16)
    whole = model.model.generate(torch.tensor([ids]), max_new_tokens=16, do_sample=False)[0, len(ids) :]
    assert "".join(pieces) == model.tokenizer.decode(whole, skip_special_tokens=True)
    assert first is not None and first < 1.0


def test_closing_the_stream_stops_the_generation(model):
    stream = model.stream([{"role": "user", "content": "Ciao!"}], Sampling(max_new_tokens=100))
    next(stream)
    start = time.monotonic()
    stream.close()
    assert time.monotonic() - start < 1.0


def test_a_long_conversation_loses_whole_exchanges(model):
    turns = []
    for i in range(24):
        turns += [{"role": "user", "content": f"Question {i}"}, {"role": "assistant", "content": "An answer."}]
    messages = [{"role": "system", "content": "Be kind."}, *turns, {"role": "user", "content": "And now?"}]
    ids, dropped = model.encode(messages, 16)
    text = model.tokenizer.decode(ids)
    assert dropped and dropped % 2 == 0 and len(ids) <= model.context - 16
    assert text.startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user") and "And now?" in text


def test_sampling_repeats_with_its_seed(model):
    messages = [{"role": "user", "content": "Ciao!"}]
    drawn = ["".join(model.stream(messages, Sampling(20, 1.0, 0.95, seed=s))) for s in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_base_model_continues_text(finished):
    base = LoadedModel(find_model(finished, "base"))
    assert not base.chat
    assert "".join(base.stream([{"role": "user", "content": "Once upon"}], Sampling(8)))


def test_unknown_model_is_named(finished, tmp_path):
    with pytest.raises(UserError, match=r"no model 'chat' \(there is: instruct, base\)"):
        find_model(finished, "chat")
    with pytest.raises(UserError, match="make one with"):
        find_model(tmp_path, None)
