"""Has moved: `python -m gnsnn_jax.report.compare RUN RUN …`. This name still works."""

import sys

from gnsnn_jax.report.compare import main
from gnsnn_jax.runtime.command_line import run_script

if __name__ == "__main__":
    sys.exit(run_script("compare", main))
