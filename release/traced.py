"""Numbers that know where they come from.

``Document`` wraps a JSON or YAML file; what is read out of it is a ``Traced`` value with its file and pointer, and
arithmetic between traced values keeps all sources. A card is rendered from these only, so that each number in it
leads back to a manifest, a configuration or a result.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Scalar = str | int | float | bool | None


class Traced:
    """A scalar and the places it was read from (``manifests/pretrain.json#/metrics/tokens``)."""

    __slots__ = ("sources", "value")

    def __init__(self, value: Scalar, sources: tuple[str, ...]):
        self.value, self.sources = value, sources

    def __repr__(self) -> str:
        return f"{self.value!r} from {', '.join(self.sources)}"

    def __bool__(self) -> bool:
        return bool(self.value)

    def __hash__(self) -> int:
        return hash(self.value)

    def __str__(self) -> str:
        raise TypeError(f"{self!r} must pass through a formatting filter, or its origin would be lost")

    def _with(self, other: Any, op: Callable[[Any, Any], Any], swapped: bool = False) -> Traced:
        a, b = self.value, plain(other)
        extra = other.sources if isinstance(other, Traced) else ()
        return Traced(op(b, a) if swapped else op(a, b), tuple(dict.fromkeys(self.sources + extra)))

    def __add__(self, other: Any) -> Traced:
        return self._with(other, operator.add)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Traced:
        return self._with(other, operator.sub)

    def __mul__(self, other: Any) -> Traced:
        return self._with(other, operator.mul)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Traced:
        return self._with(other, operator.truediv)

    def __eq__(self, other: object) -> bool:
        return bool(self.value == plain(other))

    def __lt__(self, other: Any) -> bool:
        return bool(self.value < plain(other))  # type: ignore[operator]

    def __gt__(self, other: Any) -> bool:
        return bool(self.value > plain(other))  # type: ignore[operator]

    def __le__(self, other: Any) -> bool:
        return not self > other

    def __ge__(self, other: Any) -> bool:
        return not self < other


def plain(value: Any) -> Any:
    """The bare value of a traced one."""
    if isinstance(value, Traced):
        return value.value
    return value.raw if isinstance(value, Document) else value


class Document(Mapping[str, Any]):
    """A node of a JSON document: mappings and lists give nodes, scalars give traced values."""

    def __init__(self, raw: Any, source: str):
        self.raw, self.source = raw, source

    def __getitem__(self, key: Any) -> Any:
        return wrap(self.raw[key], self._below(key))

    def _below(self, key: Any) -> str:
        step = str(key).replace("~", "~0").replace("/", "~1")
        return f"{self.source}/{step}" if "#" in self.source else f"{self.source}#/{step}"

    def __iter__(self) -> Iterator[Any]:
        if isinstance(self.raw, list):
            return (self[i] for i in range(len(self.raw)))
        return iter(self.raw)

    def __len__(self) -> int:
        return len(self.raw)

    def at(self, *path: Any) -> Any:
        """What lies at a path, or None where any step is missing."""
        node: Any = self
        for key in path:
            if not isinstance(node, Document):
                return None
            try:
                node = node[key]
            except (KeyError, IndexError, TypeError):
                return None
        return node

    def text(self, key: Any) -> Traced:
        """A mapping's own key as a traced value (names of tasks and sources hold digits too)."""
        return Traced(str(key), (self._below(key),))


def wrap(value: Any, source: str) -> Any:
    return Document(value, source) if isinstance(value, dict | list) else Traced(value, (source,))


def look_up(document: Any, pointer: str) -> Any:
    """The raw value at ``/metrics/tokens`` of a plain document.

    Raises:
        KeyError: nothing is there.
    """
    node = document
    for step in filter(None, pointer.split("/")):
        key = step.replace("~1", "/").replace("~0", "~")
        try:
            node = node[int(key)] if isinstance(node, list) else node[key]
        except (KeyError, IndexError, TypeError, ValueError):
            raise KeyError(pointer) from None
    return node
