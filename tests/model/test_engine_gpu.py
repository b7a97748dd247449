"""CUDA gives the scores of the CPU, at the real size of model and frame, in both data types."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from model.bundle import Bundle
from model.calibration import Dtype
from model.engine import TOLERANCE, Engine
from model.errors import EngineError
from model.settings import MemorySettings, ModelSettings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

VARIANTS = {
    "default": ModelSettings(),
    "overlapping": ModelSettings(stride=32),
    "printed": ModelSettings(memory=MemorySettings(temperature=1.0, gates="softmax")),
    "12 bit": ModelSettings(white=4095),
}


@pytest.fixture(scope="module", params=VARIANTS)
def bundle(
    request: pytest.FixtureRequest, make_bundle: Callable[[ModelSettings], Bundle]
) -> Bundle:
    return make_bundle(VARIANTS[request.param])


def _frames(white: int) -> list[np.ndarray]:
    """Two frames of 500x520 pixels, no multiples of a patch; a bright scratch on the second."""
    random = np.random.default_rng(12)
    frames = random.integers(0, white // 2, (2, 500, 520, 3), endpoint=True)
    frames[1, 200:204, 100:400] = white
    return list(frames.astype(np.uint8 if white == 255 else np.uint16))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_cuda_scores_as_the_cpu_does(bundle: Bundle, dtype: Dtype) -> None:
    frames = _frames(bundle.settings.white)
    expected = Engine(bundle, "cpu", "float32").score(frames)
    got = Engine(bundle, "cuda", dtype).score(frames)
    for one, other in zip(expected, got, strict=True):
        most = TOLERANCE[dtype] * one.score
        assert abs(other.score - one.score) <= most
        assert np.abs(other.defect_map - one.defect_map).max() <= most
        assert other.defect_map.shape == (500, 520)
        for measure in ("brightness", "sharpness", "saturated"):
            mine, theirs = getattr(one.quality, measure), getattr(other.quality, measure)
            assert theirs == pytest.approx(mine, rel=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_batch_on_cuda_scores_as_its_frames_do_one_by_one(bundle: Bundle, dtype: Dtype) -> None:
    engine = Engine(bundle, "cuda", dtype)
    frames = _frames(bundle.settings.white)
    for frame, scored in zip(frames, engine.score(frames), strict=True):
        (alone,) = engine.score([frame])
        assert scored.score == pytest.approx(alone.score, rel=TOLERANCE[dtype])


def test_auto_takes_the_gpu(bundle: Bundle) -> None:
    assert Engine(bundle).device.type == "cuda"


def test_a_gpu_that_is_not_there_is_refused(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="'cuda:99' is not there"):
        Engine(bundle, "cuda:99")
