"""What every bench shares: ``--json FILE`` and the closing line of JSON."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def parser(description: str) -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=description)
    p.add_argument("--json", type=Path, metavar="FILE", help="write the closing line there too")
    return p


def finish(
    name: str, figures: Mapping[str, Any], goals: Mapping[str, tuple[str, float, float]], file: Path | None
) -> None:
    """Print the closing line: ``{"name", "figures", "goals", "met"}``.

    Args:
        goals: figure name -> (``">="`` or ``"<="``, the goal, the value measured).
    """
    table = {
        key: {"goal": f"{sign} {goal:g}", "value": value, "met": value >= goal if sign == ">=" else value <= goal}
        for key, (sign, goal, value) in goals.items()
    }
    line = json.dumps(
        {"name": name, "figures": dict(figures), "goals": table, "met": all(g["met"] for g in table.values())}
    )
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(line + "\n")
    print(line)
