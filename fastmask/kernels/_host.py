"""The machine: its CPU as LLVM sees it, the width of its vectors, the CPUs that this process may use."""

import math
import os
from pathlib import Path


def _host():
    """(cpu name, feature string, feature dict) as LLVM sees this machine, or as NUMBA_CPU_NAME and NUMBA_CPU_FEATURES
    say, which numba obeys, too.
    """
    from llvmlite import binding

    name, features = os.environ.get("NUMBA_CPU_NAME"), os.environ.get("NUMBA_CPU_FEATURES")
    if name:
        features = features or ""
        return name, features, {f[1:]: f[0] == "+" for f in features.split(",") if f}
    try:
        features = binding.get_host_cpu_features()
    except RuntimeError:  # not known on this platform
        return binding.get_host_cpu_name(), "", {}
    return binding.get_host_cpu_name(), features.flatten(), dict(features)


def choose_lanes(features):
    """float32 lanes of a vector: 16 (AVX-512), 8 (AVX2), 4 (others); FASTMASK_LANES forces it."""
    forced = os.environ.get("FASTMASK_LANES")
    if forced:
        if forced not in ("4", "8", "16"):
            raise ValueError(f"FASTMASK_LANES: expected 4, 8 or 16, received {forced!r}")
        return int(forced)
    if features.get("avx512f"):
        return 16
    return 8 if features.get("avx2") else 4


def available_cpus():
    """CPUs this process may use: affinity and the cgroup's quota."""
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for path in ("/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us"):
        try:
            text = Path(path).read_text().split()
            period = text[1] if len(text) > 1 else Path(path).with_name("cpu.cfs_period_us").read_text()
            if text[0] not in ("max", "-1"):
                n = min(n, max(1, math.ceil(int(text[0]) / int(period))))
            break
        except (OSError, ValueError, IndexError):
            continue
    return n


CPU_NAME, CPU_FEATURES, FEATURES = _host()
LANES = choose_lanes(FEATURES)
_REGISTERS = 32 if LANES == 16 or FEATURES.get("avx512vl") or FEATURES.get("neon") else 16
TILE_ROWS = 6 if _REGISTERS == 32 else 3
