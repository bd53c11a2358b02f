"""Has moved: `python -m gnsnn_jax.data.prepare NAME --data-dir DIR`. This name still works."""

import sys

from gnsnn_jax.errors import imports_of

with imports_of("prepare", __name__):
    from gnsnn_jax.data.prepare import main
    from gnsnn_jax.runtime.command_line import run_script

if __name__ == "__main__":
    sys.exit(run_script("prepare", main))
