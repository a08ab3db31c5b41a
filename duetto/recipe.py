"""The recipe: one YAML that names everything a run needs, resolved, typed and frozen.

    recipe = load_recipe("configs/recipes/demo.yaml", ["pretrain.tokens.micro_batch_size=4"])

Loading has four steps: read the recipe; read the files it names; apply the overrides; check every section against
the schema of the stage that reads it. Whatever is wrong is one UserError with file, line and nearest key.
"""

import difflib
import importlib
import os
import re
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from duetto.errors import UserError
from duetto.files import sha256_json

ROOT = Path(__file__).resolve().parent.parent
"""The repository: relative paths in a YAML start here."""

SCHEMAS = {
    "data": "data.config:DataConfig",
    "pretrain": "pretrain.config:PretrainConfig",
    "eval": "eval.config:EvalConfig",
    "release": "release.config:ReleaseConfig",
    "cluster": "slurm.config:ClusterConfig",
}
"""Who reads a section says what it may hold. Named, not imported: this package imports no stage."""

ENGINE_SECTIONS = ("sft", "dpo")
"""Sections in Axolotl's own language; ``sft.config:check`` knows its keys."""


class StrictModel(BaseModel):
    """Base of every configuration: an unknown key is an error, a loaded value does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())


class TokenizerTraining(StrictModel):
    """``tokenizer: {train: {vocab_size: 8192}}``: a byte-level BPE trained on the run's own data."""

    class Train(StrictModel):
        vocab_size: int = Field(ge=300)
        """Entries, special tokens included."""
        bytes: int = Field(20_000_000, gt=0)
        """Bytes of text to train on, drawn from the sources in proportion to their budgets."""

    train: Train


class _RecipeFile(StrictModel):
    """The keys of a recipe file before the files it names are read."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Names the run folder."""
    languages: list[str] = Field(min_length=1)
    """ISO 639-1 codes, the main language of the benchmarks first."""
    tokenizer: str | TokenizerTraining
    """Hub id, local folder or tokenizer.json; or ``{train: {vocab_size: N}}``."""
    data: Any
    """File of a DataConfig."""
    pretrain: list[Any] = Field(min_length=1)
    """One nanotron YAML a stage, in order."""
    sft: Any = None
    """An Axolotl YAML; without it the run ends with the base model."""
    dpo: Any = None
    """An Axolotl YAML with ``rl: dpo``, run after ``sft``."""
    eval: Any
    """File of an EvalConfig."""
    release: Any
    """What the card and the push need: model_name, hub_repo, license and free text."""
    cluster: Any = None
    """File of a ClusterConfig; needed by ``submit`` only."""


class Recipe(BaseModel):
    """A loaded recipe. Sections hold the schema objects named in SCHEMAS."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    file: Path
    name: str
    languages: list[str]
    tokenizer: str | TokenizerTraining
    data: Any
    pretrain: list[Any]
    sft: dict[str, Any] | None
    dpo: dict[str, Any] | None
    eval: Any
    release: Any
    cluster: Any
    run_root: Path
    """Where the run folder is (or will be)."""
    resolved: dict[str, Any]
    """Everything as plain data: what the run folder freezes as recipe.yaml."""

    @property
    def hash(self) -> str:
        return sha256_json(self.resolved)


class YamlDict(dict[str, Any]):
    """A mapping read from YAML that remembers its file and the line of each key."""

    file: str = ""
    lines: dict[str, int]

    def where(self, key: str | None = None) -> str:
        if key in self and key not in self.lines:
            return "command line"
        line = self.lines.get(key or "") or min(self.lines.values(), default=0)
        return f"{_shown(self.file)}:{line}" if line else _shown(self.file)


class _Loader(yaml.SafeLoader):
    pass


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> YamlDict:
    loader.flatten_mapping(node)
    out = YamlDict()
    out.file = "command line" if loader.name == "<unicode string>" else str(loader.name)
    out.lines = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node)
        if key in out and key_node.start_mark.line + 1 != out.lines.get(str(key)):
            raise UserError(f"{_shown(out.file)}:{key_node.start_mark.line + 1}: key {key!r} appears twice; keep one")
        out[key] = loader.construct_object(value_node, deep=True)
        out.lines[str(key)] = key_node.start_mark.line + 1
    return out


def _construct_float(loader: _Loader, node: yaml.ScalarNode) -> Any:
    """YAML 1.1 reads 1e-3 as a string; the engines' files mean a number."""
    return float(str(node.value).replace("_", ""))


_Loader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)
_Loader.add_constructor("!float", _construct_float)
_Loader.add_implicit_resolver(
    "!float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: Path | str) -> YamlDict:
    """A YAML file whose top level is a mapping.

    Raises:
        UserError: missing (with the nearest file name), not UTF-8, not YAML, or not a mapping.
    """
    path = Path(path)
    try:
        with open(path, encoding="utf-8") as f:
            value = yaml.load(f, Loader=_Loader)  # a SafeLoader
    except FileNotFoundError:
        raise UserError(f"{_shown(path)}: no such file{_nearest_file(path)}") from None
    except IsADirectoryError:
        raise UserError(f"{_shown(path)} is a folder; name a YAML file") from None
    except UnicodeDecodeError as e:
        raise UserError(f"{_shown(path)}: not a UTF-8 text file ({e.reason} at byte {e.start})") from None
    except yaml.MarkedYAMLError as e:
        line = e.problem_mark.line + 1 if e.problem_mark else 1
        raise UserError(f"{_shown(path)}:{line}: not valid YAML: {e.problem}") from None
    except yaml.YAMLError as e:
        raise UserError(f"{_shown(path)}: not valid YAML: {e}") from None
    if not isinstance(value, YamlDict):
        raise UserError(f"{_shown(path)}: expected 'key: value' lines, found {type(value).__name__}")
    return value


def validate(schema: type[Any], value: Any, prefix: str = "") -> Any:
    """``schema.model_validate(value)`` with the first problem told as file, line, key and nearest key."""
    try:
        return schema.model_validate(value)
    except ValidationError as e:
        # An unknown key is nearer to the cause than the errors it brings about; of the branches of a union, the one
        # that fits furthest was meant.
        problems = sorted(e.errors(), key=lambda p: (p["type"] != "extra_forbidden", -len(p["loc"])))
        raise UserError(_tell(schema, value, problems[0], prefix)) from None


def _tell(schema: type[Any], value: Any, problem: Any, prefix: str) -> str:
    loc = list(problem["loc"])
    where, at, known = "", value, list(_field_names(schema))
    model: Any = schema
    path = [prefix] if prefix else []
    for key in loc[:-1] if loc else []:
        if isinstance(at, YamlDict):
            where = at.where(str(key))
        try:
            at = at[key]
        except (KeyError, IndexError, TypeError):
            continue  # pydantic names the branch of a union here, which is no key
        path.append(str(key))
        model = _inner_model(model, key)
        known = list(_field_names(model)) if model else []
    last = str(loc[-1]) if loc else ""
    if isinstance(at, YamlDict):
        where = at.where(last if last in at else None)
    branch = problem["type"] not in ("extra_forbidden", "missing") and not isinstance(at, dict | list)
    name = ".".join(path if branch else [*path, last])
    if problem["type"] == "extra_forbidden":
        return f"{_at(where)}unknown key {name!r}{nearest(last, known)}"
    if problem["type"] == "missing":
        return f"{_at(where)}key {name!r} is missing"
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    got = problem.get("input")
    shown = "" if isinstance(got, dict | list) or problem["type"] == "value_error" else f" (got {got!r})"
    return f"{_at(where)}{name}: {message[0].lower() + message[1:]}{shown}"


def _field_names(model: Any) -> list[str]:
    fields = getattr(model, "model_fields", {})
    return [f.alias or n for n, f in fields.items()]


def _inner_model(model: Any, key: Any) -> Any:
    """The pydantic model behind ``model.key``, looking through Optional, list and dict."""
    fields = getattr(model, "model_fields", None)
    if fields is None or key not in fields:
        return model if isinstance(key, int) else None
    stack = [fields[key].annotation]
    while stack:
        t = stack.pop()
        if isinstance(t, type) and issubclass(t, BaseModel):
            return t
        stack.extend(getattr(t, "__args__", ()))
    return None


def nearest(word: str, known: Sequence[str]) -> str:
    """``; did you mean 'tokens'?`` or the known names when few, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(sorted(known))}" if 0 < len(known) <= 12 else ""


def _nearest_file(path: Path) -> str:
    near = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    return nearest(path.name, near)


def _shown(path: Path | str) -> str:
    try:
        return str(Path(path).resolve().relative_to(ROOT))
    except ValueError:
        return str(path)


def _at(where: str) -> str:
    return f"{where}: " if where else ""


def load_recipe(file: Path | str, overrides: Sequence[str] = (), home: Path | None = None) -> Recipe:
    """Read, resolve, override and check a recipe.

    Args:
        file: the recipe YAML.
        overrides: ``key.path=value`` strings; the value is YAML.
        home: folder that holds the run folders; ``$DUETTO_HOME`` or ``runs/`` when not given.

    Raises:
        UserError: anything wrong in the recipe, in a file it names, or in an override.
    """
    raw = read_yaml(file)
    parsed = [_parse_override(o) for o in overrides]
    sections = ("data", "sft", "dpo", "eval", "cluster")
    for path, value in parsed:
        if path[0] not in _RecipeFile.model_fields:
            raise UserError(f"unknown key {path[0]!r}{nearest(path[0], list(_RecipeFile.model_fields))}")
        if len(path) == 1:  # which files to read may itself be overridden
            if path[0] == "pretrain" and isinstance(value, str):
                value = [value]
            raw[path[0]] = value
            raw.lines.pop(path[0], None)
    head = validate(_RecipeFile, raw)
    for key in sections:
        raw[key] = _read_section(raw, key, raw.get(key))
    raw["pretrain"] = [_read_section(raw, "pretrain", x) for x in head.pretrain]
    for path, value in parsed:
        if len(path) > 1:
            _apply(raw, path, value)
    run_root = (home or Path(os.environ.get("DUETTO_HOME") or ROOT / "runs")).resolve() / head.name
    raw = _expand(raw, {"{run}": str(run_root), "{root}": str(ROOT), "{stdlib}": sysconfig.get_path("stdlib")})

    checked: dict[str, Any] = {}
    for key, target in SCHEMAS.items():
        if key == "pretrain":
            schema = _import(target)
            checked[key] = [
                validate(schema, x, f"pretrain.{i}" if len(raw[key]) > 1 else key) for i, x in enumerate(raw[key])
            ]
        elif raw.get(key) is not None:
            checked[key] = validate(_import(target), raw[key], key)
        else:
            checked[key] = None
    for key in ENGINE_SECTIONS:
        if raw.get(key) is not None:
            _import("sft.config:check")(raw[key], key)
    top = validate(_RecipeFile, raw)
    return Recipe(
        file=Path(file),
        name=top.name,
        languages=top.languages,
        tokenizer=top.tokenizer,
        sft=raw.get("sft"),
        dpo=raw.get("dpo"),
        run_root=run_root,
        resolved=_plain(raw),
        **checked,
    )


def _import(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _read_section(recipe: YamlDict, key: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    path = Path(value)
    if not path.is_absolute():
        path = ROOT / path
    if not path.exists():
        raise UserError(f"{recipe.where(key)}: {key}: {value}: no such file{_nearest_file(path)}")
    return read_yaml(path)


def _parse_override(text: str) -> tuple[list[str], Any]:
    key, eq, value = text.partition("=")
    if not eq or not key or any(not part for part in key.split(".")):
        raise UserError(f"{text!r}: an override is key.path=value, for example pretrain.tokens.micro_batch_size=4")
    try:
        return key.split("."), yaml.load(value, Loader=_Loader)  # a SafeLoader
    except yaml.YAMLError:
        raise UserError(f"{text!r}: the value is not valid YAML; quote it") from None


def _apply(raw: YamlDict, path: list[str], value: Any) -> None:
    """Set ``path`` to ``value``; a list on the way takes a number, or the value goes to each of its items."""
    shown = ".".join(path)
    at: Any = raw
    for i, key in enumerate(path[:-1]):
        if isinstance(at, list) and not key.isdigit():
            for item in at:
                _apply(item, path[i:], value)
            return
        try:
            at = at[int(key)] if isinstance(at, list) else at[key]
        except IndexError:
            raise UserError(f"{shown}: there is no item {key}; the list has {len(at)}") from None
        except KeyError:
            at[key] = YamlDict()  # a new branch: the schema will say whether it may exist
            at[key].file, at[key].lines = "command line", {}
            at = at[key]
        if at is None or isinstance(at, str | int | float | bool):
            raise UserError(f"{shown}: {'.'.join(path[: i + 1])} is {at!r}, not a section")
    last = path[-1]
    if isinstance(at, list):
        if not last.isdigit():
            for item in at:
                _apply(item, path[-1:], value)
            return
        at[int(last)] = value
    else:
        at[last] = value
        if isinstance(at, YamlDict):
            at.lines.pop(last, None)  # the file is not to blame for it any more


def _expand(value: Any, names: Mapping[str, str]) -> Any:
    """Replace {run}, {root} and {stdlib} in every string, keeping file and line of the mappings."""
    if isinstance(value, str):
        for name, text in names.items():
            value = value.replace(name, text)
        return value
    if isinstance(value, YamlDict):
        for k in value:
            value[k] = _expand(value[k], names)
        return value
    if isinstance(value, list):
        return [_expand(v, names) for v in value]
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list) else value
