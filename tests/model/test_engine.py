"""An engine gives the model's own scores, or is refused before it gives any."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from model.bundle import Bundle
from model.calibration import Dtype
from model.engine import TOLERANCE, Engine, find_device, restore
from model.errors import BundleError, EngineError, FrameShapeError
from model.judgement import Judgement, judge
from model.quality import measure
from model.settings import ModelSettings

MakeBundle = Callable[[ModelSettings], Bundle]


@pytest.fixture(scope="module")
def lively(make_bundle: MakeBundle, small: ModelSettings) -> Bundle:
    return make_bundle(small)


@pytest.fixture(scope="module")
def engine(lively: Bundle) -> Engine:
    return Engine(lively, "cpu")


def _frames(
    count: int = 3, height: int = 70, width: int = 90, channels: int = 1, white: int = 255
) -> list[np.ndarray]:
    dtype = np.uint8 if white == 255 else np.uint16
    random = np.random.default_rng(8)
    shape = (height, width, channels)
    return [random.integers(0, white, shape, dtype, endpoint=True) for _ in range(count)]


def _pixels(frames: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(frames).astype(np.float32)).permute(0, 3, 1, 2).contiguous()


def _measures(quality: object) -> dict[str, float]:
    return {name: getattr(quality, name) for name in ("brightness", "sharpness", "saturated")}


def _twelve_bit_strips(small: ModelSettings) -> ModelSettings:
    return small.model_copy(update={"white": 4095, "stride": 32})


@pytest.mark.parametrize("change", [lambda s: s, _twelve_bit_strips], ids=["8 bit", "12 bit"])
def test_scores_maps_and_quality_are_those_of_the_model(
    make_bundle: MakeBundle,
    small: ModelSettings,
    change: Callable[[ModelSettings], ModelSettings],
) -> None:
    bundle = make_bundle(change(small))
    frames = _frames(white=bundle.settings.white)
    with torch.inference_mode():
        maps = restore(bundle.settings, bundle.weights).map(_pixels(frames)).numpy()
    scored = Engine(bundle, "cpu").score(frames)
    qualities = measure(_pixels(frames), bundle.settings.white)
    assert len(scored) == len(frames)
    for one, expected, quality in zip(scored, maps, qualities, strict=True):
        assert one.defect_map.dtype == np.float32
        np.testing.assert_allclose(one.defect_map, expected, rtol=1e-4, atol=1e-5 * expected.max())
        assert one.score == one.defect_map.max()
        assert _measures(one.quality) == pytest.approx(_measures(quality), rel=1e-5)


def test_a_batch_scores_as_its_frames_do_one_by_one(engine: Engine) -> None:
    frames = _frames(5)
    together = engine.score(frames)
    for frame, scored in zip(frames, together, strict=True):
        (alone,) = engine.score([frame])
        assert scored.score == pytest.approx(alone.score, rel=1e-4)
        np.testing.assert_allclose(scored.defect_map, alone.defect_map, rtol=1e-3, atol=1e-5)
        assert scored.quality == alone.quality
    assert len({scored.score for scored in together}) == len(frames)


def test_frames_may_be_read_only_and_lie_as_they_like(engine: Engine) -> None:
    (frame,) = _frames(1)
    wide = np.repeat(frame, 2, axis=1)[:, ::2]
    wide.flags.writeable = False
    (expected,), (got,) = engine.score([frame]), engine.score([wide])
    assert got.score == expected.score


def test_restored_weights_are_the_bundles_and_not_shared_with_it(lively: Bundle) -> None:
    model = restore(lively.settings, lively.weights)
    assert not model.training
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), lively.weights[name])
        assert not np.shares_memory(tensor.numpy(), lively.weights[name])


# The golden patches


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_tiny_bundle_runs_within_tolerance(tiny_bundle: Bundle, dtype: Dtype) -> None:
    scored = Engine(tiny_bundle, "cpu", dtype).score(list(tiny_bundle.golden_pixels))
    off = np.abs([s.score for s in scored] - tiny_bundle.golden_scores).max()
    assert off <= TOLERANCE[dtype] * tiny_bundle.golden_scores.max()


@pytest.mark.parametrize("stride", [64, 8])
def test_bfloat16_scores_whole_frames_within_tolerance_of_float32(
    make_bundle: MakeBundle, small: ModelSettings, stride: int
) -> None:
    bundle = make_bundle(small.model_copy(update={"stride": stride}))
    exact = Engine(bundle, "cpu", "float32").score(_frames())
    rough = Engine(bundle, "cpu", "bfloat16").score(_frames())
    for one, other in zip(exact, rough, strict=True):
        assert other.score == pytest.approx(one.score, rel=TOLERANCE["bfloat16"])
        assert other.score != one.score, "it computed in float32"
        assert other.defect_map.dtype == np.float32


def test_quality_is_measured_alike_in_every_type(lively: Bundle) -> None:
    """A picture is as sharp as it is, whatever the network computes in."""
    steps = np.linspace(90, 160, 90, dtype=np.uint8)
    smooth = np.broadcast_to(steps[None, :, None], (70, 90, 1))
    (exact,) = Engine(lively, "cpu", "float32").score([smooth])
    (rough,) = Engine(lively, "cpu", "bfloat16").score([smooth])
    assert _measures(rough.quality) == pytest.approx(_measures(exact.quality), rel=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("direction", [1, -1])
def test_golden_scores_that_do_not_come_out_are_refused(
    lively: Bundle, dtype: Dtype, which: int, direction: int
) -> None:
    tampered = lively.golden_scores.copy()
    tampered[which] += direction * 1.5 * TOLERANCE[dtype] * tampered.max()
    with pytest.raises(EngineError) as caught:
        Engine(replace(lively, golden_scores=tampered), "cpu", dtype)
    line = str(caught.value)
    assert line.startswith(f"device = 'cpu in {dtype}' does not reproduce")
    assert f"expected at most {TOLERANCE[dtype]:.1%}" in line


def test_other_golden_pixels_are_refused(lively: Bundle) -> None:
    with pytest.raises(EngineError, match="does not reproduce"):
        Engine(replace(lively, golden_pixels=255 - lively.golden_pixels), "cpu")


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0])
def test_golden_scores_that_are_no_measure_are_refused(lively: Bundle, value: float) -> None:
    broken = np.full_like(lively.golden_scores, value)
    with pytest.raises(EngineError, match="does not reproduce"):
        Engine(replace(lively, golden_scores=broken), "cpu")


def test_changed_weights_are_refused(lively: Bundle) -> None:
    """What no hash tells: a build of torch, or a device, that computes something else."""
    name = "cmam.gates.candidate.bias"
    changed = dict(lively.weights) | {name: lively.weights[name] + 1}
    with pytest.raises(EngineError, match="does not reproduce"):
        Engine(replace(lively, weights=changed), "cpu")


# Devices


@pytest.mark.parametrize("name", ["", "tpu", "cuda:99", "cuda:x", "xpu", "meta", "hpu", "cpu:x"])
def test_a_device_that_is_not_there_is_refused_by_name(name: str) -> None:
    with pytest.raises(EngineError) as caught:
        find_device(name)
    line = str(caught.value)
    assert line.startswith(f"device = {name!r} is not there")
    assert line.endswith("expected auto, cpu or cuda:N")
    assert "\n" not in line


def test_auto_is_the_gpu_where_there_is_one() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert find_device("auto").type == expected
    assert find_device("cpu").type == "cpu"


# Frames it cannot score


@pytest.mark.parametrize(
    ("height", "width", "channels", "problem"),
    [
        (63, 90, 1, "image = '90x63' is smaller than a patch; expected at least 64x64 pixels"),
        (90, 63, 1, "image = '63x90' is smaller than a patch; expected at least 64x64 pixels"),
    ],
)
def test_a_frame_of_another_shape_is_refused(
    engine: Engine, height: int, width: int, channels: int, problem: str
) -> None:
    with pytest.raises(FrameShapeError) as caught:
        engine.score(_frames(1, height, width, channels))
    assert str(caught.value) == problem


def test_colour_frames_give_a_gray_model_their_luma(engine: Engine) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (70, 80, 3), np.uint8)
    luma = colour.astype(float) @ [0.299, 0.587, 0.114]
    (seen,) = engine.score([colour])
    expected = engine._model.map(torch.from_numpy(luma).float()[None, None])[0]
    np.testing.assert_allclose(seen.defect_map, expected.detach().numpy(), rtol=1e-3, atol=1e-6)
    gray = colour[:, :, :1]
    (same,) = engine.score([np.repeat(gray, 3, axis=2)])
    assert same.score == pytest.approx(engine.score([gray])[0].score, rel=1e-3)


# A broken model


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused(lively: Bundle, value: float) -> None:
    weights = {name: tensor.copy() for name, tensor in lively.weights.items()}
    weights["decoder.d3.0.weight"][0, 0, 0, 0] = value
    with pytest.raises(
        BundleError, match=r"decoder\.d3\.0\.weight holds values that are no numbers"
    ):
        Engine(replace(lively, weights=weights), "cpu")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_network_that_breaks_down_scores_nan_and_is_never_ok(
    lively: Bundle, dtype: Dtype
) -> None:
    broken = Engine(lively, "cpu", dtype)
    with torch.no_grad():
        broken._model.decoder.d3[0].weight[0, 0, 0, 0] = np.nan
    for scored in broken.score(_frames()):
        assert math.isnan(scored.score)
        assert judge(scored.score, 1e9, None) is Judgement.INVALID_SCORE
