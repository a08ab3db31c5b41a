"""constraints.txt pins the whole environment, for both builds of torch."""

import importlib.metadata
import re
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)", re.M)


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


PINS = {canonical(name): version for name, version in PINNED.findall((ROOT / "constraints.txt").read_text())}


def test_every_installed_package_is_pinned_at_its_version():
    for dist in importlib.metadata.distributions(path=[sysconfig.get_path("purelib")]):
        name = canonical(dist.metadata["Name"])
        if name in ("duetto", "pip"):
            continue
        assert name in PINS, f"{name} is installed but not pinned; run `make lock`"


def test_torch_serves_cpu_and_cuda():
    assert PINS["torch"] == "2.13.0"  # no local version: +cpu and the CUDA build both satisfy it
    assert PINS["triton"] == "3.7.1"  # what the CUDA build of torch 2.13.0 asks for
    assert {"nvidia-nccl-cu13", "nvidia-cudnn-cu13"} <= set(PINS)
