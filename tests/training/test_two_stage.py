"""Algorithm 1: what each stage learns, what it leaves alone, when it ends, how it goes on."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import clearline
from adapters.image_files import write_image
from adapters.sources.product import SimulatedProduct
from model.bundle import Bundle
from model.cma_ae import CmaAe
from model.settings import ModelSettings
from training.anomalies import Gaaga, Natural
from training.errors import TrainingError
from training.images import Normal, Shares
from training.settings import TrainingSettings
from training.train import train
from training.two_stage import TwoStage


@pytest.fixture
def make_loop(tmp_path: Path, small_model: ModelSettings, silent: Any) -> Callable[..., TwoStage]:
    product = SimulatedProduct("grain", 96, 96)
    images = [Normal.of(Path(f"{k}.png"), product.part(k).pixels) for k in range(6)]

    def make(settings: TrainingSettings, photographs: Path | None = None) -> TwoStage:
        torch.manual_seed(settings.seed)
        gaaga = Gaaga(settings.anomalies, Natural(photographs, 1), 255)
        shares = Shares(images[:4], images[4:], [])
        return TwoStage(
            CmaAe(small_model), settings, shares, gaaga, tmp_path / "ck", silent,
            torch.device("cpu"),
        )  # fmt: skip

    return make


def state(loop: TwoStage, part: str) -> dict[str, torch.Tensor]:
    module = loop.model.get_submodule(part)
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(before[name], after[name]) for name in before)


def one_step(loop: TwoStage) -> None:
    loss = loop._loss1() if loop.standing.stage == 1 else loop._loss2()
    loop.adam.zero_grad()
    loss.backward()
    loop.adam.step()


def test_stage_1_renews_encoder_memory_gates_and_decoder(
    make_loop: Callable[..., TwoStage], quick: TrainingSettings
) -> None:
    loop = make_loop(quick)
    parts = ("encoder", "cmam.memory", "cmam.gates", "decoder")
    before = {part: state(loop, part) for part in parts}
    one_step(loop)
    assert all(changed(before[part], state(loop, part)) for part in parts)


def test_stage_2_fixes_the_memory_and_renews_the_rest(
    make_loop: Callable[..., TwoStage], quick: TrainingSettings
) -> None:
    loop = make_loop(quick)
    seen: dict[str, dict[str, torch.Tensor]] = {}
    original = loop._loss2

    def first_loss2() -> torch.Tensor:
        seen.setdefault("memory", state(loop, "cmam.memory"))
        seen.setdefault("gates", state(loop, "cmam.gates"))
        return original()

    loop._loss2 = first_loss2  # type: ignore[method-assign]
    loop.run()
    assert not changed(seen["memory"], state(loop, "cmam.memory"))
    assert changed(seen["gates"], state(loop, "cmam.gates"))


def test_stage_2_aims_at_the_clean_image_or_as_printed_at_the_corrupted_one(
    make_loop: Callable[..., TwoStage], quick: TrainingSettings
) -> None:
    targets = {}
    for target in ("clean", "corrupted"):
        loop = make_loop(quick.model_copy(update={"stage2_target": target}))
        loop.standing.stage = 2
        pairs = make_loop(quick)._sampler.pairs(quick.batch, quick.clean_share)
        compared: list[torch.Tensor] = []
        loop._loss = lambda given, aim, to=compared: (to.append(aim), aim.sum())[1]  # type: ignore[method-assign,misc]
        loop._loss2()
        targets[target] = compared[0]
        expected = pairs.clean if target == "clean" else pairs.corrupted
        torch.testing.assert_close(compared[0], loop.model.normalise(expected))
    assert not torch.equal(targets["clean"], targets["corrupted"])


@pytest.mark.parametrize("sparsity", ["mean", "sum"])
def test_loss_is_the_papers(
    make_loop: Callable[..., TwoStage], quick: TrainingSettings, sparsity: str
) -> None:
    """Eqs. 5, 10 and 11 in plain float64 loops, for both readings of eq. 5."""
    loop = make_loop(quick.model_copy(update={"sparsity": sparsity}))
    loop.model.eval()
    patches = loop.model.normalise(loop._sampler.clean(5))
    repaired, weights = loop.model(patches)
    l1 = np.abs(patches.numpy().astype(float) - repaired.detach().numpy().astype(float)).mean()
    entropy = 0.0
    for row in weights.detach().numpy().astype(float):
        entropy += sum(-w * math.log(w) for w in row if w > 0)
    if sparsity == "mean":
        entropy /= len(weights)
    expected = 50 * l1 + 0.01 * entropy
    assert float(loop._loss(patches, patches).detach()) == pytest.approx(expected, rel=1e-4)


def test_stages_end_early_when_held_out_images_say_so(
    make_loop: Callable[..., TwoStage], quick: TrainingSettings
) -> None:
    settings = quick.model_copy(update={"stage1_steps": 50, "stage2_steps": 50, "patience": 3})
    loop = make_loop(settings)
    loop._reconstruction = lambda: -1.0  # type: ignore[method-assign]
    loop._artificial_f1 = lambda: 0.5  # type: ignore[method-assign]
    loop.run()
    # The first check is the best; three more bring nothing: 4 checks of 2 steps.
    assert [stage["steps"] for stage in loop.standing.stages] == [8, 8]
    assert loop.standing.stages[0]["ended"] == "no longer improved"


def test_fixed_runs_every_step_as_printed(
    make_loop: Callable[..., TwoStage], quick: TrainingSettings
) -> None:
    settings = quick.model_copy(update={"stop": "fixed", "patience": 1})
    loop = make_loop(settings)
    loop._reconstruction = lambda: -1.0  # type: ignore[method-assign]
    scores = iter([0.9, 0.1, 0.1])
    loop._artificial_f1 = lambda: next(scores)  # type: ignore[method-assign]
    model = loop.run()
    assert [stage["steps"] for stage in loop.standing.stages] == [6, 6]
    best = {n.removeprefix("decoder."): t for n, t in loop._best.items() if "decoder" in n}
    assert changed(best, dict(model.decoder.state_dict())), "the last weights, not the best"


def test_a_stage_ends_with_its_best_weights(
    make_loop: Callable[..., TwoStage], quick: TrainingSettings
) -> None:
    loop = make_loop(quick)
    scores = iter([0.1, 0.9, 0.2])
    kept: dict[str, torch.Tensor] = {}

    def f1() -> float:
        score = next(scores)
        if score == 0.9:
            kept.update(state(loop, "decoder"))
        return score

    loop._artificial_f1 = f1  # type: ignore[method-assign]
    model = loop.run()
    assert not changed(kept, dict(model.decoder.state_dict().items()))


def test_frozen_batchnorm_keeps_its_statistics_in_stage_2(
    make_loop: Callable[..., TwoStage], quick: TrainingSettings
) -> None:
    for kind, moves in (("frozen", False), ("running", True)):
        loop = make_loop(quick.model_copy(update={"stage2_batchnorm": kind}))
        loop.standing.stage = 2
        before = state(loop, "encoder.e2.1")["running_mean"]
        loop._train_mode()
        loop._loss2()
        after = state(loop, "encoder.e2.1")["running_mean"]
        assert bool((before != after).any()) is moves


def test_dead_memory_items_become_codes_of_patches(
    make_loop: Callable[..., TwoStage], quick: TrainingSettings
) -> None:
    loop = make_loop(quick)
    before = loop.model.cmam.memory.items.detach().clone()
    loop._used[:] = 1
    loop._used[3] = 0
    loop._revive()
    after = loop.model.cmam.memory.items.detach()
    assert torch.equal(before[[0, 1, 2, 4]], after[[0, 1, 2, 4]])
    assert not torch.equal(before[3], after[3])


def test_the_report_says_how_many_memory_items_are_in_use(
    make_loop: Callable[..., TwoStage], quick: TrainingSettings
) -> None:
    loop = make_loop(quick.model_copy(update={"stage1_steps": 2}))
    addressed: set[int] = set()
    original = loop.model.cmam.memory.forward

    def remember(z: torch.Tensor) -> Any:
        recall = original(z)
        if loop.model.training:
            addressed.update(torch.nonzero((recall.weights > 0).any(dim=0)).flatten().tolist())
        return recall

    loop.model.cmam.memory.forward = remember  # type: ignore[method-assign]
    loop._stage(2, loop._loss1, loop._reconstruction)
    assert loop.standing.slots_used == len(addressed) > 0


def test_a_loss_out_of_bounds_ends_the_training_with_its_reason(
    make_loop: Callable[..., TwoStage], quick: TrainingSettings
) -> None:
    loop = make_loop(quick)
    loop._loss1 = lambda: torch.tensor(math.nan, requires_grad=True)  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match="loss at step 1 = nan"):
        loop.run()


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", [(1, 5), (2, 3)])
def test_a_killed_training_goes_on_and_gives_the_same_model(
    make_data: Callable[..., Path],
    small_model: ModelSettings,
    quick: TrainingSettings,
    silent: Any,
    tmp_path: Path,
    at: tuple[int, int],
) -> None:
    data = make_data(SimulatedProduct("grain", 96, 96), 8)

    def run(checkpoint: str, monitor: Any) -> Bundle:
        return train(
            data, tmp_path / checkpoint, small_model, quick, None, monitor, lambda *_: None, "cpu"
        )

    whole = run("whole", silent)

    class Killer(type(silent)):  # type: ignore[misc]
        def step(self, stage: int, step: int, steps: int, loss: float) -> None:
            if (stage, step) == at:
                raise Killed

    with pytest.raises(Killed):
        run("killed", Killer())
    second = type(silent)()
    resumed = run("killed", second)
    assert second.resumes == [(at[0], at[1] - 1)]
    assert second.steps[0] == at
    for name, tensor in whole.weights.items():
        np.testing.assert_array_equal(tensor, resumed.weights[name], err_msg=name)
    assert resumed.report["history"] == whole.report["history"]


def test_the_checkpoint_of_another_training_is_refused_by_name(
    make_loop: Callable[..., TwoStage], quick: TrainingSettings, tmp_path: Path
) -> None:
    loop = make_loop(quick)
    loop.save()
    with pytest.raises(clearline.Error, match=r"ck: is the checkpoint of another training"):
        make_loop(quick.model_copy(update={"seed": 1})).run()
    write_image(tmp_path / "photographs/a.png", SimulatedProduct("wood", 90, 90).part(0).pixels)
    with pytest.raises(clearline.Error, match=r"ck: is the checkpoint of another training"):
        make_loop(quick, tmp_path / "photographs").run()
    (tmp_path / "ck").write_bytes((tmp_path / "ck").read_bytes()[:1000])
    with pytest.raises(clearline.Error, match=r"ck: is a damaged checkpoint"):
        make_loop(quick).run()


def test_the_same_seed_gives_the_same_model_and_another_one_another(
    make_data: Callable[..., Path],
    small_model: ModelSettings,
    quick: TrainingSettings,
    silent: Any,
    tmp_path: Path,
) -> None:
    data = make_data(SimulatedProduct("grain", 96, 96), 8)

    def run(seed: int, name: str) -> str:
        settings = quick.model_copy(update={"seed": seed, "stage1_steps": 2, "stage2_steps": 2})
        bundle = train(
            data, tmp_path / name, small_model, settings, None, silent, lambda *_: None, "cpu"
        )
        return str(sum(float(np.abs(w).sum()) for w in bundle.weights.values()))

    assert run(0, "a") == run(0, "b") != run(1, "c")
