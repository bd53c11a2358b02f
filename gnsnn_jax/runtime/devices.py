"""Data parallel over all devices of all processes: batches are split over them, everything else is on each."""

from __future__ import annotations

import re
import time
from argparse import ArgumentParser
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gnsnn_jax.errors import InputError, shown
from gnsnn_jax.runtime.command_line import console, count, integer, word

BATCH = "batch"
LARGEST_PORT = 65535


def add_process_options(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("several processes that do not find each other by themselves")
    group.add_argument("--coordinator", type=word, metavar="HOST:PORT", help="address of the first process")
    group.add_argument("--processes", type=count, metavar="N", help="how many there are")
    group.add_argument("--process-id", type=integer, metavar="I", help="which one this is, from 0")


def start_processes(coordinator: str | None, processes: int | None, process_id: int | None) -> None:
    """Joins the processes of one computation; the first of them prints.

    On TPU pods and under Slurm, Open MPI and Kubernetes the processes find each other; elsewhere all three
    arguments are needed. Does nothing for a single process, and without arguments once JAX is in use.

    Args:
        coordinator: the address HOST:PORT of the first process.
        processes: how many there are.
        process_id: the number of this one, from 0.

    Raises:
        InputError: where only some of the three are given, or where the processes do not meet.
    """
    given = (coordinator, processes, process_id)
    is_told = any(value is not None for value in given)
    if is_told:
        _check_processes(*given)
    try:
        jax.distributed.initialize(*given, cluster_detection_method="deactivate" if is_told else None)
    except ValueError as error:
        if is_told or "coordinator_address" not in str(error):
            raise InputError(f"the processes of this computation could not be started: {error}") from None
    except RuntimeError as error:
        if not is_told and "must be called before" in str(error):
            return
        raise InputError(f"the processes of this computation did not meet: {str(error).splitlines()[0]}") from None
    console.quiet = not is_first()


def _check_processes(coordinator: str | None, processes: int | None, process_id: int | None) -> None:
    if None in (coordinator, processes, process_id):
        raise InputError("--coordinator, --processes and --process-id say together who the processes are; give all")
    if not 0 <= process_id < processes:
        raise InputError(f"--process-id is 0 to {processes - 1} for {processes} processes, got {shown(process_id)}")
    host, _, port = coordinator.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) <= LARGEST_PORT:
        raise InputError(
            f"--coordinator takes HOST:PORT of the first process, got {shown(coordinator)}; ports are 1 to "
            f"{LARGEST_PORT}"
        )


def is_first() -> bool:
    """Whether this process is the one that prints and writes."""
    return jax.process_index() == 0


def in_first(action: Callable[[], None]) -> None:
    """Calls `action` in the first process alone; the others wait, and stop if it raises InputError."""
    error = None
    if is_first():
        try:
            action()
        except InputError as found:
            error = found
    failed = agreed(error is not None)
    if error:
        raise error
    if failed:
        raise InputError("the first process cannot go on; its message says why")


def agreed(value: Any) -> Any:
    """The number that the first process has."""
    return value if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(np.asarray(value)).item()


def agreed_arrays(tree: Any) -> Any:
    """The tree of arrays that the first process has."""
    return tree if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(tree)


def anywhere(flag: bool) -> bool:
    """Whether any process has the flag; all of them have to ask."""
    return flag if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.asarray(flag)).any())


def agreed_time() -> float:
    """The time, in whole seconds, of the first process."""
    return float(agreed(np.uint32(time.time())))


@cache
def mesh() -> Mesh:
    return jax.make_mesh((jax.device_count(),), (BATCH,), axis_types=(AxisType.Auto,))


def on_all() -> NamedSharding:
    return NamedSharding(mesh(), PartitionSpec())


def split_by(axis: int) -> NamedSharding:
    """Arrays whose given axis is the batch."""
    return NamedSharding(mesh(), PartitionSpec(*[None] * axis, BATCH))


def replicate(tree: Any) -> Any:
    """A tree of arrays, equal in all processes, on every device."""
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(on_all(), np.asarray(leaf)), tree)


def distribute(array: np.ndarray, axis: int = 0) -> jax.Array:
    """The rows that this process read, as its part of a batch over all devices."""
    return jax.make_array_from_process_local_data(split_by(axis), array)


def next_multiple(count: int) -> int:
    """The smallest batch of at least `count` samples that splits evenly over all devices."""
    return -(-count // jax.device_count()) * jax.device_count()
