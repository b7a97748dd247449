"""The bundle: one immutable file that holds a trained model and all that is needed to trust it.

A safetensors file whose metadata carry the settings, the training report, the fingerprints of the
training images, versions, and a hash over all of it; its tensors are the weights and a few golden
patches with the scores they had when the bundle was made. Never a pickle. No torch here.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from model import atomic
from model.errors import BundleError
from model.settings import ModelSettings

FORMAT = "clearline-bundle"
VERSION = 1
SUFFIX = ".safetensors"
_WEIGHT, _GOLDEN_PIXELS, _GOLDEN_SCORES = "weight.", "golden.pixels", "golden.scores"

Array = NDArray[Any]


@dataclass(frozen=True)
class Bundle:
    settings: ModelSettings
    weights: Mapping[str, Array]
    golden_pixels: Array
    """(K, 64, 64, C), as a camera gives them."""
    golden_scores: NDArray[np.float32]
    """(K,), the largest value of each one's defect map in float32."""
    report: Mapping[str, Any]
    """How the training went; for people."""
    fingerprints: frozenset[str]
    """Of every image that took part in the training: what must not calibrate it."""
    versions: Mapping[str, str]
    hash: str = field(init=False)
    """SHA-256 over the metadata and every tensor. A loaded bundle keeps that of its file, so that
    a later version of us, whose settings have more keys, still knows it by its name."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "hash", _digest(self._metadata(), self._tensors()))

    def save(self, path: Path) -> None:
        """Raises SaveError, and then leaves what stood there before."""
        atomic.write(path, save(dict(self._tensors()), self._metadata() | {"hash": self.hash}))

    def _metadata(self) -> dict[str, str]:
        return {
            "format": FORMAT,
            "version": str(VERSION),
            "settings": self.settings.model_dump_json(),
            "report": json.dumps(self.report),
            "fingerprints": json.dumps(sorted(self.fingerprints)),
            "versions": json.dumps(self.versions, sort_keys=True),
        }

    def _tensors(self) -> Mapping[str, Array]:
        weights = {f"{_WEIGHT}{name}": tensor for name, tensor in self.weights.items()}
        golden = {_GOLDEN_PIXELS: self.golden_pixels, _GOLDEN_SCORES: self.golden_scores}
        # safetensors writes memory as it lies, and torch's channels-last weights lie otherwise.
        return {name: np.asarray(t, order="C") for name, t in (weights | golden).items()}


def _digest(metadata: Mapping[str, str], tensors: Mapping[str, Array]) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()


def load(path: Path) -> Bundle:
    """Raises BundleError, naming the file, unless every byte is as it was saved."""
    metadata, tensors = _read(path)
    try:
        bundle = Bundle(
            settings=ModelSettings.model_validate_json(metadata["settings"]),
            weights={
                name.removeprefix(_WEIGHT): tensor
                for name, tensor in tensors.items()
                if name.startswith(_WEIGHT)
            },
            golden_pixels=tensors[_GOLDEN_PIXELS],
            golden_scores=tensors[_GOLDEN_SCORES],
            report=json.loads(metadata["report"]),
            fingerprints=frozenset(json.loads(metadata["fingerprints"])),
            versions=json.loads(metadata["versions"]),
        )
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:160]
        raise BundleError(f"is damaged ({reason})", file=path, expected="a whole bundle") from error
    told = metadata.pop("hash", None)
    found = _digest(metadata, tensors)
    if told != found:
        raise BundleError(
            "has been changed since it was made: its content does not match its hash",
            file=path,
            key="hash",
            value=str(told)[:12],
            expected=found[:12],
        )
    object.__setattr__(bundle, "hash", found)
    return bundle


def _require_ours(path: Path, metadata: Mapping[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise BundleError("is not a Clearline bundle", file=path, expected=f"format {FORMAT}")
    if metadata.get("version") != str(VERSION):
        raise BundleError(
            "is of another format version",
            file=path,
            key="version",
            value=metadata.get("version"),
            expected=str(VERSION),
        )


def _read(path: Path) -> tuple[dict[str, str], dict[str, Array]]:
    if not path.is_file():
        raise BundleError("does not exist", file=path, expected="a bundle made by clearline train")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            _require_ours(path, metadata)
            names = file.keys()
            return metadata, {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, TypeError, AttributeError) as error:
        raise BundleError(
            f"is truncated or no bundle at all ({error})", file=path, expected="a whole bundle"
        ) from error
