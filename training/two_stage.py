"""The two-stage training (section 3.4.3, Algorithm 1).

Stage 1 learns encoder, memory, gates and decoder from normal patches. Stage 2 fixes the memory and
learns, from patches with artificial anomalies, to forget what is not normal and to put the normal
in its place.
"""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from adapters.ports import Pixels
from model.cma_ae import CmaAe
from model.cmam import EPSILON
from model.settings import PATCH, ModelSettings
from training import checkpoint
from training.anomalies import Gaaga, Natural
from training.checkpoint import Standing
from training.errors import TrainingError
from training.images import Shares
from training.metrics import best_f1
from training.sampler import Sampler, as_tensor
from training.settings import TrainingSettings

HELD_OUT_PATCHES = 256
HELD_OUT_WINDOWS = 12
STAGE1_SHARE = 2 / 3  # of a ceiling in minutes


class Monitor(Protocol):
    """Who watches a training."""

    def step(self, stage: int, step: int, steps: int, loss: float) -> None: ...

    def checked(self, stage: int, step: int, score: float, slots_used: int) -> None: ...

    def resumed(self, stage: int, step: int) -> None: ...


class TwoStage:
    """One training. `run` is Algorithm 1; what it needs to go on after a kill is in `standing`."""

    def __init__(
        self,
        model: CmaAe,
        settings: TrainingSettings,
        shares: Shares,
        gaaga: Gaaga,
        checkpoint_path: Path,
        monitor: Monitor,
        device: torch.device,
    ) -> None:
        self.model = model.to(device).to(memory_format=torch.channels_last)
        self.settings, self.device, self._monitor = settings, device, monitor
        self.adam = torch.optim.Adam(model.parameters(), settings.learning_rate, settings.betas)
        self.standing = Standing()
        self._sampler = Sampler(shares.learn, gaaga, np.random.default_rng([settings.seed, 1]))
        self._path = checkpoint_path
        self._identity = _identity(model.settings, settings, shares, gaaga.natural)
        self._used = torch.zeros(model.settings.memory.items, dtype=torch.long, device=device)
        self._best: dict[str, Tensor] = {}
        judge = Sampler(shares.hold_out, gaaga, np.random.default_rng([settings.seed, 2]))
        self._held_out = judge.clean(HELD_OUT_PATCHES)
        self._anomalies = [judge.window()[1] for _ in range(HELD_OUT_WINDOWS)]

    def run(self) -> CmaAe:
        """Both stages. Returns the model as it was at its best, in evaluation mode."""
        if self._path.exists():
            self._resume()
        if self.standing.stage == 1:
            self._stage(self.settings.stage1_steps, self._loss1, self._reconstruction)
            self._end_stage(self.settings.stage1_steps)
        self.model.cmam.memory.requires_grad_(False)
        self._stage(self.settings.stage2_steps, self._loss2, self._artificial_f1)
        self._end_stage(self.settings.stage2_steps)
        return self.model.eval()

    def _stage(self, steps: int, loss_of: Callable[[], Tensor], check: Callable[[], float]) -> None:
        """Steps until the ceiling, or until `check` (larger is better) has long not improved."""
        standing, settings = self.standing, self.settings
        began = time.monotonic() - standing.seconds
        while standing.step < steps and not self._stale():
            self._train_mode()
            loss = loss_of()
            self.adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.adam.step()
            standing.step += 1
            value = float(loss.detach())
            if not np.isfinite(value):
                raise TrainingError(
                    "went out of bounds", key=f"loss at step {standing.step}", value=value,
                    expected="a finite number; try a smaller learning rate",
                )  # fmt: skip
            self._monitor.step(standing.stage, standing.step, steps, value)
            standing.seconds = time.monotonic() - began
            out_of_time = self._out_of_time()
            if standing.step % settings.check_every == 0 or standing.step == steps or out_of_time:
                score = check()
                if standing.stage == 1:
                    standing.slots_used = int((self._used > 0).sum())
                self._checked(score)
                if standing.stage == 1:
                    self._revive()
                self.save()
            if out_of_time:
                break

    def _loss1(self) -> Tensor:
        """Eq. 11 on normal patches."""
        normal = self._to_model(self._sampler.clean(self.settings.batch))
        return self._loss(normal, normal)

    def _loss2(self) -> Tensor:
        """Eq. 13 on patches with artificial anomalies."""
        pairs = self._sampler.pairs(self.settings.batch, self.settings.clean_share)
        target = pairs.clean if self.settings.stage2_target == "clean" else pairs.corrupted
        return self._loss(self._to_model(pairs.corrupted), self._to_model(target))

    def _loss(self, patches: Tensor, target: Tensor) -> Tensor:
        repaired, weights = self.model(patches)
        if self.standing.stage == 1:
            self._used += (weights > 0).sum(dim=0)
        loss: Tensor = self.settings.w1 * (target - repaired).abs().mean()
        return loss + self.settings.w2 * self._sparsity(weights)

    def _sparsity(self, weights: Tensor) -> Tensor:
        """Eq. 5, the entropy of the addressing weights (B, N)."""
        # Not torch.special.entr: its gradient at a weight of zero is infinite.
        entropy = -(weights * (weights + EPSILON).log()).sum(dim=1)
        return entropy.mean() if self.settings.sparsity == "mean" else entropy.sum()

    def _reconstruction(self) -> float:
        """Stage 1's check: minus the L1 distance on held-out normal patches."""
        self.model.eval()
        patches = self._to_model(self._held_out)
        with torch.inference_mode():
            distance = float((self.model(patches).patches - patches).abs().mean())
        return -distance

    def _artificial_f1(self) -> float:
        """Stage 2's check: best pixel F1 of the defect map on held-out artificial anomalies."""
        self.model.eval()
        with torch.inference_mode():
            maps = [self._map(anomaly.pixels) for anomaly in self._anomalies]
        truth = np.concatenate([anomaly.mask.ravel() for anomaly in self._anomalies])
        return best_f1(truth, np.concatenate([m.ravel() for m in maps])).f1

    def _map(self, pixels: Pixels) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        found: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = (
            self.model.map(as_tensor([pixels]).to(self.device))[0].float().cpu().numpy()
        )
        return found

    def _revive(self) -> None:
        """Memory items that no patch addressed since the last check become codes of patches."""
        dead = torch.nonzero(self._used == 0).flatten()
        self._used.zero_()
        if not len(dead):
            return
        self.model.eval()
        with torch.no_grad():
            codes = self.model.encoder(self._to_model(self._sampler.clean(len(dead))))
            self.model.cmam.memory.items[dead] = codes

    def _checked(self, score: float) -> None:
        standing = self.standing
        if standing.best is None or score > standing.best:
            standing.best, standing.best_step = score, standing.step
            self._best = {n: t.detach().clone() for n, t in self.model.state_dict().items()}
        entry = {"stage": standing.stage, "step": standing.step, "score": score}
        standing.history.append(entry)
        self._monitor.checked(standing.stage, standing.step, score, standing.slots_used)

    def _stale(self) -> bool:
        checks = (self.standing.step - self.standing.best_step) // self.settings.check_every
        early = self.settings.stop == "early" and self.standing.best is not None
        return early and checks >= self.settings.patience

    def _out_of_time(self) -> bool:
        if self.settings.minutes is None:
            return False
        share = STAGE1_SHARE if self.standing.stage == 1 else 1.0
        return self.standing.seconds >= share * self.settings.minutes * 60

    def _end_stage(self, steps: int) -> None:
        """Back to the best weights (as printed, to none); the next stage counts anew."""
        standing = self.standing
        reason = "no longer improved" if self._stale() else "out of minutes"
        if self.settings.stop == "early":
            self.model.load_state_dict(self._best)
        standing.stages.append(
            {
                "stage": standing.stage,
                "steps": standing.step,
                "best_step": standing.best_step,
                "best": standing.best,
                "ended": "all steps done" if standing.step >= steps else reason,
                "seconds": round(standing.seconds, 1),
                "slots_used": standing.slots_used,
            }
        )
        standing.stage, standing.step, standing.best, standing.best_step = 2, 0, None, 0

    def _train_mode(self) -> None:
        self.model.train()
        if self.standing.stage == 2 and self.settings.stage2_batchnorm == "frozen":
            for module in self.model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()

    def _to_model(self, pixels: Tensor) -> Tensor:
        return self.model.normalise(pixels.to(self.device))

    def save(self) -> None:
        rng = self._sampler.rng.bit_generator.state
        standing = self.standing
        checkpoint.write(
            self._path, self._identity, standing, rng, self.model, self._best, self.adam
        )

    def _resume(self) -> None:
        self.standing, state, self._best = checkpoint.read(
            self._path, self._identity, self.model, self.adam
        )
        self._sampler.rng.bit_generator.state = state
        self._monitor.resumed(self.standing.stage, self.standing.step)


def _identity(
    model: ModelSettings, training: TrainingSettings, shares: Shares, natural: Natural
) -> str:
    """The same for two runs that must give the same model."""
    images = [image.fingerprint for image in (*shares.learn, *shares.hold_out)]
    said = f"{PATCH} {model.model_dump_json()} {training.model_dump_json()} {images}"
    said += natural.fingerprint
    return hashlib.sha256(said.encode()).hexdigest()
