"""RECIPES: a change falls on a part border; no frame is judged by a model of another product."""

from collections import deque
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

    def tick(self) -> int:
        self.now_ns += 1_000_000
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
    assert [line.judge(1), line.judge(1), line.judge(2), line.judge(2)] == [
        "foil", "foil", "steel", "steel",
    ]  # fmt: skip
    assert [(s.camera, s.before, s.after) for s in line.said] == [("left", "foil", "steel")]


def test_the_time_that_a_switch_took_is_from_the_asking_to_the_first_frame(line: Line) -> None:
    line.ask("steel")
    for _ in range(6):
        line.clock.tick()
    line.judge(1)
    assert line.said[0].took_ms == 7.0


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


class AgainstPlainModel(RuleBasedStateMachine):
    """A part is judged by what was asked for when it was first exposed; where that changed before
    any of it was judged, it is `changeover`."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.clock = Clock()
        self.patch.setattr(recipes, "time", self.clock)
        self.line = Line(self.clock)
        self.asked = dict.fromkeys(CAMERAS, ("foil", 0))  # the recipe, and since when
        self.part = dict.fromkeys(CAMERAS, 0)
        self.began: dict[tuple[str, int], int] = {}
        self.on_the_way = {name: deque[Exposure]() for name in CAMERAS}
        self.judged: dict[str, tuple[int, str]] = dict.fromkeys(CAMERAS, (0, "foil"))
        self.switches: list[tuple[str, str, str]] = []

    @rule(camera=st.sampled_from(CAMERAS), border=st.booleans(), named=st.booleans())
    def expose(self, camera: str, border: bool, named: bool) -> None:
        # A frame without a number is a part of its own: what comes after it is another one.
        self.part[camera] += border or self.part[camera] == 0 or not named
        part = self.part[camera] if named else 0
        self.part[camera] += not named
        exposure = self.line.exposure(part, camera)
        self.began.setdefault((camera, part or -exposure.exposed_ns), exposure.exposed_ns)
        self.on_the_way[camera].append(exposure)

    @precondition(lambda self: any(self.on_the_way.values()))
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        camera = data.draw(st.sampled_from([c for c in CAMERAS if self.on_the_way[c]]))
        exposure = self.on_the_way[camera].popleft()
        assert self.line.recipes.judging(exposure) == self.right_for(camera, exposure)

    def right_for(self, camera: str, exposure: Exposure) -> str | Reason:
        last, recipe = self.judged[camera]
        if not exposure.part or exposure.part != last:
            wanted, since_ns = self.asked[camera]
            if self.began[camera, exposure.part or -exposure.exposed_ns] < since_ns:
                return Reason.CHANGEOVER
            if wanted != recipe:
                self.switches.append((camera, recipe, wanted))
            recipe = wanted
        self.judged[camera] = exposure.part, recipe
        return recipe if recipe in KNOWN else Reason.NO_MODEL

    @rule(recipe=st.sampled_from(ASKED), cameras=st.sampled_from([(), ("left",), ("right",)]))
    def ask(self, recipe: str, cameras: tuple[str, ...]) -> None:
        self.line.ask(recipe, *cameras)
        for name in cameras or CAMERAS:
            if self.asked[name][0] != recipe:
                self.asked[name] = recipe, self.clock.now_ns

    @invariant()
    def every_switch_is_told_once(self) -> None:
        assert [(s.camera, s.before, s.after) for s in self.line.said] == self.switches
        now = {name: recipe for name, (_, recipe) in self.judged.items()}
        assert self.line.recipes.judging_now() == now

    def teardown(self) -> None:
        self.patch.undo()


AgainstPlainModel.TestCase.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None
)
TestAgainstPlainModel = AgainstPlainModel.TestCase
