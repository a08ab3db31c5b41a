"""Speed and memory of ``duetto push`` against a plain huggingface_hub ``upload_folder`` of the same files.

    python -m bench.push [--gb 1] [--rounds 2] [--json FILE]

Both talk HTTP to a Hub on loopback in a process of its own, freshly emptied for each run; A and B alternate. Memory is
the peak of the uploading process. The gates (lint, sample generation) come before a push and are not part of it.
"""

import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.common import finish, parser
from duetto.recipe import ROOT

SPEED, MEMORY_MB = 0.80, 500
FILES = 4


def main() -> None:
    p = parser(__doc__.splitlines()[0])
    p.add_argument("--gb", type=float, default=1.0, help="size of the release (default: %(default)s)")
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("--child", choices=("plain", "duetto"), help="(internal)")
    p.add_argument("--folder", type=Path, help="(internal)")
    args = p.parse_args()
    if args.child:
        print(json.dumps(child(args.child, args.folder)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "release"
        make_release(folder, int(args.gb * 1e9))
        times: dict[str, list[float]] = {"plain": [], "duetto": []}
        memory: dict[str, float] = {}
        for n in range(args.rounds):
            for kind in times:
                found = one_run(kind, folder, Path(scratch) / f"hub-{n}-{kind}")
                times[kind].append(found["seconds"])
                memory[kind] = max(memory.get(kind, 0), found["megabytes"])
                print(f"{kind}: {found['seconds']:.2f} s, {args.gb * 1e3 / found['seconds']:.0f} MB/s")
    best = {k: min(v) for k, v in times.items()}
    ratio = best["plain"] / best["duetto"]
    figures: dict[str, Any] = {f"{k}_seconds": round(v, 2) for k, v in best.items()}
    figures |= {f"{k}_peak_mb": round(v) for k, v in memory.items()} | {"gigabytes": args.gb}
    figures["speed_against_upload_folder"] = round(ratio, 3)
    goals = {
        "speed_against_upload_folder": (">=", SPEED, round(ratio, 3)),
        "duetto_peak_mb": ("<=", float(MEMORY_MB), float(round(memory["duetto"]))),
    }
    finish("push", figures, goals, args.json)


def make_release(folder: Path, size: int) -> None:
    """Files that no compression shortens; the content is not read by anybody."""
    folder.mkdir()
    for i in range(FILES):
        with (folder / f"model-{i + 1:05d}-of-{FILES:05d}.safetensors").open("wb") as f:
            for _ in range(size // FILES // (8 << 20)):
                f.write(os.urandom(8 << 20))
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")


def one_run(kind: str, folder: Path, home: Path) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=serve, args=(home, theirs), daemon=True)
    server.start()
    theirs.close()  # else a server that fails to start is waited for without end
    url, token = ours.recv()
    environment = {
        **os.environ,
        "HF_ENDPOINT": url,
        "HF_TOKEN": token,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }
    environment["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    command = [sys.executable, "-m", "bench.push", "--child", kind, "--folder", str(folder)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    ours.send("stop")
    server.join()
    subprocess.run(["rm", "-rf", str(home)], check=True)
    if done.returncode:
        sys.exit(done.stderr)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def serve(home: Path, pipe: Any) -> None:
    from tests.support.hub import LocalHub

    with LocalHub(home) as hub:
        pipe.send((hub.url, hub.write_token))
        pipe.recv()


def child(kind: str, folder: Path) -> dict[str, float]:
    """Upload once; seconds without the imports, and peak memory of this process."""
    import huggingface_hub  # noqa: F401

    from release.hub import client, compare, remote_files
    from release.push import Parcel, send

    api = client()
    repo = "tester/bench"
    started = time.monotonic()
    if kind == "plain":
        api.create_repo(repo, private=True)
        api.upload_folder(repo_id=repo, folder_path=str(folder))
    else:
        paths = sorted(p.name for p in folder.iterdir())
        parcel = Parcel("bench", folder, repo, paths, "v1")
        send(api, repo, parcel, compare(folder, paths, remote_files(api, repo)), public=False, force=False)
    seconds = time.monotonic() - started
    return {"seconds": seconds, "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


if __name__ == "__main__":
    main()
