"""The machine and the versions behind a measurement, in words."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jax

from gnsnn_jax.data.streaming import usable_cores

PROCESSORS = Path("/proc/cpuinfo")  # of Linux, which names the processor there


def machine(packages: Sequence[str]) -> dict[str, str]:
    """Returns processor, device, threads and versions, for the head of a table.

    Args:
        packages: Names of distributions; those that are not installed are left out.
    """
    return {
        "processor": f"{_processor()}, {usable_cores()} cores",
        "device": jax.devices()[0].device_kind,
        "threads": os.environ.get("OMP_NUM_THREADS", "as many as cores"),
        "python": platform.python_version(),
        **{package: found for package in packages if (found := _version(package))},
    }


def in_words(about: Mapping[str, str]) -> str:
    """Returns what `machine` found as one line."""
    return ", ".join(f"{name} {value}" for name, value in about.items())


def _processor() -> str:
    known = PROCESSORS.read_text(encoding="utf-8").splitlines() if PROCESSORS.exists() else []
    names = [line.split(":", 1)[1].strip() for line in known if line.startswith("model name")]
    return f"{names[0]} ({platform.machine()})" if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
