"""CHAINS: every defect of an endless web is told once, whole and in its place."""

from collections.abc import Sequence
from unittest.mock import patch

import cv2
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from numpy.typing import NDArray

from adapters.ports import Exposure, FrameId
from daemon.stations import chains
from daemon.stations.chains import MOST_NS, MOST_STRIPS, TOUCH_ROWS, Chain, Chains
from daemon.stations.judge import Finding
from daemon.worker.protocol import Result
from model.judgement import Judgement
from model.regions import Region, find

HEIGHT, WIDTH = 20, 24
DOWN = Region(4, 10, 6, 10, 40, 0.8)
"""It goes on in the next strip."""
IN = Region(6, 0, 6, 9, 30, 0.6)
"""It goes on from DOWN, and ends."""
THROUGH = Region(5, 0, 6, HEIGHT, 90, 0.7)


def strip(
    sequence: int, *regions: Region, epoch: int = 1, recipe: str = "a", height: int = HEIGHT,
    decided_ns: int = 0, plc_sent: bool | None = None,
) -> Chain:  # fmt: skip
    exposure = Exposure(FrameId("line", "web", epoch, sequence), 0, 0, 0, 0)
    score = max((region.score for region in regions), default=0.9)
    finding = Finding(Result(score, 0.5, Judgement.DEFECT, regions), None, recipe, height, None)
    return Chain.of(exposure, decided_ns, finding, plc_sent=plc_sent)


def told(*strips: Chain) -> list[Chain]:
    line = Chains()
    return [chain for one in strips for chain in line.strip(one)] + line.broken()


def spans(told: Sequence[Chain]) -> list[tuple[int, int]]:
    return [(chain.exposure.id.sequence, chain.last_sequence) for chain in told]


def test_a_defect_that_ends_in_its_strip_is_told_at_once() -> None:
    line = Chains()
    assert spans(line.strip(strip(3, IN))) == [(3, 3)]
    assert line.broken() == []


def test_a_defect_over_three_strips_is_told_once_with_its_last_strip() -> None:
    line = Chains()
    assert line.strip(strip(7, DOWN)) == []
    assert line.strip(strip(8, THROUGH)) == []
    (chain,) = line.strip(strip(9, IN))
    assert spans([chain]) == [(7, 9)]
    assert chain.regions == [Region(4, 10, 8, 39, 160, 0.8)]
    assert chain.web_row == 7 * HEIGHT + 10
    assert not chain.continues


def test_what_stands_beside_it_in_its_strips_is_told_with_it_as_regions_of_their_own() -> None:
    beside, under = Region(20, 2, 2, 2, 4, 0.95), Region(18, 12, 3, 3, 9, 0.55)
    (chain,) = told(strip(0, DOWN, beside), strip(1, IN, under))
    joined = Region(4, 10, 8, 19, 70, 0.8)
    assert chain.regions == [beside, joined, Region(18, HEIGHT + 12, 3, 3, 9, 0.55)]
    assert chain.finding.result.score == 0.95
    assert chain.web_row == 2


@pytest.mark.parametrize(
    ("above", "below", "joined"),
    [
        (TOUCH_ROWS, TOUCH_ROWS, True),
        (TOUCH_ROWS + 1, 0, False),
        (0, TOUCH_ROWS + 1, False),
    ],
)
def test_rows_that_a_coarse_map_left_out_at_a_border_do_not_part_a_defect(
    above: int, below: int, joined: bool
) -> None:
    upper = Region(4, 8, 6, HEIGHT - 8 - above, 40, 0.8)
    lower = Region(4, below, 6, 3, 12, 0.6)
    assert spans(told(strip(0, upper), strip(1, lower))) == (
        [(0, 1)] if joined else [(0, 0), (1, 1)]
    )


@pytest.mark.parametrize(("x", "joined"), [(10, True), (11, False), (1, True), (0, False)])
def test_only_what_hangs_together_across_the_border_is_joined(x: int, joined: bool) -> None:
    lower = Region(x, 0, 3, 3, 9, 0.6)
    assert len(told(strip(0, DOWN), strip(1, lower))) == (1 if joined else 2)


def test_a_scratch_is_followed_at_its_end_and_not_at_its_whole_width() -> None:
    slant = [Region(8 * k, 0, 8, HEIGHT, 40, 0.7) for k in range(3)]
    elsewhere = Region(0, 0, 3, 3, 9, 0.6)
    chains = told(*(strip(k, region) for k, region in enumerate(slant)), strip(3, elsewhere))
    assert spans(chains) == [(0, 2), (3, 3)]


def test_two_legs_that_meet_in_the_next_strip_are_one_region() -> None:
    legs = Region(2, 5, 3, 15, 45, 0.6), Region(14, 8, 3, 12, 36, 0.9)
    (chain,) = told(strip(0, *legs), strip(1, Region(2, 0, 15, 4, 60, 0.7)))
    assert chain.regions == [Region(2, 5, 15, 19, 141, 0.9)]


def test_one_region_that_parts_in_the_next_strip_is_still_one() -> None:
    legs = Region(2, 0, 3, 15, 45, 0.6), Region(14, 0, 3, 12, 36, 0.9)
    (chain,) = told(strip(0, Region(2, 14, 15, 6, 60, 0.7)), strip(1, *legs))
    assert chain.regions == [Region(2, 14, 15, 21, 141, 0.9)]


@pytest.mark.parametrize(
    "next_",
    [
        strip(2, IN),
        strip(0, IN),
        strip(1, IN, epoch=2),
        strip(1, IN, recipe="b"),
        strip(1, IN, height=HEIGHT + 1),
    ],
    ids=["a strip between", "the same strip", "epoch", "recipe", "height"],
)
def test_what_is_not_the_next_strip_of_the_same_web_begins_anew(next_: Chain) -> None:
    first = strip(0, DOWN)
    chains = told(first, next_)
    assert chains == [first, next_]


def test_a_broken_chain_ends_where_it_is_and_the_next_strip_begins_anew() -> None:
    line = Chains()
    line.strip(strip(0, DOWN))
    assert [(c.strips, c.continues) for c in line.broken()] == [(1, False)]
    assert spans(line.strip(strip(1, IN))) == [(1, 1)]


def test_a_defect_along_the_whole_web_is_told_piece_by_piece() -> None:
    chains = told(*(strip(k, THROUGH) for k in range(2 * MOST_STRIPS + 3)))
    assert [(c.strips, c.continues) for c in chains] == [
        (MOST_STRIPS, True), (MOST_STRIPS, True), (3, False),
    ]  # fmt: skip
    assert spans(chains)[1] == (MOST_STRIPS, 2 * MOST_STRIPS - 1)


def test_a_chain_that_is_open_for_too_long_is_told_as_far_as_it_goes() -> None:
    line = Chains()
    line.strip(strip(0, DOWN, decided_ns=1000))
    line.strip(strip(1, THROUGH, decided_ns=MOST_NS))
    assert line.overdue(999 + MOST_NS) == []
    (chain,) = line.overdue(1000 + MOST_NS)
    assert (chain.strips, chain.continues) == (2, True)
    assert line.overdue(10 * MOST_NS) == []
    assert spans(line.strip(strip(2, IN))) == [(2, 2)]


@pytest.mark.parametrize(
    ("sent", "all_sent"),
    [((True, True), True), ((True, False), False), ((False, True), False), ((None, None), None)],
)
def test_the_plc_was_told_of_a_chain_if_it_was_told_of_every_strip(
    sent: tuple[bool | None, bool | None], all_sent: bool | None
) -> None:
    (chain,) = told(strip(0, DOWN, plc_sent=sent[0]), strip(1, IN, plc_sent=sent[1]))
    assert chain.plc_sent is all_sent


def test_a_defect_without_a_region_is_told_at_the_top_of_its_strip() -> None:
    (chain,) = told(strip(2))
    assert (chain.regions, chain.web_row) == ([], 2 * HEIGHT)


# --- a whole web, cut into strips, against a model that looks at all of it at once ---

MOST = 4
"""Strips of a chain, here."""
Mask = NDArray[np.float32]
RECTANGLES = st.lists(
    st.tuples(
        st.integers(0, WIDTH - 1), st.sampled_from([0, 0, 2, 4, 5, 9, 14]), st.integers(1, 9),
        st.sampled_from([1, 2, 6, 11, HEIGHT]), st.sampled_from([0.6, 0.7, 0.9]),
    ),
    min_size=1, max_size=4,
)  # fmt: skip


class Web(RuleBasedStateMachine):
    """Any web with any breaks: strips of defects in runs, told by one camera's Chains."""

    def __init__(self) -> None:
        super().__init__()
        self.line, self.told = Chains(), list[Chain]()
        self.runs: list[list[tuple[FrameId, Mask]]] = [[]]
        """Strips that follow each other on one web, all with defects."""
        self.epoch, self.sequence, self.recipe = 1, 0, 1
        self.limit = patch.object(chains, "MOST_STRIPS", MOST)
        self.limit.start()

    @rule(rectangles=RECTANGLES)
    def defective(self, rectangles: list[tuple[int, int, int, int, float]]) -> None:
        mask = np.zeros((HEIGHT, WIDTH), np.float32)
        for x, y, width, height, score in rectangles:
            mask[y : y + height, x : x + width] = score
        one = strip(
            self.sequence, *find(mask, 0.5, 99), epoch=self.epoch, recipe=self.recipe
        )  # fmt: skip
        self.runs[-1].append((one.exposure.id, mask))
        self.told += self.line.strip(one)
        self.sequence += 1

    @rule()
    def sound(self) -> None:
        self.told += self.line.broken()
        self.sequence += 1
        self.runs.append([])

    @rule(strips=st.integers(1, 3))
    def lost(self, strips: int) -> None:
        self.sequence += strips
        self.runs.append([])

    @rule()
    def reconnected(self) -> None:
        self.epoch += 1
        self.runs.append([])

    @rule()
    def changed_over(self) -> None:
        self.recipe += 1
        self.runs.append([])

    def teardown(self) -> None:
        self.told += self.line.broken()
        self.limit.stop()
        expected = [chain for run in self.runs for chain in whole(run)]
        assert [described(chain) for chain in self.told] == expected
        for run in self.runs:
            self.no_defect_is_cut(run)

    def no_defect_is_cut(self, run: list[tuple[FrameId, Mask]]) -> None:
        """What hangs together pixel by pixel is in one region of one event, but at the limit."""
        if not run:
            return
        web = np.vstack([mask for _, mask in run])
        first, last = run[0][0], run[-1][0]
        here = [
            c for c in self.told if c.exposure.id.epoch == first.epoch
            and first.sequence <= c.exposure.id.sequence <= last.sequence
        ]  # fmt: skip
        assert sum(r.area for c in here for r in c.regions) == np.count_nonzero(web)
        for defect in find(web, 0.5, 999):
            top = first.sequence * HEIGHT + defect.y
            rows = set(range(top, top + defect.height))
            around = [(c, r) for c in here for r in c.regions if rows & on_web(c, r)]
            if not any(chain.continues for chain, _ in around):
                assert any(rows <= on_web(c, r) and within(defect, r) for c, r in around)


def on_web(chain: Chain, region: Region) -> set[int]:
    top = chain.exposure.id.sequence * HEIGHT + region.y
    return set(range(top, top + region.height))


def within(inner: Region, outer: Region) -> bool:
    return outer.x <= inner.x and inner.x + inner.width <= outer.x + outer.width


def described(chain: Chain) -> tuple[object, ...]:
    boxes = sorted((r.y, r.x, r.height, r.width, r.area, r.score) for r in chain.regions)
    return chain.exposure.id, chain.strips, chain.continues, chain.web_row, boxes


def whole(run: Sequence[tuple[FrameId, Mask]]) -> list[tuple[object, ...]]:
    """The chains of a run, by looking at every pair of boxes at every border."""
    chains: list[list[tuple[FrameId, list[Region]]]] = []
    for frame, mask in run:
        regions = list(find(mask, 0.5, 99))
        before = chains[-1] if chains else []
        if 0 < len(before) < MOST and any(touch(a, b) for a in before[-1][1] for b in regions):
            before.append((frame, regions))
        else:
            chains.append([(frame, regions)])
    return [united(chain) for chain in chains]


def touch(upper: Region, lower: Region) -> bool:
    """By painting both boxes, drawn out to the border where they are near it."""
    both = np.zeros((2 * HEIGHT, WIDTH), np.uint8)
    bottom = HEIGHT if at_end(upper) else upper.y + upper.height
    top = 0 if lower.y <= TOUCH_ROWS else lower.y
    both[upper.y : bottom, upper.x : upper.x + upper.width] = 1
    both[HEIGHT + top : HEIGHT + lower.y + lower.height, lower.x : lower.x + lower.width] = 1
    return cv2.connectedComponents(both, connectivity=8)[0] == 2


def at_end(region: Region) -> bool:
    return HEIGHT - (region.y + region.height) <= TOUCH_ROWS


def united(chain: Sequence[tuple[FrameId, Sequence[Region]]]) -> tuple[object, ...]:
    left = {
        (k, n): region for k, (_, regions) in enumerate(chain) for n, region in enumerate(regions)
    }
    boxes, top = [], HEIGHT * len(chain)
    while left:
        reached, group = [next(iter(left))], dict[tuple[int, int], Region]()
        while reached:
            here = reached.pop()
            group[here] = region = left.pop(here, group.get(here))
            reached += [
                there for there, other in left.items()
                if (there[0] == here[0] + 1 and touch(region, other))
                or (there[0] == here[0] - 1 and touch(other, region))
            ]  # fmt: skip
        x, y = (
            min(r.x for r in group.values()),
            min(HEIGHT * k + r.y for (k, _), r in group.items()),
        )
        bottom = max(HEIGHT * k + r.y + r.height for (k, _), r in group.items())
        right = max(r.x + r.width for r in group.values())
        area = sum(r.area for r in group.values())
        boxes.append((y, x, bottom - y, right - x, area, max(r.score for r in group.values())))
        top = min(top, y)
    cut = len(chain) == MOST and any(at_end(region) for region in chain[-1][1])
    return chain[0][0], len(chain), cut, chain[0][0].sequence * HEIGHT + top, sorted(boxes)


Web.TestCase.settings = settings(max_examples=200, stateful_step_count=20, deadline=None)
TestWeb = Web.TestCase
