"""Tests run strict: no implicit promotion of types or ranks, shapes in annotations checked, warnings as errors."""

import jaxtyping
import pytest
from jaxtyping import install_import_hook

install_import_hook("gnsnn_jax", "beartype.beartype")

import jax  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

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
