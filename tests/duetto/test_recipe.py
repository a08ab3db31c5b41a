"""What a user mistypes, and the one line that answers."""

import os
import signal
import textwrap

import pytest

from duetto.cli import main
from duetto.errors import UserError
from duetto.recipe import ROOT, StrictModel, _parse_override, load_recipe, read_yaml, validate

DEMO = ROOT / "configs" / "recipes" / "demo.yaml"


class Inner(StrictModel):
    train_steps: int
    rate: float = 1e-3


class Outer(StrictModel):
    tokens: Inner
    names: list[Inner] = []


def write(path, text):
    path.write_text(textwrap.dedent(text))
    return path


def test_unknown_key_names_file_line_and_nearest(tmp_path):
    path = write(
        tmp_path / "c.yaml",
        """\
        # a comment
        tokens:
          train_step: 10
        """,
    )
    with pytest.raises(
        UserError, match=r"c\.yaml:3: unknown key 'x\.tokens\.train_step'; did you mean 'train_steps'\?"
    ):
        validate(Outer, read_yaml(path), "x")


def test_unknown_key_inside_a_list(tmp_path):
    path = write(
        tmp_path / "c.yaml",
        """\
        tokens: {train_steps: 1}
        names:
          - train_steps: 1
            rat: 2
        """,
    )
    with pytest.raises(UserError, match=r"c\.yaml:4: unknown key 'names\.0\.rat'; did you mean 'rate'\?"):
        validate(Outer, read_yaml(path))


def test_wrong_type_names_the_line(tmp_path):
    path = write(tmp_path / "c.yaml", "tokens:\n  train_steps: many\n")
    with pytest.raises(UserError, match=r"c\.yaml:2: tokens\.train_steps: input should be a valid integer.*'many'"):
        validate(Outer, read_yaml(path))


def test_missing_key(tmp_path):
    path = write(tmp_path / "c.yaml", "tokens:\n  rate: 1e-3\n")
    with pytest.raises(UserError, match=r"c\.yaml:2: key 'tokens\.train_steps' is missing"):
        validate(Outer, read_yaml(path))


def test_exponent_without_a_dot_is_a_number_and_a_path_is_not(tmp_path):
    path = write(tmp_path / "c.yaml", "a: 1e-3\nb: 3E5\nc: 1e3b\nd: 2.5e-4\n")
    assert dict(read_yaml(path)) == {"a": 0.001, "b": 300000.0, "c": "1e3b", "d": 0.00025}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [1", r":2: not valid YAML|:1: not valid YAML"),
        ("- 1\n- 2\n", "expected 'key: value' lines, found list"),
        ("", "expected 'key: value' lines, found NoneType"),
        ("a: 1\nb: 2\na: 3\n", r":3: key 'a' appears twice"),
    ],
)
def test_broken_files(tmp_path, content, message):
    path = tmp_path / "c.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_yaml(path)


def test_binary_file(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"a: \xff\xfe\n")
    with pytest.raises(UserError, match="not a UTF-8 text file"):
        read_yaml(tmp_path / "c.yaml")


def test_misspelt_recipe_file_suggests_the_nearest():
    with pytest.raises(UserError, match=r"demoo\.yaml: no such file; did you mean 'demo\.yaml'\?"):
        load_recipe(DEMO.with_name("demoo.yaml"))


def test_the_demo_recipe_loads_and_overrides_reach_every_depth(tmp_path):
    recipe = load_recipe(DEMO, ["pretrain.tokens.val_check_interval=200", "name=other"], home=tmp_path)
    assert recipe.run_root == tmp_path / "other"
    assert recipe.resolved["pretrain"][0]["tokens"]["val_check_interval"] == 200
    assert "{run}" not in str(recipe.resolved)
    assert recipe.hash != load_recipe(DEMO, home=tmp_path).hash


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pretrain.tokens.train_step=200", r"unknown key 'pretrain\.tokens\.train_step'; did you mean 'train_steps'\?"),
        ("pretrian.tokens.train_steps=200", "unknown key 'pretrian'; did you mean 'pretrain'"),
        ("pretrain.tokens.train_steps=soon", r"^command line: pretrain\.tokens\.train_steps: input should be a valid"),
        (
            "tokenizer.train.vocab_size=12",
            r"^command line: tokenizer\.train\.vocab_size: .*greater than or equal to 300",
        ),
        ("pretrain.3.tokens.train_steps=2", "there is no item 3; the list has 1"),
        ("nonsense", r"an override is key\.path=value"),
        ("name.x.y=1", "not a section"),
        ("data=configs/data/dmo.yaml", r"no such file; did you mean 'demo\.yaml'\?"),
        ("name=../up", "name: string should match pattern"),
    ],
)
def test_bad_overrides(tmp_path, override, message):
    with pytest.raises(UserError, match=message):
        load_recipe(DEMO, [override], home=tmp_path)


def test_an_override_value_is_yaml():
    assert _parse_override("a.b=[1, x]") == (["a", "b"], [1, "x"])
    assert _parse_override("a=b=c") == (["a"], "b=c")


def test_a_warning_before_the_work_began_is_a_preemption(monkeypatch, capsys):
    before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGUSR1)}
    monkeypatch.setattr("duetto.cli.load_recipe", lambda *_: os.kill(os.getpid(), signal.SIGUSR1))
    try:
        assert main(["plan"]) == 3
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert "preempted: asked to stop" in capsys.readouterr().err


def test_the_command_line_answers_in_one_line_with_code_2(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DUETTO_HOME", str(tmp_path))
    for argv in (["tokenise"], ["tokenize", "nam=x"], ["tokenize", "--recipe", str(tmp_path / "none.yaml")]):
        assert main(argv) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err
