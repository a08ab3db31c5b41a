"""GGUF files: what llama.cpp computes from them is what transformers computes."""

import argparse
import json

import numpy as np
import pytest

from duetto.errors import UserError
from release import export, gguf_file


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    """Both models in all kinds, once."""
    import shutil

    from duetto.run import Run
    from tests.release.conftest import make_recipe

    root = tmp_path_factory.mktemp("exported") / "demo"
    shutil.copytree(finished, root)
    run = Run(make_recipe(root), lock=False)
    export.run(run, argparse.Namespace(force=False, types=list(gguf_file.KINDS)))
    return run


def measured(run, kind):
    return json.loads(run.path("release", "gguf", kind, "export.json").read_text())


def test_llama_cpp_generates_the_same_tokens(exported):
    pytest.importorskip("xllamacpp")
    for kind in ("base", "instruct"):
        f16 = measured(exported, kind)["files"]["f16"]
        # Where the two part, the original hardly prefers its own token: a rounding decided.
        assert f16["identical"] >= f16["prompts"] - 1 and f16["max_gap"] < 0.05
        assert f16["max_logprob_difference"] < 0.05 and f16["tokens"] >= 100
        assert f16["same_tokenization"] == f16["prompts"]


def test_fewer_bits_are_fewer_bytes_and_cost_little(exported):
    found = measured(exported, "base")
    sizes = [found["files"][k]["bytes"] for k in ("f16", "q8_0", "q4_0")]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] < found["original"]["bytes"]
    for source, bits in found["original"]["bits_per_byte"].items():
        assert found["files"]["f16"]["bits_per_byte"][source] == pytest.approx(bits, abs=0.005)
        assert found["files"]["q4_0"]["bits_per_byte"][source] == pytest.approx(bits, abs=0.5)


def test_the_readme_has_the_table(exported):
    text = exported.path("release", "gguf", "instruct", "README.md").read_text()
    assert "base_model_relation: quantized" in text and "| Tiny-Duo-instruct-Q4_0.gguf |" in text
    assert str(exported.root) not in text


def test_weights_come_back(exported):
    from safetensors.numpy import load_file

    config = json.loads(exported.path("base", "config.json").read_text())
    file = exported.path("release", "gguf", "base", "Tiny-Duo-F16.gguf")
    back = gguf_file.read_weights(file, config)
    for name, weight in load_file(exported.path("base", "model.safetensors")).items():
        assert np.allclose(back[name], weight, atol=1e-3), name


def test_header_and_template(exported):
    fields = gguf_file.metadata(exported.path("release", "gguf", "instruct", "Tiny-Duo-instruct-F16.gguf"))
    assert fields["llama.context_length"] == 512 and fields["llama.attention.head_count_kv"] == 2
    assert "<|im_start|>" in fields["tokenizer.chat_template"] and fields["tokenizer.ggml.pre"] == "gpt-2"
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    assert len(tokens) == 320 and tokens[-1].startswith("[PAD") and kinds[-1] == 5
    assert tokens[fields["tokenizer.ggml.eos_token_id"]] == "<|im_end|>"


def test_a_wrong_rotary_layout_is_refused(a_run, monkeypatch):
    pytest.importorskip("xllamacpp")
    monkeypatch.setattr(gguf_file, "rotary_to_interleaved", lambda weight, heads: weight)
    with pytest.raises(UserError, match="the file is wrong and is not released"):
        export.run(a_run(), argparse.Namespace(force=False, types=["f16"]))


def test_split_rules():
    level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    model = {"type": "BPE"}
    assert gguf_file.split_rule({"model": model, "pre_tokenizer": level}) == "gpt-2"
    split = {"type": "Split", "pattern": {"Regex": gguf_file.LLAMA3_SPLIT}}
    both = {"type": "Sequence", "pretokenizers": [split, {**level, "use_regex": False}]}
    assert gguf_file.split_rule({"model": model, "pre_tokenizer": both}) == "llama-bpe"
    split["pattern"]["Regex"] = r"\s+"
    with pytest.raises(UserError, match="no name for this pre-tokenizer"):
        gguf_file.split_rule({"model": model, "pre_tokenizer": both})


def test_names_go_both_ways():
    for name in ("model.embed_tokens.weight", "model.layers.11.self_attn.q_proj.weight", "lm_head.weight"):
        assert gguf_file.hf_name(gguf_file.gguf_name(name)) == name
    with pytest.raises(UserError, match="no tensor of a plain Llama"):
        gguf_file.gguf_name("model.layers.0.self_attn.q_norm.weight")


def test_no_model_no_export(a_run, tmp_path):
    run = a_run()
    run.root = tmp_path / "empty"
    with pytest.raises(UserError, match="no model to export"):
        export.run(run, argparse.Namespace(force=False, types=["f16"]))
