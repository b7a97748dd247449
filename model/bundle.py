"""The bundle: one immutable file that holds a trained model and all that is needed to trust it.

A safetensors file whose metadata carry the settings, the training report, the fingerprints of the
training images, versions, and a hash over all of it; its tensors are the weights and a few golden
patches with the scores they had when the bundle was made. Never a pickle. No torch here.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
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

    @property
    def hash(self) -> str:
        """SHA-256 over the metadata and every tensor."""
        digest = hashlib.sha256(json.dumps(self._metadata(), sort_keys=True).encode())
        for name, tensor in sorted(self._tensors().items()):
            digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
            digest.update(tensor.tobytes())
        return digest.hexdigest()

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


def load(path: Path) -> Bundle:
    """Raises BundleError, naming the file, unless every byte is as it was saved."""
    metadata, tensors = _read(path)
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
    except (KeyError, ValueError, ValidationError) as error:
        raise BundleError(f"is damaged ({error})", file=path, expected="a whole bundle") from error
    if bundle.hash != metadata.get("hash"):
        raise BundleError(
            "has been changed since it was made: its content does not match its hash",
            file=path,
            key="hash",
            value=str(metadata.get("hash"))[:12],
            expected=bundle.hash[:12],
        )
    return bundle


def _read(path: Path) -> tuple[dict[str, str], dict[str, Array]]:
    if not path.is_file():
        raise BundleError("does not exist", file=path, expected="a bundle made by clearline train")
    try:
        with safe_open(path, framework="numpy") as file:
            names = file.keys()
            return dict(file.metadata() or {}), {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise BundleError(
            f"is truncated or no bundle at all ({error})", file=path, expected="a whole bundle"
        ) from error
