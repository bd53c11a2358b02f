"""Prepares a data set with TensorFlow Datasets as ArrayRecord, which train.py reads without TensorFlow."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gnsnn_jax.data.prepared_folders import (
    FORMAT,
    INFO,
    PACKAGES,
    Prepared,
    default_directory,
    image_and_label,
    open_prepared,
    reason_of,
)
from gnsnn_jax.errors import InputError, extra, imports_of, missing_package, nearest

with imports_of("prepare", __name__):
    from gnsnn_jax.runtime.command_line import Parser, directory, run_script, say, word

PATIENCE = 10.0  # seconds that a server may take to answer


def parse(arguments: list[str] | None = None):
    parser = Parser(prog="python -m gnsnn_jax.data.prepare", description=__doc__)
    parser.add_argument("name", type=word, help="as TensorFlow Datasets names it: cifar10, or with /CONFIG or :VERSION")
    parser.add_argument("--data-dir", type=directory, help=f"where to put it ({default_directory()})")
    parser.add_argument("--manual-dir", type=directory, help="where the files are that one has to download by hand")
    return parser.parse_args(arguments)


def prepare(name: str, data_dir: Path, manual_dir: Path | None = None) -> Prepared:
    """Makes the folder of a set, or leaves the one that is there.

    Raises InputError where packages are missing, for a set that is not known or none for classification,
    and where its files cannot be had.
    """
    tfds = _packages()
    builder = _builder(tfds, name, data_dir)
    folder = Path(builder.data_path)
    if not (folder / INFO).is_file():
        image_and_label(builder.info, name)
        _check_sources(builder, data_dir, manual_dir)
        settings = tfds.download.DownloadConfig(manual_dir=manual_dir)
        try:
            builder.download_and_prepare(download_config=settings, file_format=FORMAT)
        except Exception as error:  # whatever the code of the set meets
            raise InputError(f"{name} could not be prepared in {folder} ({reason_of(error)})") from error
    found = open_prepared(folder)
    if "train" not in found.splits:
        raise InputError(
            f"{folder} has no training split, as the file for it was not in --manual-dir; remove the folder and "
            "prepare again with the file"
        )
    return found


def _packages() -> Any:
    """TensorFlow Datasets. Raises InputError where it or TensorFlow is not installed."""
    missing = [package for package in ("tensorflow", *PACKAGES) if find_spec(package) is None]
    if missing:
        raise missing_package(
            ", ".join(missing), "prepare", "preparing a data set", "in an environment of its own if you like"
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow tells much of the machine
    return import_module("tensorflow_datasets")


def _builder(tfds: Any, name: str, data_dir: Path) -> Any:
    try:
        return tfds.builder(name, data_dir=str(data_dir))
    except tfds.core.DatasetNotFoundError:
        known = tfds.list_builders(with_community_datasets=False)
        raise InputError(f"TensorFlow Datasets knows no set {name!r}{nearest(name, known)}") from None
    except (ValueError, AssertionError) as error:
        raise InputError(f"TensorFlow Datasets cannot make {name!r} ({reason_of(error)})") from None


def _check_sources(builder: Any, data_dir: Path, manual_dir: Path | None) -> None:
    """Raises InputError where the files of a set cannot be had: TensorFlow Datasets would try for minutes."""
    downloads = data_dir / "downloads"
    if instructions := builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        if not _holds_files(manual_dir or downloads / "manual"):
            raise InputError(
                f"the files of {builder.name} must be downloaded by hand, to a directory given with --manual-dir: "
                + " ".join(instructions.split())
            )
    elif not _holds_files(downloads):
        _check_server(builder)


def _holds_files(folder: Path) -> bool:
    return folder.is_dir() and any(path.is_file() for path in folder.iterdir())


def _check_server(builder: Any) -> None:
    """Raises InputError where the server of the first file does not answer."""
    with extra("prepare"):
        import requests

    address = next((url for url in builder.url_infos or {} if url.startswith("http")), None)
    try:
        if address is not None:
            requests.head(address, timeout=PATIENCE)
    except requests.RequestException as error:
        raise InputError(
            f"cannot reach {urlsplit(address).hostname}, where {builder.name} is downloaded from "
            f"({type(error).__name__}); prepare it where the network is, and copy the folder"
        ) from None


def main() -> None:
    command = parse()
    data_dir = (command.data_dir or default_directory()).expanduser()
    found = prepare(command.name, data_dir, command.manual_dir)
    counts = ", ".join(f"{name} {len(records)}" for name, records in found.splits.items())
    say(f"{found.folder}: {found.num_classes} classes; {counts}")
    say(f"next: python train.py CONFIG --data.name {command.name} --data.directory {data_dir}")


if __name__ == "__main__":
    sys.exit(run_script("prepare", main))
