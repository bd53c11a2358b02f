"""Has moved: `python -m gnsnn_jax.report.compare_runs RUN RUN …`. This name still works."""

import sys

from gnsnn_jax.errors import imports_of

with imports_of("compare", __name__):
    from gnsnn_jax.report.compare_runs import main
    from gnsnn_jax.runtime.command_line import run_script

if __name__ == "__main__":
    sys.exit(run_script("compare", main))
