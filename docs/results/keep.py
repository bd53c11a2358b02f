"""Keeps the report of a run for the page of results, with the date and the machine.

python docs/results/keep.py RUN docs/results/digits.json
"""

from __future__ import annotations

import json
import os
import platform
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path


def keep(run: Path, kept: Path) -> None:
    """Writes what convert.py reported, the date and the machine.

    Args:
        run: the run directory.
        kept: the JSON to write.
    """
    machine = {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    machine |= {package: version(package) for package in ("jax", "flax")}
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    found = {"date": date.today().isoformat(), "machine": machine, "report": report}
    kept.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    keep(Path(sys.argv[1]), Path(sys.argv[2]))
