"""Corrections, a file each: what calibration data tell about the neurons of each site, found once before they run."""

from __future__ import annotations

from collections.abc import Callable

from gnsnn_jax.method.corrections.base import Correction, CorrectionRule, Seen, corrected
from gnsnn_jax.method.registry import union

__all__ = ["CORRECTIONS", "HELP", "Correction", "CorrectionRule", "Seen", "corrected"]

# What a method's name stands for: the union of the dictionaries CORRECTIONS in the files of this folder.
CORRECTIONS: dict[str, Callable[[], CorrectionRule]] = union(__name__, __path__, "CORRECTIONS")
HELP: dict[str, str] = union(__name__, __path__, "HELP")  # what each is, in a line
