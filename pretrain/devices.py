"""What data sheets say about GPUs: dense bf16 FLOP/s, memory, board power.

A name that is not here is unknown, and every figure that would need it is n/a: a guess would be believed.
"""

import re
from dataclasses import dataclass

GB = 10**9


@dataclass(frozen=True)
class Device:
    name: str
    peak_flops: float
    """Dense bf16 with float32 accumulation, FLOP/s, without sparsity."""
    memory: float
    """Bytes on the board."""
    power: float
    """Board power limit, watts."""


DEVICES = {
    # Patterns are tried in order against the lower-cased name (torch's, SLURM's or a person's).
    r"b200": Device("B200", 2250e12, 180 * GB, 1000),
    r"gh200|h200": Device("H200", 989e12, 141 * GB, 700),
    r"h100.*pcie": Device("H100 PCIe", 756e12, 80 * GB, 350),
    r"h100.*nvl": Device("H100 NVL", 835e12, 94 * GB, 400),
    r"h100|h800": Device("H100 SXM", 989e12, 80 * GB, 700),
    r"a100.*40": Device("A100 40 GB", 312e12, 40 * GB, 400),
    r"a100.*64": Device("A100 64 GB", 312e12, 64 * GB, 440),
    r"a100|a800": Device("A100 80 GB", 312e12, 80 * GB, 400),
    r"l40s": Device("L40S", 362e12, 48 * GB, 350),
    r"\bl40\b": Device("L40", 181e12, 48 * GB, 300),
    r"\bl4\b": Device("L4", 121e12, 24 * GB, 72),
    r"\ba40\b": Device("A40", 149.7e12, 48 * GB, 300),
    r"\ba30\b": Device("A30", 165e12, 24 * GB, 165),
    r"\ba10\b": Device("A10", 125e12, 24 * GB, 150),
    r"rtx.?6000.?ada": Device("RTX 6000 Ada", 182e12, 48 * GB, 300),
    r"4090": Device("RTX 4090", 165.2e12, 24 * GB, 450),
    r"3090(?!.*ti)": Device("RTX 3090", 71e12, 24 * GB, 350),
    r"mi300x": Device("MI300X", 1307e12, 192 * GB, 750),
    r"mi250x": Device("MI250X, one die", 191.5e12, 64 * GB, 280),
}


def find(name: str | None) -> Device | None:
    """The data sheet of ``NVIDIA A100-SXM4-80GB``, ``a100``, ...; None when it is unknown or no GPU."""
    low = (name or "").lower().replace("_", " ")
    return next((device for pattern, device in DEVICES.items() if re.search(pattern, low)), None)
