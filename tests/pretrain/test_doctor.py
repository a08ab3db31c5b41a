"""Every guard of the doctor is broken once, and seen to fail."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from duetto.cli import main
from duetto.errors import UserError
from duetto.files import sha256_file, write_json
from duetto.recipe import ROOT, Recipe, load_recipe
from pretrain import checks_config, checks_machine, doctor
from pretrain.checkpoints import COMMIT, FORMAT
from pretrain.checks import Finding
from tests.pretrain.runs import WORDS, tokenized, train_tokenizer

SOURCES = {"web_en": 60_000, "web_it": 50_000, "pdf_it": 20_000, "code": 40_000}


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def load(home: Path, *overrides: str, recipe: str = "demo") -> Recipe:
    return load_recipe(ROOT / "configs" / "recipes" / f"{recipe}.yaml", overrides, home=home)


SMALL = [
    "pretrain.model.model_config.vocab_size=300",
    "tokenizer={train: {vocab_size: 300}}",
    "pretrain.tokens.train_steps=256",
    "pretrain.optimizer.learning_rate_scheduler.lr_decay_starting_step=128",
    "pretrain.optimizer.learning_rate_scheduler.lr_decay_steps=128",
    f"data.stages.0.tokens={json.dumps(dict.fromkeys(SOURCES, 65536))}",
]


@pytest.fixture
def home(tmp_path: Path, tokenizer: Path) -> Path:
    """A run folder with a few thousand tokens a source."""
    from tokenizers import Tokenizer

    codes = np.array(Tokenizer.from_file(str(tokenizer / "tokenizer.json")).encode(" ".join(WORDS * 40)).ids)
    sources = {name: np.resize(codes, tokens) for name, tokens in SOURCES.items()}
    tokenized(tmp_path / "demo", tokenizer, 300, sources, dict.fromkeys(SOURCES, 65536))
    return tmp_path


def found(recipe: Recipe, number: int) -> Finding:
    return {c.number: f for c, f in doctor.examine(recipe, recipe.run_root)}[number]


def config(recipe: Recipe, **parts: Any) -> Recipe:
    """The recipe with values set in its first pretraining file that the schema itself would refuse."""
    first = recipe.pretrain[0]
    for path, value in parts.items():
        *parents, last = path.split("__")
        chain = [first]
        for key in parents:
            chain.append(getattr(chain[-1], key))
        changed = chain[-1].model_copy(update={last: value})
        for parent, key in zip(reversed(chain[:-1]), reversed(parents)):
            changed = parent.model_copy(update={key: changed})
        first = changed
    return recipe.model_copy(update={"pretrain": [first, *recipe.pretrain[1:]]})


def checkpoint(folder: Path, step: int, **identity: Any) -> Path:
    """A complete checkpoint of one file."""
    at = folder / str(step)
    at.mkdir(parents=True)
    (at / "weights").write_bytes(b"x" * 10)
    files = {"weights": {"bytes": 10, "sha256": sha256_file(at / "weights")}}
    write_json(at / COMMIT, {"format": FORMAT, "step": step, "stage": 0, "identity": identity, "files": files})
    return at


def test_a_healthy_run_passes_every_check_quickly(home: Path) -> None:
    recipe = load(home, *SMALL)
    began = time.perf_counter()
    results = doctor.examine(recipe, recipe.run_root)
    assert time.perf_counter() - began < 3
    assert [c.number for c, _ in results] == list(range(1, 23))
    assert {f.status for c, f in results if c.number != 20} == {"ok"}, [f for _, f in results if f.status != "ok"]
    doctor.preflight(recipe, recipe.run_root)


def test_before_tokenizing_nothing_fails(tmp_path: Path) -> None:
    results = doctor.examine(load(tmp_path), tmp_path / "demo")
    assert {f.status for _, f in results} == {"ok", "skip"}


# One way to break each guard: number -> (overrides, what to do to the run folder or the process, status, words).
Break = Callable[[Path, pytest.MonkeyPatch], None]


def torn(home: Path, _: pytest.MonkeyPatch) -> None:
    (checkpoint(home / "demo" / "pretrain" / "checkpoints", 100) / "weights").write_bytes(b"x")


def other_batch(home: Path, _: pytest.MonkeyPatch) -> None:
    checkpoint(home / "demo" / "pretrain" / "checkpoints", 100, samples_per_step=16, sequence_length=256)


def noise(home: Path, _: pytest.MonkeyPatch) -> None:
    np.full(5000, 299 + 1, dtype="<u2").tofile(home / "demo" / "tokens" / "web_it" / "000.ds")


def bad_parity(home: Path, _: pytest.MonkeyPatch) -> None:
    write_json(home / "demo" / "base" / "parity.json", {"max_abs_logit_difference": 0.15})


def no_compiler(_: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(checks_config.shutil, "which", lambda name: None)


def full_disk(_: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(checks_machine.shutil, "disk_usage", lambda path: SimpleNamespace(total=10**9, used=10**9, free=1000))


def other_nanotron(_: Path, patch: pytest.MonkeyPatch) -> None:
    real = checks_config.importlib.metadata.version
    patch.setattr(
        checks_config.importlib.metadata, "version", lambda name: "0.5.dev0" if name == "nanotron" else real(name)
    )


def no_chatml(home: Path, _: pytest.MonkeyPatch) -> None:
    path = home / "demo" / "tokenizer" / "tokenizer.json"
    path.write_text(path.read_text().replace("<|im_start|>", "<|other|>"))


def slow_disk(_: Path, patch: pytest.MonkeyPatch) -> None:
    from data.loader import Mixture

    real = Mixture.batch

    def late(self: Mixture, first: int, count: int) -> Any:
        time.sleep(0.05)
        return real(self, first, count)

    patch.setattr(Mixture, "batch", late)


def nothing(_: Path, __: pytest.MonkeyPatch) -> None:
    pass


CLUSTER = "cluster=configs/clusters/a100-8x8.yaml"
ON_GPU = [CLUSTER, "pretrain.duetto.device=cuda", "pretrain.parallelism.dp=64"]
SHARED = "pretrain.checkpoints.checkpoints_path_is_shared_file_system"
BROKEN: dict[int, tuple[list[str], Break, str, str]] = {
    1: ([], other_nanotron, "fail", "nanotron is 0.5.dev0, tested with ==0.4"),
    2: (
        ["pretrain.tokens.train_steps=2560", "pretrain.optimizer.learning_rate_scheduler.lr_decay_steps=2432"],
        nothing,
        "fail",
        "is passed over",
    ),
    5: (
        ["pretrain.tokens.train_steps=200", "pretrain.optimizer.learning_rate_scheduler.lr_decay_steps=72"],
        nothing,
        "warn",
        "the budget is 262,144",
    ),
    6: ([*ON_GPU, f"{SHARED}=false"], nothing, "fail", "each keeps its own part"),
    7: ([], torn, "fail", "1 bytes, COMMIT says 10"),
    8: (["pretrain.checkpoints.checkpoint_interval=1", "pretrain.duetto.keep.every=1"], nothing, "warn", "256 of 256"),
    9: ([*ON_GPU, "cluster.warning_seconds=30"], nothing, "fail", "warned only 30 s before its end"),
    10: (["pretrain.duetto.watch.spike_sigma=null"], nothing, "warn", "spikes are not recorded"),
    11: (["pretrain.model.model_config.vocab_size=512"], nothing, "fail", "the tokenizer has 300 entries"),
    12: ([], noise, "fail", "token 300 in the first window"),
    13: ([CLUSTER, "pretrain.duetto.device=cuda"], nothing, "fail", "the job has 8 nodes x 8 GPUs = 64"),
    14: (["pretrain.duetto.compile_layers=true"], no_compiler, "fail", "needs a C compiler"),
    15: (["pretrain.checkpoints.resume_checkpoint_path=/no/where"], nothing, "fail", "no such checkpoint folder"),
    18: (ON_GPU, slow_disk, "fail", "raise duetto.loader_workers"),
    19: (["pretrain.duetto.document_masking=null"], nothing, "warn", "is not stated"),
    20: ([], bad_parity, "fail", "logits differ by 0.15"),
    21: ([], full_disk, "fail", "1 kB are free"),
    22: ([], no_chatml, "fail", "would be several tokens"),
}


@pytest.mark.parametrize("number", BROKEN)
def test_a_broken_thing_fails_its_check(number: int, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides, breaks, status, words = BROKEN[number]
    breaks(home, monkeypatch)
    finding = found(load(home, *SMALL, *overrides), number)
    assert (finding.status, words in finding.detail + finding.remedy) == (status, True), finding
    assert finding.remedy


def test_3_stages_of_different_shapes(home: Path) -> None:
    recipe = load(home, *SMALL)
    wide = config(recipe, model__shape__hidden_size=256).pretrain[0]
    finding = found(recipe.model_copy(update={"pretrain": [recipe.pretrain[0], wide]}), 3)
    assert finding.status == "fail" and "hidden_size 256, file 1 has 128" in finding.detail


def test_4_a_schedule_left_to_defaults(home: Path) -> None:
    finding = found(config(load(home, *SMALL), optimizer__learning_rate_scheduler__lr_decay_steps=None), 4)
    assert finding.status == "fail" and "lr_decay_steps is missing" in finding.detail


def test_11_token_files_of_another_tokenizer(home: Path) -> None:
    path = home / "demo" / "tokenizer" / "tokenizer.json"
    path.write_text(path.read_text().replace('"ignore_merges": false', '"ignore_merges": true'))
    assert "written with another tokenizer" in found(load(home, *SMALL), 11).detail


def test_13_a_changed_global_batch(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other_batch(home, monkeypatch)
    finding = found(load(home, *SMALL), 13)
    assert finding.status == "fail" and "samples_per_step 16, now it is 4" in finding.detail
    recipe = load(home, *SMALL)
    doctor.preflight(recipe, recipe.run_root, accept_change=True)


def test_15_a_start_model_that_is_not_there(home: Path) -> None:
    for path, words in (("/no/model", "no such folder"), (str(home), "holds no model")):
        finding = found(load(home, *SMALL, f"pretrain.model.init_method={{path: {path}}}"), 15)
        assert finding.status == "fail" and words in finding.detail


def test_16_a_second_file_that_would_read_the_same_samples(home: Path) -> None:
    recipe = load(home, *SMALL)
    first, again = recipe.pretrain[0], config(recipe, duetto__mixture_stage="demo").pretrain[0]
    finding = found(recipe.model_copy(update={"pretrain": [first, again]}), 16)
    assert finding.status == "fail" and "would read demo from the start again" in finding.detail
    other = again.model_copy(update={"duetto": again.duetto.model_copy(update={"data_seed": 9})})
    assert found(recipe.model_copy(update={"pretrain": [first, other]}), 16).status == "ok"


def test_17_repetition_that_nobody_decided(home: Path) -> None:
    recipe = load(home, *SMALL)
    unstated = recipe.data.model_copy()
    unstated.__pydantic_fields_set__.discard("max_epochs")
    finding = found(recipe.model_copy(update={"data": unstated}), 17)
    assert finding.status == "warn" and "web_en ends after" in finding.detail


def test_20_a_start_model_of_another_shape(home: Path) -> None:
    write_json(home / "model" / "config.json", {"hidden_size": 64})
    finding = found(load(home, *SMALL, f"pretrain.model.init_method={{path: {home / 'model'}}}"), 20)
    assert finding.status == "fail" and "has hidden_size 64, model.model_config has 128" in finding.detail


def test_torn_newer_checkpoint_is_only_a_warning(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torn(home, monkeypatch)
    checkpoint(home / "demo" / "pretrain" / "checkpoints", 50)
    finding = found(load(home, *SMALL), 7)
    assert finding.status == "warn" and "continues from step 50" in finding.remedy


def test_preflight_stops_at_the_first_failure(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full_disk(home, monkeypatch)
    recipe = load(home, *SMALL)
    with pytest.raises(UserError, match="check 21, disk space"):
        doctor.preflight(recipe, recipe.run_root)


def test_json_and_exit_codes(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DUETTO_HOME", str(home))
    assert main(["doctor", "--json", *SMALL]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [c["number"] for c in told["checks"]] == list(range(1, 23)) and told["fail"] == 0
    assert all(c["name"] and c["why"] for c in told["checks"])
    assert main(["doctor", "pretrain.checkpoints.resume_checkpoint_path=/no/where", *SMALL]) == 2
    out = capsys.readouterr()
    assert "FAIL" in out.out and "check 15, resume paths exist" in out.err and "Traceback" not in out.err


def test_doctor_imports_no_engine() -> None:
    code = (
        "import sys, pretrain.doctor, pretrain.plan; print({'torch', 'transformers', 'datatrove'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"


def test_why_and_remedy_of_every_check() -> None:
    assert len({c.name for c in doctor.CHECKS}) == 22
    assert all(len(c.why) > 20 for c in doctor.CHECKS)
