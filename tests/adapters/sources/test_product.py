"""The simulated product: reproducible everywhere, with a truth that is exactly what was changed."""

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clearline
from adapters.sources import flaws
from adapters.sources.product import VISIBLE, Part, SimulatedProduct

ROOT = Path(__file__).parents[3]
CLOTH = SimulatedProduct("woven", 128, 128, seed=11, defect_rate=1.0)
WEB = SimulatedProduct("wood", 64, 256, seed=12, defect_rate=1.0, strips=True)
PRODUCTS = [
    CLOTH,
    replace(CLOTH, kind="grain", channels=3),
    replace(CLOTH, kind="wood", dtype="uint16", height=96),
    WEB,
    replace(WEB, kind="woven", channels=3, dtype="uint16"),
    replace(WEB, kind="grain"),
]


def every(products: list[SimulatedProduct]) -> pytest.MarkDecorator:
    names = [f"{p.kind}-{p.channels}-{p.dtype}-{'web' if p.strips else 'parts'}" for p in products]
    return pytest.mark.parametrize("product", products, ids=names)


def digest(part: Part) -> str:
    return hashlib.sha256(part.pixels.tobytes() + part.mask.tobytes()).hexdigest()


@every(PRODUCTS)
def test_a_part_is_the_same_whenever_it_is_asked_for(product: SimulatedProduct) -> None:
    forwards = [digest(product.part(k)) for k in range(6)]
    backwards = [digest(product.part(k)) for k in reversed(range(6))]
    assert forwards == backwards[::-1]
    assert len(set(forwards)) == 6


def test_a_part_is_the_same_in_another_process() -> None:
    source = f"""
import hashlib
from adapters.sources.product import SimulatedProduct
for product in {PRODUCTS!r}:
    part = product.part(7)
    print(hashlib.sha256(part.pixels.tobytes() + part.mask.tobytes()).hexdigest())
"""
    there = subprocess.run(
        [sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert there.stdout.split() == [digest(product.part(7)) for product in PRODUCTS]


def test_another_seed_is_another_product() -> None:
    assert digest(CLOTH.part(0)) != digest(replace(CLOTH, seed=13).part(0))


@every(PRODUCTS)
def test_pixels_have_the_announced_format(product: SimulatedProduct) -> None:
    part = product.part(3)
    assert part.pixels.shape == product.format.shape
    assert part.pixels.nbytes == product.format.nbytes
    assert part.mask.shape == part.pixels.shape[:2]
    white = 255 if product.dtype == "uint8" else 4095
    assert 0.3 * white < part.pixels.mean() < 0.75 * white
    assert (part.pixels == white).mean() < 0.001


@every(PRODUCTS)
def test_the_mask_is_exactly_where_the_good_part_differs(product: SimulatedProduct) -> None:
    good = replace(product, defect_rate=0.0)
    white = 255 if product.dtype == "uint8" else 4095
    for k in range(40):
        marked, clean = product.part(k), good.part(k)
        change = np.abs(marked.pixels.astype(float) - clean.pixels).max(axis=-1) * 255 / white
        assert (change[marked.mask] > VISIBLE).all()
        assert (change[~marked.mask] <= VISIBLE).all()
        assert marked.mask.any() == (marked.defect is not None)
        assert marked.contrast == (
            pytest.approx(change[marked.mask].mean()) if marked.defect else 0
        )


@pytest.mark.parametrize("strips", [False, True])
def test_without_defects_nothing_is_marked(strips: bool) -> None:
    product = replace(CLOTH, defect_rate=0.0, strips=strips)
    parts = [product.part(k) for k in range(50)]
    assert all(part.defect is None and not part.mask.any() for part in parts)


@pytest.mark.parametrize("kind", ["woven", "grain", "wood"])
def test_every_defect_occurs_and_is_seen_on_every_texture(kind: Any) -> None:
    product = replace(CLOTH, kind=kind, height=96, width=96)
    parts = [product.part(k) for k in range(300)]
    assert {part.defect for part in parts} == set(flaws.KINDS)
    assert min(part.mask.sum() for part in parts) >= 6
    assert max(part.mask.mean() for part in parts) < 0.4


def test_contrasts_and_sizes_are_spread() -> None:
    parts = [CLOTH.part(k) for k in range(200)]
    weak, strong = np.quantile([part.contrast for part in parts], [0.1, 0.9])
    small, large = np.quantile([part.mask.sum() for part in parts], [0.1, 0.9])
    assert strong > 3 * weak
    assert large > 8 * small


def test_the_share_of_defects_is_the_one_asked_for() -> None:
    product = replace(CLOTH, height=64, width=64, defect_rate=0.2)
    count = sum(product.part(k).defect is not None for k in range(1000))
    assert 150 <= count <= 250  # 200 within four standard deviations


def test_the_noise_is_moderate_and_new_in_every_row() -> None:
    product = SimulatedProduct("grain", 512, 256, seed=3, strips=True)
    residue = product.part(0).pixels.astype(float) - product.part(4).pixels  # 2048 rows on
    assert 2 < residue.std() / np.sqrt(2) < 3
    assert residue.max() < 30
    rows = residue[..., 0] / residue.std()
    assert np.abs((rows[1:] * rows[:-1]).mean(axis=1)).max() < 0.4


@pytest.mark.parametrize("kind", ["woven", "grain", "wood"])
def test_strips_are_cuts_of_one_web(kind: Any) -> None:
    strips = SimulatedProduct(kind, 64, 200, 3, seed=5, strips=True)
    tall = replace(strips, height=192)
    for k in (0, 20):  # 20: across the end of the texture's own length
        cuts = np.concatenate([strips.part(3 * k + i).pixels for i in range(3)])
        assert np.array_equal(cuts, tall.part(k).pixels)


@pytest.mark.parametrize("kind", ["woven", "grain", "wood"])
def test_the_web_has_no_seam_where_its_texture_repeats(kind: Any) -> None:
    web = SimulatedProduct(kind, 256, 256, seed=5, strips=True)
    rows = np.concatenate([web.part(7).pixels, web.part(8).pixels]).astype(float)  # 1792..2303
    steps = np.abs(np.diff(rows[..., 0], axis=0)).mean(axis=1)
    assert steps[255] <= 1.2 * np.delete(steps, 255).max()


def test_a_defect_goes_on_in_the_next_strip() -> None:
    """With wide strips hardly any of its outline may end at a border."""
    strips = [WEB.part(k) for k in range(200)]
    above = np.array([strip.mask[-1] for strip in strips[:-1]])
    below = np.array([strip.mask[0] for strip in strips[1:]])
    assert above.any(axis=1).sum() > 20
    assert (above & below).sum() > 0.7 * above.sum()
    assert (above & below).sum() > 0.7 * below.sum()


def test_a_defect_may_reach_over_the_frame() -> None:
    sides = np.zeros(4, bool)
    for k in range(60):
        mask = CLOTH.part(k).mask
        sides |= [mask[0].any(), mask[-1].any(), mask[:, 0].any(), mask[:, -1].any()]
    assert sides.all()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kind", "paper"),
        ("height", 63),
        ("width", 20000),
        ("channels", 2),
        ("dtype", "float32"),
        ("seed", -1),
        ("defect_rate", 1.5),
        ("defect_rate", float("nan")),
    ],
)
def test_an_impossible_product_is_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(clearline.UsageError) as refusal:
        replace(CLOTH, **{key: value})
    assert refusal.value.key == key
    assert repr(value) in str(refusal.value)
    assert "expected" in str(refusal.value)
