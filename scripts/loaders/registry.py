"""Where data files come from: ``data/``, else the folder ``INFLUENCE_DATA``, else a download.

Every file is verified, wherever it came from: data by the SHA-256 of their *uncompressed* content.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests

from scripts.loaders.archive import DataError
from scripts.loaders.remote import RawFile, RemoteArchive, RemoteFile, RemoteFolder

DATA_FOLDER = Path(__file__).resolve().parents[2] / "data"
INCEPTION_FOLDER = Path(__file__).resolve().parents[2] / "inception"
# Seconds in which some official address must have answered, all of them together.
ANSWER_SECONDS = 8.0


def _mnist(name: str, sha256: str, max_bytes: int) -> RemoteFile:
    url = f"https://storage.googleapis.com/cvdf-datasets/mnist/{name}"
    return RemoteFile(f"mnist/{name}", (url,), sha256, max_bytes)


MNIST = {
    "train_images": _mnist(
        "train-images-idx3-ubyte.gz",
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        47_040_016,
    ),
    "train_labels": _mnist(
        "train-labels-idx1-ubyte.gz",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        60_008,
    ),
    "test_images": _mnist(
        "t10k-images-idx3-ubyte.gz",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        7_840_016,
    ),
    "test_labels": _mnist(
        "t10k-labels-idx1-ubyte.gz",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        10_008,
    ),
}

HOSPITAL = RemoteFile(
    "dataset_diabetes.zip",
    (
        "https://archive.ics.uci.edu/static/public/296/"
        "diabetes+130-us+hospitals+for+years+1999-2008.zip",
    ),
    "0689e7ec031237dc63031b938805c48377748761a3b26acab621567afa24df97",
    25_000_000,
    member="diabetic_data.csv",
)

ENRON = RemoteFolder(
    "enron1.tar.gz",
    (
        "http://www.aueb.gr/users/ion/data/enron-spam/preprocessed/enron1.tar.gz",
        "http://nlp.cs.aueb.gr/software_and_datasets/Enron-Spam/preprocessed/enron1.tar.gz",
    ),
    "99bb8b1c02b5dddf2766370d975c010091675c018b9b8d63d202e33affe6a6cc",
    20_000_000,
    member="enron1",
)

# Imagenette's English springer and tench at 224 pixels, which lie only where someone put them.
IMAGENETTE_224 = RemoteFolder(
    "imagenette2-224-dogfish.tar",
    (),
    "63b4428801682aabea22a04bca117a300f357a3961631a59d410093ac73153bc",
    40_000_000,
    member="imagenette2-224",
)
# The official archive; its hash is the one in FastAI.jl's list of data sets.
IMAGENETTE_320 = RemoteArchive(
    "imagenette2-320.tgz",
    ("https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-320.tgz",),
    "569b4497c98db6dd29f335d1f109cf315fe127053cedf69010d047f0188e158c",
    500_000_000,
    folders=("n01440764", "n02102040"),
)

# Inception v3 without its top. Keras publishes an MD5 of the official weights, and no SHA-256.
INCEPTION = RawFile(
    "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5",
    (
        "https://storage.googleapis.com/tensorflow/keras-applications/inception_v3/"
        "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5",
    ),
    "bcbd6486424b2319ff4ef7d526e38f63",
    100_000_000,
    algorithm="md5",
)
INCEPTION_STAND_IN = RawFile(
    "inception_v3_standin_notop.weights.h5",
    (),
    "b66d85673cbae90079ca50902e8e1110d8b32227f5c7871b8b11341af69c8af6",
    100_000_000,
)


@dataclass(frozen=True)
class Provenance:
    """What an experiment ran on: "paper", "substitute" or "stand-in", and its content hashes."""

    data: str
    sha256: dict[str, str]


def load(
    choice: str,
    files: dict[str, RemoteFile],
    stand_in: Callable[[], dict],
    real: str = "paper",
) -> tuple[dict, Provenance]:
    """The contents of ``files`` by key, and where they come from.

    Args:
        choice: "real" (an error if a file cannot be had), "stand-in", or "auto": the real files
            if all can be had, else the stand-in, said loudly.
        files: what is wanted.
        stand_in: makes the stand-in's contents, in the same formats.
        real: what the real files are, "paper" or "substitute".

    Raises:
        DataError: names the file, what is wrong, and what to do.
    """
    if choice not in ("auto", "real", "stand-in"):
        raise ValueError(f'data must be "auto", "real" or "stand-in", not {choice!r}.')
    if choice != "stand-in":
        try:
            contents = {key: fetch(file) for key, file in files.items()}
        except MissingError as error:
            if choice == "real":
                raise
            print(f"\n*** STAND-IN DATA: {error}\n*** The numbers below are not the paper's.\n")
        else:
            hashes = {file.name: file.sha256 for file in files.values()}
            return contents, Provenance(real, hashes)
    else:
        print("\n*** STAND-IN DATA, as asked for: the numbers below are not the paper's.\n")
    contents = stand_in()
    hashes = {f"stand-in/{key}": files[key].digest(content) for key, content in contents.items()}
    return contents, Provenance("stand-in", hashes)


class MissingError(DataError):
    """A file is nowhere and cannot be downloaded (as against one that is there and is wrong)."""


def fetch(file: RemoteFile, data_folder: Path | None = None):
    """The verified content of ``file`` from ``data/``, ``INFLUENCE_DATA`` or its addresses."""
    path = find(file, data_folder)
    if path is not None:
        return file.verified(path)
    return _download(file, DATA_FOLDER if data_folder is None else data_folder)


def find(file: RemoteFile, data_folder: Path | None = None) -> Path | None:
    """Where ``file`` lies, not yet verified; None if it is nowhere."""
    places = [place for folder in folders(data_folder) for place in file.places(folder)]
    return next((place for place in places if place.exists()), None)


def folders(data_folder: Path | None = None) -> list[Path]:
    """Where files are looked for: ``data/`` (or another folder), then ``INFLUENCE_DATA``."""
    found = [DATA_FOLDER if data_folder is None else data_folder]
    if os.environ.get("INFLUENCE_DATA"):
        found.append(Path(os.environ["INFLUENCE_DATA"]).expanduser())
    return found


def _download(file: RemoteFile, folder: Path):
    """Download into ``folder``; the file appears there whole and verified, or not at all."""
    # What a killed download left here is removed by the next one.
    partial = folder / ".partial"
    advice = f"Put the file at {folder / file.name}, or set INFLUENCE_DATA to a folder that has it."
    problems = []
    try:
        for url, problem in _answers(file.urls):
            if problem is None:
                try:
                    return _retrieve(file, url, folder, partial)
                except (requests.RequestException, OSError, ValueError) as error:
                    problem = str(error)
                except DataError as error:
                    # The file is gone by the time that this is read.
                    problem = str(error).replace(f"{partial}{os.sep}", "").split(": delete it")[0]
            problems.append(f"{url}: {problem}")
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    raise MissingError(
        f"{file.name} is not there and could not be downloaded ({'; '.join(problems)}). {advice}"
    )


def _retrieve(file: RemoteFile, url: str, folder: Path, partial: Path):
    shutil.rmtree(partial, ignore_errors=True)
    print(f"Downloading {file.name} from {url}")
    path = pooch.retrieve(
        url,
        known_hash=None,  # archives differ between mirrors; the content is verified below
        fname=Path(file.name).name,
        path=partial,
        downloader=pooch.HTTPDownloader(progressbar=True, timeout=(ANSWER_SECONDS, 30)),
    )
    content = file.verified(Path(path))
    target = folder / file.name
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(path, target)
    return content


def _answers(urls: tuple[str, ...]) -> list[tuple[str, str | None]]:
    """Each address with None if it answers with the file, else with what is wrong.

    All are asked at once and get ``ANSWER_SECONDS`` together, whatever hangs (name service,
    connection, or a server that says nothing).
    """
    found: dict[str, str | None] = {}
    threads = [
        threading.Thread(target=lambda url=url: found.update({url: _ask(url)}), daemon=True)
        for url in urls
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + ANSWER_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [(url, found.get(url, f"no answer in {ANSWER_SECONDS:g} s")) for url in urls]


def _ask(url: str) -> str | None:
    try:
        with requests.get(url, stream=True, timeout=ANSWER_SECONDS) as response:
            if response.ok:
                return None
            return f"the server answers {response.status_code} {response.reason}"
    except requests.RequestException as error:
        reason = error.args[0] if error.args else error
        return f"unreachable ({type(getattr(reason, 'reason', reason)).__name__})"
