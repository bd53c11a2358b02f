"""NIR graphs: read from files that may be damaged, written at once or not at all, and in the order of evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from gnsnn_jax.errors import InputError, extra, listed, printable
from gnsnn_jax.interop.files import existing_file, whole_file

MOST_BYTES = 4 * 2**30  # of arrays in a file, so that a small file cannot ask for all memory
DEEPEST = 16  # sub-graphs within one another

Edge = tuple[str, str]


def nir_package() -> ModuleType:
    """The package `nir`, which the extra "nir" brings."""
    with extra("nir", "reading or writing NIR"):
        import nir
    return nir


def _h5py_package() -> ModuleType:
    with extra("nir", "reading or writing NIR"):
        import h5py
    return h5py


class Flat(NamedTuple):
    """A graph without sub-graphs, in the order of evaluation.

    nodes    by name, inputs first; those of a sub-graph are named after it, "block/conv"
    edges    along which a value arrives at the same step
    delayed  edges that close a cycle: a value arrives one step later
    """

    nodes: dict[str, Any]
    edges: list[Edge]
    delayed: list[Edge]

    def of_type(self, kind: str) -> list[str]:
        return [name for name, node in self.nodes.items() if type(node).__name__ == kind]


# Files.


def read_graph(path: str | Path) -> Any:
    """The NIR graph of a file.

    Raises InputError where there is no such file, where it is damaged or of another format, and for nodes that NIR
    does not have, all of them at once.
    """
    nir, path = nir_package(), existing_file(path)
    _check_file(path, {name for name in dir(nir) if isinstance(getattr(nir, name), type)})
    try:
        graph = nir.read(path, type_check=False)
    except PermissionError:
        raise
    except Exception as error:  # whatever the reader meets in a damaged file
        raise _damaged(path, error) from error
    if not isinstance(graph, nir.NIRGraph):
        raise InputError(f"{printable(path)} holds a node {type(graph).__name__}, where a NIRGraph is wanted")
    return graph


def _check_file(path: Path, known: set[str]) -> None:
    """Raises InputError for a file that is no HDF5, holds other files, too much, or nodes of unknown types."""
    h5py = _h5py_package()
    try:
        with h5py.File(path, "r") as file:
            found = list(_datasets(file, 0))
            size = sum(dataset.size * dataset.dtype.itemsize for _, dataset in found)
            types = sorted({_text(dataset) for name, dataset in found if name == "type"})
            inside = "node" in file
    except (InputError, PermissionError) as error:
        raise type(error)(f"{printable(path)}: {error}") from None
    except Exception as error:  # whatever the reader meets in a damaged file
        raise _damaged(path, error) from error
    if not inside:
        raise InputError(f"{printable(path)} is an HDF5 file, but holds no NIR graph; nir.write makes one")
    if size > MOST_BYTES:
        raise InputError(f"{printable(path)} asks for {size} bytes of arrays, more than the {MOST_BYTES} allowed")
    unknown = [each for each in types if each not in known]
    if unknown:
        raise InputError(f"{printable(path)} holds nodes that NIR does not have: {listed(unknown)}")


def _datasets(group: Any, depth: int) -> Iterator[tuple[str, Any]]:
    """All datasets, each with its name within its group; nothing outside of the file, and no link twice."""
    h5py = _h5py_package()
    if depth > 2 * DEEPEST + 4:
        raise InputError(f"its groups are nested more than {DEEPEST} graphs deep")
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise InputError(f"{name!r} is a link to another place, which no NIR file has")
        item = group[name]
        if isinstance(item, h5py.Group):
            yield from _datasets(item, depth + 1)
        elif isinstance(item, h5py.Dataset):
            if item.external or item.is_virtual:
                raise InputError(f"{name!r} keeps its data in another file, which no NIR file does")
            yield name, item


def _text(dataset: Any) -> str:
    value = dataset[()]
    return value.decode("utf8", "replace") if isinstance(value, bytes) else str(value)


def _damaged(path: Path, error: Exception) -> InputError:
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return InputError(f"{printable(path)} cannot be read as a NIR graph ({printable(reason)}); it is damaged or no NIR")


def write_graph(path: str | Path, graph: Any, overwrite: bool) -> None:
    """Writes a graph.

    Resets of IF neurons to 0 are left out: it is what NIR takes for one that is missing, and earlier readers of NIR,
    to which Sinabs is bound, do not know them.

    Raises InputError where the file exists and `overwrite` is false, and where there is no directory to write into.
    """
    nir = nir_package()
    with whole_file(path, overwrite) as unfinished:
        nir.write(unfinished, graph)
        _without_zero_resets(unfinished)


def _without_zero_resets(path: Path) -> None:
    with _h5py_package().File(path, "r+") as file:
        for node in file["node/nodes"].values():
            if _text(node["type"]) == "IF" and not np.any(node["v_reset"][()]):
                del node["v_reset"]


# Order.


def flattened(graph: Any) -> Flat:
    """The graph without sub-graphs, in the order of evaluation.

    Raises InputError for edges of nodes that are not there, for a graph without input or output, and for nodes that
    no input reaches.
    """
    nodes: dict[str, Any] = {}
    edges: list[Edge] = []
    _inline(graph, "", nodes, edges, 0)
    order, delayed = _order(graph, nodes, edges)
    lost = [name for name in nodes if name not in order]
    if lost:
        raise InputError(f"no input of the NIR graph reaches its nodes {listed(lost)}")
    return Flat({name: nodes[name] for name in order}, [edge for edge in edges if edge not in delayed], delayed)


def _inline(graph: Any, prefix: str, nodes: dict[str, Any], edges: list[Edge], depth: int) -> None:
    """Adds the nodes and edges of a graph and of the graphs in it."""
    nir = nir_package()
    if depth > DEEPEST:
        raise InputError(f"the NIR graph has sub-graphs more than {DEEPEST} deep")
    for name, node in graph.nodes.items():
        if isinstance(node, nir.NIRGraph):
            _inline(node, f"{prefix}{name}/", nodes, edges, depth + 1)
        else:
            nodes[prefix + name] = node
    for source, target in dict.fromkeys((str(a), str(b)) for a, b in graph.edges):
        unknown = [name for name in (source, target) if name not in graph.nodes]
        if unknown:
            raise InputError(f"an edge of the NIR graph names {listed(unknown)}, which are none of its nodes")
        start = _port(prefix + source, graph.nodes[source], nir.Output)
        edges.append((start, _port(prefix + target, graph.nodes[target], nir.Input)))


def _port(name: str, node: Any, kind: type) -> str:
    """The node itself, or the one input or output of a sub-graph."""
    nir = nir_package()
    if not isinstance(node, nir.NIRGraph):
        return name
    found = [inner for inner, each in node.nodes.items() if isinstance(each, kind)]
    if len(found) != 1:
        raise InputError(f"the sub-graph {name!r} has {len(found)} nodes {kind.__name__}, where 1 is wanted")
    return f"{name}/{found[0]}"


def _order(graph: Any, nodes: Mapping[str, Any], edges: list[Edge]) -> tuple[list[str], list[Edge]]:
    """The nodes that inputs reach, each behind those that it reads, and the edges that lead back."""
    nir = nir_package()
    starts = [name for name, node in graph.nodes.items() if isinstance(node, nir.Input)]
    if not starts or not any(isinstance(node, nir.Output) for node in graph.nodes.values()):
        raise InputError("the NIR graph has no node Input or no node Output")
    targets: dict[str, list[str]] = {name: [] for name in nodes}
    for source, target in edges:
        targets[source].append(target)
    done: dict[str, bool] = {}  # False while what is behind a node is visited
    finished: list[str] = []
    delayed: list[Edge] = []
    for start in starts:
        path = [(start, iter(targets[start]))] if start not in done else []
        done.setdefault(start, False)
        while path:
            name, rest = path[-1]
            for target in rest:
                if target not in done:
                    done[target] = False
                    path.append((target, iter(targets[target])))
                    break
                if not done[target]:
                    delayed.append((name, target))
            else:
                done[name] = True
                finished.append(name)
                path.pop()
    return finished[::-1], delayed
