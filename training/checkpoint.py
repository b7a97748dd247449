"""Where a training stands, on disk, so that it goes on after a kill. Safetensors, no pickle."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from model import atomic
from training.errors import TrainingError


@dataclass
class Standing:
    """Where the loop stands, besides the tensors."""

    stage: int = 1
    step: int = 0
    """Steps done in this stage."""
    best: float | None = None
    """The best check of this stage; larger is better."""
    best_step: int = 0
    seconds: float = 0.0
    """Spent in both stages, over all runs."""
    slots_used: int = 0
    """Memory items that patches addressed between the last two checks of stage 1."""
    history: list[dict[str, float]] = field(default_factory=list)
    stages: list[dict[str, Any]] = field(default_factory=list)
    """What each finished stage reports."""


def write(
    path: Path,
    identity: str,
    standing: Standing,
    rng: Mapping[str, Any],
    model: nn.Module,
    best: Mapping[str, Tensor],
    adam: torch.optim.Adam,
) -> None:
    """Raises SaveError, and then the checkpoint before it still stands."""
    moments = {
        f"adam.{index}.{name}": value
        for index, state in adam.state_dict()["state"].items()
        for name, value in state.items()
    }
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    kept = {f"best.{name}": value for name, value in best.items()}
    tensors = {n: t.detach().contiguous().clone() for n, t in (moments | weights | kept).items()}
    metadata = {
        "identity": identity,
        "standing": json.dumps(standing.__dict__),
        "rng": json.dumps(rng),
    }
    atomic.write(path, save(tensors, metadata))


def read(
    path: Path, identity: str, model: nn.Module, adam: torch.optim.Adam
) -> tuple[Standing, Mapping[str, Any], dict[str, Tensor]]:
    """Restores model and optimiser in place; returns the standing, the generator's state, the best.

    Raises TrainingError where the checkpoint is damaged or belongs to another training.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise TrainingError(
            f"is a damaged checkpoint ({error})", file=path, expected="to be deleted, to start anew"
        ) from error
    if metadata.get("identity") != identity:
        raise TrainingError(
            "is the checkpoint of another training (other images or settings)",
            file=path,
            expected="the same call as before, or to be deleted",
        )
    model.load_state_dict(_under("model.", tensors))
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in _under("adam.", tensors).items():
        index, key = name.split(".")
        state.setdefault(int(index), {})[key] = value
    adam.load_state_dict(adam.state_dict() | {"state": state})
    standing = Standing(**json.loads(metadata["standing"]))
    return standing, json.loads(metadata["rng"]), _under("best.", tensors)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
