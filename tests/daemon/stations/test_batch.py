"""BATCH with told times: the earliest deadline first, one kind a batch, every frame once."""

import math
from collections import Counter
from collections.abc import Callable, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from adapters.ports import Exposure, Frame, FrameFormat, FrameId
from daemon.deadlines import Kind
from daemon.stations.batch import SHARE, BatchQueue

SIZES = (FrameFormat(64, 64, 1, "uint8"), FrameFormat(64, 64, 3, "uint8"))


def frame(sequence: int, deadline_ns: int = 1000, camera: str = "a", size: int = 0) -> Frame:
    exposure = Exposure(FrameId("line", camera, 1, sequence), 0, 0, deadline_ns, 0)
    return Frame(exposure, SIZES[size], sequence)


def kind_of(one: Frame) -> Kind:
    return one.exposure.id.camera, one.format


def queue_with(*frames: Frame, most: int = 4, now_ns: int = 0) -> BatchQueue:
    queue = BatchQueue(most, kind_of, math.inf)
    for one in frames:
        queue.put(one, now_ns)
    return queue


def at_once(kind: Kind, frames: int) -> float:
    """A worker that takes no time."""
    return 0.0


def taken(
    queue: BatchQueue, now_ns: int = 0, *, idle: bool = True,
    takes_ns: Callable[[Kind, int], float] = at_once,
) -> Sequence[int]:  # fmt: skip
    batch = queue.take(now_ns, idle=idle, free_ns=0.0, takes_ns=takes_ns)
    return [] if batch is None else [one.exposure.id.sequence for one in batch.frames]


FRAMES = st.lists(
    st.tuples(st.integers(1, 100), st.sampled_from("ab"), st.integers(0, 1)), max_size=30
).map(lambda drawn: [frame(k, d, c, s) for k, (d, c, s) in enumerate(drawn)])


@given(FRAMES, st.integers(1, 5), st.integers(0, 100))
def test_every_frame_leaves_once_in_a_batch_of_its_kind_or_expired(
    frames: list[Frame], most: int, now_ns: int
) -> None:
    queue = queue_with(*frames, most=most)
    gone = queue.expired(now_ns)
    assert {f.slot for f in gone} == {f.slot for f in frames if f.exposure.deadline_ns <= now_ns}
    waiting = [f for f in frames if f not in gone]
    assert sum(queue.waiting().values()) == len(waiting)
    out: list[Frame] = []
    while batch := queue.take(now_ns, idle=True, free_ns=0.0, takes_ns=at_once):
        assert 1 <= len(batch.frames) <= most
        assert {kind_of(f) for f in batch.frames} == {batch.kind}
        # The most urgent of all goes now, with the most urgent of its kind.
        left = [f for f in waiting if f not in out]
        assert batch.frames[0].exposure.deadline_ns == min(f.exposure.deadline_ns for f in left)
        same = sorted(
            (f for f in left if kind_of(f) == batch.kind),
            key=lambda f: (f.exposure.deadline_ns, f.slot),
        )
        assert list(batch.frames) == same[: len(batch.frames)]
        assert len(batch.frames) == min(most, len(same))
        out += batch.frames
    assert sorted(f.slot for f in out) == sorted(f.slot for f in waiting)
    assert queue.waiting() == {}
    assert queue.next_due_ns() is None


class AgainstPlainModel(RuleBasedStateMachine):
    """A list of frames and of when each has waited its share, put and taken in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.queue, self.most, self.now_ns = BatchQueue(3, kind_of, math.inf), 3, 0
        self.put_so_far = 0
        self.waiting: list[tuple[Frame, int]] = []

    @rule(within_ns=st.integers(-50, 200), camera=st.sampled_from("ab"), size=st.integers(0, 1))
    def put(self, within_ns: int, camera: str, size: int) -> None:
        one = frame(self.put_so_far, self.now_ns + within_ns, camera, size)
        self.put_so_far += 1
        self.queue.put(one, self.now_ns)
        self.waiting.append((one, self.now_ns + int(SHARE * max(0, within_ns))))

    @rule(by_ns=st.integers(0, 100))
    def time_passes(self, by_ns: int) -> None:
        self.now_ns += by_ns

    @rule(idle=st.booleans())
    def take(self, idle: bool) -> None:
        def urgency(waiting: tuple[Frame, int]) -> tuple[int, int]:
            return waiting[0].exposure.deadline_ns, waiting[0].slot

        by_kind: dict[Kind, list[tuple[Frame, int]]] = {}
        for one in sorted(self.waiting, key=urgency):
            by_kind.setdefault(kind_of(one[0]), []).append(one)
        ready = [
            same for same in by_kind.values()
            if idle or len(same) >= self.most or any(due <= self.now_ns for _, due in same)
        ]  # fmt: skip
        batch = self.queue.take(self.now_ns, idle=idle, free_ns=0.0, takes_ns=at_once)
        if batch is None:
            assert ready == []
            return
        mine = [same for same in ready if kind_of(same[0][0]) == batch.kind]
        assert [list(batch.frames)] == [[f for f, _ in same[: self.most]] for same in mine]
        first = min(same[0][0].exposure.deadline_ns for same in ready)
        assert batch.frames[0].exposure.deadline_ns == first
        self.waiting = [w for w in self.waiting if w[0] not in batch.frames]

    @rule()
    def expire(self) -> None:
        due = [f for f, _ in self.waiting if f.exposure.deadline_ns <= self.now_ns]
        gone = self.queue.expired(self.now_ns)
        assert sorted(f.slot for f in gone) == [f.slot for f in due]
        self.waiting = [w for w in self.waiting if w[0] not in due]

    @rule()
    def clear(self) -> None:
        assert sorted(f.slot for f in self.queue.clear()) == [f.slot for f, _ in self.waiting]
        self.waiting = []

    @invariant()
    def what_waits_is_known(self) -> None:
        assert self.queue.waiting() == Counter(kind_of(f) for f, _ in self.waiting)
        full = any(n >= self.most for n in self.queue.waiting().values())
        due = min((due for _, due in self.waiting), default=None)
        assert self.queue.next_due_ns() == (0 if full else due)


AgainstPlainModel.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
TestAgainstPlainModel = AgainstPlainModel.TestCase


@given(FRAMES)
def test_clear_gives_back_every_frame_once(frames: list[Frame]) -> None:
    queue = queue_with(*frames)
    assert sorted(f.slot for f in queue.clear()) == [f.slot for f in frames]
    assert queue.clear() == []
    assert queue.take(0, idle=True, free_ns=0.0, takes_ns=at_once) is None


def test_nothing_waiting_is_no_batch() -> None:
    assert queue_with().take(10**12, idle=True, free_ns=0.0, takes_ns=at_once) is None


def test_an_idle_worker_gets_what_there_is_at_once() -> None:
    assert taken(queue_with(frame(1), frame(2)), idle=True) == [1, 2]


def test_a_busy_worker_waits_for_a_full_batch() -> None:
    queue = queue_with(frame(1), frame(2), frame(3))
    assert taken(queue, idle=False) == []
    queue.put(frame(4), 0)
    queue.put(frame(5), 0)
    assert taken(queue, idle=False) == [1, 2, 3, 4]
    assert taken(queue, idle=False) == []


def test_a_frame_that_waited_its_share_goes_with_those_that_are_there() -> None:
    queue = queue_with(frame(1, deadline_ns=1000), frame(2, deadline_ns=2000))
    due = int(1000 * SHARE)
    assert queue.next_due_ns() == due
    assert taken(queue, due - 1, idle=False) == []
    assert taken(queue, due, idle=False) == [1, 2]


def test_a_frame_that_came_late_waits_a_share_of_what_it_has_left() -> None:
    queue = queue_with(frame(1, deadline_ns=1000), now_ns=900)
    assert queue.next_due_ns() == 900 + int(100 * SHARE)
    late = queue_with(frame(1, deadline_ns=1000), now_ns=2000)
    assert late.next_due_ns() == 2000


def test_a_full_batch_goes_though_a_more_urgent_kind_still_waits_for_more() -> None:
    urgent = frame(9, deadline_ns=500, camera="b")
    queue = queue_with(urgent, *(frame(k) for k in range(4)))
    assert taken(queue, idle=False) == [0, 1, 2, 3]
    assert taken(queue, idle=True) == [9]


def test_frames_of_other_sizes_and_recipes_are_never_mixed() -> None:
    queue = queue_with(frame(1), frame(2, size=1), frame(3, camera="b"), frame(4))
    assert taken(queue) == [1, 4]
    assert sorted([taken(queue), taken(queue)]) == [[2], [3]]


def test_a_frame_expires_at_its_deadline_and_not_before() -> None:
    queue = queue_with(frame(1, deadline_ns=1000), frame(2, deadline_ns=1001))
    assert queue.expired(999) == []
    assert [f.slot for f in queue.expired(1000)] == [1]
    assert taken(queue, 1000) == [2]


def ten_each(kind: Kind, frames: int) -> float:
    return 10.0 * frames


def test_an_urgent_frame_is_not_made_late_by_those_it_is_put_together_with() -> None:
    queue = queue_with(frame(0, 25), *(frame(k, 1000) for k in range(1, 4)))
    assert taken(queue, takes_ns=ten_each) == [0, 1]
    assert taken(queue, takes_ns=ten_each) == [2, 3]


def test_where_a_frame_is_late_even_alone_the_others_do_not_wait_for_it() -> None:
    queue = queue_with(frame(0, 5), *(frame(k, 1000) for k in range(1, 4)))
    assert taken(queue, takes_ns=ten_each) == [0, 1, 2, 3]


def test_who_goes_before_a_deadline_is_counted_by_kind() -> None:
    queue = queue_with(frame(0, 5), frame(1, 9), frame(2, 10), frame(3, 7, "b"), frame(4, 11, "b"))
    a, b = kind_of(frame(0)), kind_of(frame(3, 7, "b"))
    assert queue.ahead_of(9) == {a: 2, b: 1}
    assert queue.ahead_of(4) == {}


def test_no_batch_is_longer_than_an_urgent_frame_could_wait_for() -> None:
    queue = BatchQueue(8, kind_of, 35.0)
    for k in range(8):
        queue.put(frame(k, 1000), 0)
    assert taken(queue, takes_ns=ten_each) == [0, 1, 2]
    slow = BatchQueue(8, kind_of, 5.0)
    slow.put(frame(0, 1000), 0)
    slow.put(frame(1, 1000), 0)
    assert taken(slow, takes_ns=ten_each) == [0], "one frame at least"
