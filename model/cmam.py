"""The clear memory-augmented module (section 3.4): a memory of the normal, gates that repair."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.settings import MemorySettings

EPSILON = 1e-12  # of eq. 3, in float32


class Recall(NamedTuple):
    z_hat: Tensor  # (B, C): what the memory says in z's place, eq. 4
    weights: Tensor  # (B, N): the shrunk addressing weights, rows sum to one, eq. 3


class Memory(nn.Module):
    """MAM: the bank M of N items, addressed by content (section 3.4.1)."""

    def __init__(self, settings: MemorySettings, latent: int) -> None:
        super().__init__()
        self.temperature = settings.temperature
        self.items = nn.Parameter(torch.empty(settings.items, latent))
        nn.init.normal_(self.items, 0.0, 0.02)

    def forward(self, z: Tensor) -> Recall:
        """(B, C) -> z_hat (B, C) and weights (B, N)."""
        # float32 whatever z and autocast are: eq. 3 divides by differences of the order of 1/N.
        with torch.autocast(z.device.type, enabled=False):
            items = self.items.float()
            similarity = F.normalize(z.float(), dim=1) @ F.normalize(items, dim=1).T
            weights = shrink(torch.softmax(self.temperature * similarity, dim=1))
            return Recall((weights @ items).to(z.dtype), weights)


def shrink(w: Tensor) -> Tensor:
    """Eq. 3: items under 1/N are dropped, rows are renormalised to sum to one. (B, N) -> (B, N)

    A row that loses all its items (they are all equal) keeps its largest one.
    """
    cut = 1.0 / w.shape[1]
    kept = F.relu(w - cut) * w / ((w - cut).abs() + EPSILON)
    total = kept.sum(dim=1, keepdim=True)
    largest = F.one_hot(w.argmax(dim=1), w.shape[1]).to(w.dtype)
    return torch.where(total > EPSILON, kept / total.clamp_min(EPSILON), largest)


class Gates(nn.Module):
    """FRM: what of z is forgotten, and what is put in its place (eqs. 6-10)."""

    def __init__(self, settings: MemorySettings, latent: int) -> None:
        super().__init__()
        self.kind = settings.gates
        self.forget = nn.Linear(2 * latent, latent)
        self.input = nn.Linear(2 * latent, latent)
        self.candidate = nn.Linear(2 * latent, latent)

    def forward(self, z: Tensor, z_hat: Tensor) -> Tensor:
        """(B, C), (B, C) -> the repaired code (B, C)."""
        both = torch.cat((z, z_hat), dim=1)
        f = self._sigma(self.forget(both))  # eq. 6
        i = self._sigma(self.input(both))  # eq. 7
        c = torch.tanh(self.candidate(both))  # eq. 8
        return f * z + i * c  # eqs. 9, 10

    def _sigma(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x) if self.kind == "sigmoid" else torch.softmax(x, dim=1)


class Cmam(nn.Module):
    def __init__(self, settings: MemorySettings, latent: int) -> None:
        super().__init__()
        self.memory = Memory(settings, latent)
        self.gates = Gates(settings, latent)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C) -> the repaired code (B, C) and the addressing weights (B, N)."""
        recall = self.memory(z)
        return self.gates(z, recall.z_hat), recall.weights
