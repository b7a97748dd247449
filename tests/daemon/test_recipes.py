"""RECIPES: a change falls on a part border of the whole line; no part is judged by two recipes."""

from collections import defaultdict, deque
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from adapters.ports import Exposure, FrameId, Reason
from daemon import recipes
from daemon.recipes import Recipes, Switched

CAMERAS = ("left", "right")
KNOWN = ("foil", "steel", "felt")
ASKED = (*KNOWN, "gold")


class Clock:
    """`time`, as far as `daemon.recipes` uses it; it stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000

    def monotonic_ns(self) -> int:
        return self.now_ns

    def tick(self, ns: int = 1_000_000) -> int:
        self.now_ns += ns
        return self.now_ns


class Line:
    """Recipes beside what it said of switches, and a clock that goes on at each exposure."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.said = clock, list[Switched]()
        self.recipes = Recipes(KNOWN, dict.fromkeys(CAMERAS, "foil"), self.said.append)

    def exposure(self, part: int, camera: str = "left") -> Exposure:
        now_ns = self.clock.tick()
        return Exposure(FrameId("line", camera, 1, now_ns), now_ns, 0, now_ns, part)

    def judge(self, part: int, camera: str = "left") -> str | Reason:
        return self.recipes.judging(self.exposure(part, camera))

    def ask(self, recipe: str, *cameras: str) -> None:
        self.clock.tick()
        self.recipes.ask(recipe, cameras or None)


@pytest.fixture
def clock() -> Iterator[Clock]:
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        patch.setattr(recipes, "time", clock)
        yield clock


@pytest.fixture
def line(clock: Clock) -> Line:
    return Line(clock)


def test_the_part_under_the_camera_is_judged_to_its_end_by_the_model_it_began_with(
    line: Line,
) -> None:
    assert line.judge(1) == "foil"
    line.ask("steel")
    assert [line.judge(part) for part in (1, 1, 2, 2)] == ["foil", "foil", "steel", "steel"]
    assert [(s.camera, s.before, s.after) for s in line.said] == [("left", "foil", "steel")]


def test_a_frame_of_another_part_that_was_exposed_before_the_asking_is_changeover(
    line: Line,
) -> None:
    line.judge(1)
    same, other = line.exposure(1), line.exposure(2)
    line.ask("steel")
    judging = line.recipes.judging
    assert [judging(same), judging(other), line.judge(3)] == ["foil", Reason.CHANGEOVER, "steel"]


def test_a_part_that_began_before_the_asking_is_not_switched_in_its_middle(line: Line) -> None:
    """Its first frame may show either product, and so may all its others."""
    line.judge(1)
    began = line.exposure(2)
    line.ask("steel")
    assert line.recipes.judging(began) is Reason.CHANGEOVER
    assert [line.judge(2), line.judge(2)] == [Reason.CHANGEOVER] * 2
    assert [line.judge(3), line.judge(3)] == ["steel", "steel"]


def test_a_camera_without_parts_is_switched_at_its_first_frame_exposed_after(line: Line) -> None:
    line.judge(0)
    before = line.exposure(0)
    line.ask("steel")
    assert line.recipes.judging(before) is Reason.CHANGEOVER
    assert line.judge(0) == "steel"


def test_a_frame_exposed_between_an_asking_and_its_calling_off_is_not_the_old_products(
    line: Line,
) -> None:
    line.judge(1)
    line.ask("steel")
    between = line.exposure(2)
    line.ask("foil")
    assert line.recipes.judging(between) is Reason.CHANGEOVER
    assert line.judge(3) == "foil"
    assert line.said == []


def test_what_was_asked_for_again_and_again_changes_nothing(line: Line) -> None:
    line.judge(1)
    line.ask("steel")
    line.judge(2)
    for part in range(3, 10):
        seen = line.exposure(part)
        line.ask("steel")
        assert line.recipes.judging(seen) == "steel"
    assert len(line.said) == 1


def test_the_asking_counts_from_its_first_time(line: Line) -> None:
    """A PLC that asks at 1 Hz must not put its own change off."""
    line.ask("steel")
    seen = line.exposure(1)
    line.ask("steel")
    assert line.recipes.judging(seen) == "steel"


def test_an_unknown_recipe_is_obeyed_and_said_once_and_its_parts_are_not_judged(line: Line) -> None:
    line.judge(1)
    with structlog.testing.capture_logs() as logs:
        for part in (1, 2, 3):
            line.ask("gold", "left")
            said = line.judge(part)
            assert said == ("foil" if part == 1 else Reason.NO_MODEL)
    assert [(entry["event"], entry["recipe"]) for entry in logs] == [("no such recipe", "gold")]
    line.ask("felt")
    assert [line.judge(3), line.judge(4)] == [Reason.NO_MODEL, "felt"]
    assert line.recipes.judging_now() == {"left": "felt", "right": "foil"}


def test_one_cameras_change_does_not_touch_anothers(line: Line) -> None:
    line.ask("steel", "left")
    assert [line.judge(1, "right"), line.judge(1, "left")] == ["foil", "steel"]
    assert line.recipes.judging_now() == {"left": "steel", "right": "foil"}


def test_a_part_that_one_camera_has_begun_is_judged_by_the_same_recipe_at_the_others(
    line: Line,
) -> None:
    assert line.judge(10, "left") == "foil"
    line.ask("steel")
    assert [line.judge(11, "left"), line.judge(10, "right"), line.judge(11, "right")] == [
        "steel", "foil", "steel",
    ]  # fmt: skip


def test_a_part_of_the_old_recipe_between_newer_ones_is_no_switch_back(line: Line) -> None:
    line.judge(10, "left")
    line.ask("steel")
    assert [line.judge(part, "right") for part in (11, 10, 12)] == ["steel", "foil", "steel"]
    assert [(s.camera, s.before, s.after) for s in line.said] == [("right", "foil", "steel")]
    assert line.recipes.judging_now() == {"left": "foil", "right": "steel"}


def test_a_part_keeps_what_each_camera_had_when_it_was_begun(line: Line) -> None:
    line.ask("steel", "right")
    line.judge(1, "left")
    line.ask("felt")
    line.judge(2, "left")
    line.ask("foil")
    assert [line.judge(part, "right") for part in (1, 2, 3)] == ["steel", "felt", "foil"]


def test_a_part_that_may_be_of_either_product_is_changeover_at_all_cameras(line: Line) -> None:
    began = line.exposure(2, "left")
    line.ask("steel")
    assert line.recipes.judging(began) is Reason.CHANGEOVER
    assert [line.judge(2, "right"), line.judge(3, "right")] == [Reason.CHANGEOVER, "steel"]


def test_a_camera_whose_recipe_stays_judges_such_a_part_as_ever(line: Line) -> None:
    began = line.exposure(2, "left")
    line.ask("steel", "left")
    assert line.recipes.judging(began) is Reason.CHANGEOVER
    assert line.judge(2, "right") == "foil"


def test_a_part_that_turns_out_to_have_begun_earlier_is_changeover_from_then(line: Line) -> None:
    """Its first frame was long under way; another camera's later one came before it."""
    began = line.exposure(2, "left")
    line.ask("steel", "left")
    other = line.exposure(2, "left")
    assert [line.judge(2, "right"), line.recipes.judging(other)] == ["foil", "steel"]
    line.ask("felt", "right")
    assert line.recipes.judging(began) is Reason.CHANGEOVER
    assert [line.judge(2, "left"), line.judge(2, "right")] == [Reason.CHANGEOVER, "foil"]


def test_a_switch_is_told_once_for_each_camera_with_the_time_of_its_own_asking(line: Line) -> None:
    line.ask("steel", "left")
    line.ask("felt", "right")
    for camera in (*CAMERAS, *CAMERAS):
        line.judge(1, camera)
    assert [(s.camera, s.after, s.took_ms) for s in line.said] == [
        ("left", "steel", 2.0), ("right", "felt", 2.0),
    ]  # fmt: skip


@pytest.mark.parametrize(("away_s", "recipe"), [(60, "foil"), (60.001, "steel")])
def test_a_number_that_was_not_seen_for_over_a_minute_is_another_part(
    line: Line, away_s: float, recipe: str
) -> None:
    late = line.exposure(1)
    line.clock.tick(500_000_000)
    line.judge(1)
    line.clock.tick(500_000_000)
    line.judge(1)
    line.recipes.judging(late)
    line.ask("steel")
    line.clock.tick(round(away_s * 1e9) - 2_000_000)
    assert line.judge(1) == recipe


@pytest.mark.parametrize(("others", "recipe"), [(-1, "foil"), (0, "steel")])
def test_no_more_than_so_many_parts_are_remembered(line: Line, others: int, recipe: str) -> None:
    for part in (1, 2, 1):
        line.judge(part)
    line.ask("steel")
    for part in range(3, 3 + recipes.PARTS + others):
        line.judge(part)
    assert line.judge(1) == recipe


def test_a_frame_from_before_the_askings_that_are_kept_is_changeover_and_never_a_guess(
    line: Line,
) -> None:
    """But a part that was begun then is still judged by what it began with."""
    first = line.exposure(1, "right")
    line.ask("steel", "right")
    line.judge(2, "left")
    second = line.exposure(3, "right")
    for recipe in ("steel", "foil") * (recipes.GENERATIONS // 2):
        line.ask(recipe, "left")
    late = line.exposure(4, "right")
    line.ask("felt", "left")
    said = [line.recipes.judging(exposure) for exposure in (first, second, late)]
    assert said == [Reason.CHANGEOVER, Reason.CHANGEOVER, "steel"]
    assert [line.judge(2, "left"), line.judge(2, "right"), line.judge(5, "left")] == [
        "foil", "steel", "felt",
    ]  # fmt: skip


class AgainstPlainModel(RuleBasedStateMachine):
    """Two cameras that show the same parts, each at its own time. A part may be of every product
    that was asked for from its first known exposure to when it was first seen."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.clock = Clock()
        self.patch.setattr(recipes, "time", self.clock)
        self.line = Line(self.clock)
        self.asked = {name: [(0, "foil")] for name in CAMERAS}  # since when, and the recipe
        self.under = dict.fromkeys(CAMERAS, 1)  # the part under each camera
        self.on_the_way = {name: deque[Exposure]() for name in CAMERAS}
        self.known: dict[int, tuple[int, int]] = {}  # a part's first exposure and first sight
        self.judged_by = defaultdict[int, set[tuple[str, str]]](set)
        self.now = dict.fromkeys(CAMERAS, (0, "foil"))
        self.switches: list[tuple[str, str, str]] = []

    @rule(camera=st.sampled_from(CAMERAS), border=st.booleans(), named=st.booleans())
    def expose(self, camera: str, border: bool, named: bool) -> None:
        self.under[camera] += border
        part = self.under[camera] if named else 0
        self.on_the_way[camera].append(self.line.exposure(part, camera))

    @precondition(lambda self: any(self.on_the_way.values()))
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        camera = data.draw(st.sampled_from([c for c in CAMERAS if self.on_the_way[c]]))
        exposure = self.on_the_way[camera].popleft()
        part = exposure.part or -exposure.exposed_ns
        exposed_ns, seen_ns = self.known.get(part, (exposure.exposed_ns, self.clock.now_ns))
        self.known[part] = min(exposed_ns, exposure.exposed_ns), seen_ns
        recipe = self.line.recipes.judging(exposure)
        assert recipe == self.right_for(camera, *self.known[part])
        if recipe in KNOWN:
            self.judged_by[part].add((camera, recipe))

    def right_for(self, camera: str, exposed_ns: int, seen_ns: int) -> str | Reason:
        asked = self.asked[camera]
        at_first = [since for since in asked if since[0] <= exposed_ns][-1]
        if any(exposed_ns < since_ns <= seen_ns for since_ns, _ in asked):
            return Reason.CHANGEOVER
        recipe, before = at_first[1], self.now[camera][1]
        if at_first > self.now[camera]:
            self.now[camera] = at_first
            if recipe != before:
                self.switches.append((camera, before, recipe))
        return recipe if recipe in KNOWN else Reason.NO_MODEL

    @rule(recipe=st.sampled_from(ASKED), cameras=st.sampled_from([(), ("left",), ("right",)]))
    def ask(self, recipe: str, cameras: tuple[str, ...]) -> None:
        self.line.ask(recipe, *cameras)
        for name in cameras or CAMERAS:
            if self.asked[name][-1][1] != recipe:
                self.asked[name].append((self.clock.now_ns, recipe))

    @precondition(lambda self: not any(self.on_the_way.values()))
    @rule()
    def begin_anew(self) -> None:
        """The PLC is started again, and counts from 1."""
        self.clock.tick(61 * 10**9)
        self.known.clear()
        self.judged_by.clear()
        self.under = dict.fromkeys(CAMERAS, 1)

    @invariant()
    def no_part_is_judged_by_what_did_not_stand_at_one_time(self) -> None:
        times = {since_ns for asked in self.asked.values() for since_ns, _ in asked}
        stood = [
            {(name, [r for t, r in asked if t <= at][-1]) for name, asked in self.asked.items()}
            for at in times
        ]
        for part, judged_by in self.judged_by.items():
            assert any(judged_by <= at_once for at_once in stood), part

    @invariant()
    def every_switch_is_told_once(self) -> None:
        assert [(s.camera, s.before, s.after) for s in self.line.said] == self.switches
        now = {name: recipe for name, (_, recipe) in self.now.items()}
        assert self.line.recipes.judging_now() == now

    def teardown(self) -> None:
        self.patch.undo()


AgainstPlainModel.TestCase.settings = settings(
    max_examples=200, stateful_step_count=40, deadline=None
)
TestAgainstPlainModel = AgainstPlainModel.TestCase
