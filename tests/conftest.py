"""Tests run strict: no implicit promotion of types or ranks, shapes in annotations checked, warnings as errors.

What one of them compiles, all processes of a run of tests share.
"""

import atexit
import os
import runpy
import shutil
import sys
import tempfile
from pathlib import Path

import jaxtyping
import pytest
from jaxtyping import install_import_hook

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    compiled = tempfile.mkdtemp(prefix="gnsnn_jax-compiled-")
    atexit.register(shutil.rmtree, compiled, ignore_errors=True)
    os.environ |= {"JAX_COMPILATION_CACHE_DIR": compiled, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3"}

# A program of a test runs for milliseconds and compiles for far longer. With this little optimisation XLA takes about
# three quarters of the time, and still fuses and contracts x * y + z, so that results keep their bits. With level 0
# they do not: tests of exact results would prove less.
FLAGS = os.environ.get("XLA_FLAGS")
os.environ["XLA_FLAGS"] = f"--xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true {FLAGS or ''}"

install_import_hook("gnsnn_jax", "beartype.beartype")

import jax  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

# Scripts and other processes that tests start compile as users' do, and keep their programs apart from these.
jax.devices()
jax.config.update("jax_compilation_cache_dir", os.path.join(os.environ["JAX_COMPILATION_CACHE_DIR"], "tests"))
del os.environ["XLA_FLAGS"]
if FLAGS is not None:
    os.environ["XLA_FLAGS"] = FLAGS

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

ROOT = Path(__file__).parent.parent

# Each new shape compiles, so an example takes long and few of them go a long way.
settings.register_profile(
    "compiled", max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("compiled")


@pytest.fixture
def unchecked():
    """Calls without the checks of annotations, as users make them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def run_script(monkeypatch, name, *arguments):
    """Runs a script in this process, as its command line does; returns its exit status."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    with pytest.raises(SystemExit) as exit:
        runpy.run_path(str(ROOT / name), run_name="__main__")
    return exit.value.code


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys, unchecked):
    """Runs a script in this process; it must end with one sentence on standard error and status 2."""

    def run(name, *arguments):
        monkeypatch.chdir(tmp_path)
        code = run_script(monkeypatch, name, *arguments)
        message = capsys.readouterr().err
        assert code == 2, message
        assert message.startswith(f"{name}: error: ")
        assert message.count("\n") == 1
        return message

    return run


# Files that take long as a whole; `make check` leaves them out, as it does tests that are marked one by one.
SLOW_FILES = {
    f"test_{name}.py"
    for name in (
        "behaviour connections convolution dtypes folding from_torch long_runs loop models nir on_means "
        "precision reference report serving stopping transformers verification views weights"
    ).split()
}


# What takes longest starts first, so that no worker is left with it at the end; the order of the others stays.
LONGEST = [f"test_{name}.py" for name in "scripts resume recipes devices neurons serving examples views".split()]


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
    for item in items:
        if item.path.name in SLOW_FILES:
            item.add_marker(pytest.mark.slow)
