"""The ring and its quotas: slots never overlap, both processes see them, none is lent twice."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from adapters.ports import FrameFormat
from daemon.worker.ring import PAGE, Quota, Ring
from model.picture import heat_shape

CAPACITIES = st.lists(st.integers(64 * 64, 1 << 18), max_size=12)
SIDES = st.integers(64, 1500)
FORMATS = st.builds(
    FrameFormat, SIDES, SIDES, st.sampled_from([1, 3]), st.sampled_from(["uint8", "uint16"])
)


@contextmanager
def ring_of(*capacities: int) -> Iterator[Ring]:
    ring = Ring.create(capacities)
    try:
        yield ring
    finally:
        ring.close()


@settings(max_examples=40, deadline=None)
@given(CAPACITIES)
def test_no_slot_and_no_heat_map_overlaps_another(capacities: list[int]) -> None:
    with ring_of(*capacities) as ring:
        assert [slot.capacity for slot in ring.slots] == capacities
        starts = [start for slot in ring.slots for start in (slot.pixels, slot.heat)]
        assert starts == sorted(set(starts))
        assert all(start % PAGE == 0 for start in starts)
        for slot in ring.slots:
            assert slot.pixels + slot.capacity <= slot.heat


@settings(max_examples=300, deadline=None)
@given(FORMATS, st.integers(0, 5000))
def test_the_heat_map_of_every_frame_that_fits_has_room_before_the_next_slot(
    frame: FrameFormat, spare: int
) -> None:
    """Asked of the layout alone: the ring itself would be gigabytes."""
    from daemon.worker.ring import _heat_room, _whole_pages

    rows, columns = heat_shape(frame.height, frame.width)
    assert rows * columns <= _whole_pages(_heat_room(frame.nbytes + spare))


@pytest.mark.parametrize(
    "frame",
    [
        FrameFormat(64, 64, 1, "uint8"),
        FrameFormat(65, 67, 3, "uint8"),
        FrameFormat(64, 4097, 1, "uint16"),
        FrameFormat(1025, 65, 3, "uint16"),
    ],
)
def test_a_frame_and_its_heat_map_keep_clear_of_their_neighbours(frame: FrameFormat) -> None:
    with ring_of(frame.nbytes, frame.nbytes, frame.nbytes) as ring:
        for number, slot in enumerate(ring.slots):
            ring.pixels(slot.pixels, frame)[:] = number + 1
            ring.heat(slot.heat, frame.height, frame.width)[:] = 101 + number
        for number, slot in enumerate(ring.slots):
            assert (ring.pixels(slot.pixels, frame) == number + 1).all()
            assert (ring.heat(slot.heat, frame.height, frame.width) == 101 + number).all()


def test_another_process_sees_what_was_written_and_is_seen() -> None:
    frame = FrameFormat(64, 80, 3, "uint16")
    with ring_of(4096, frame.nbytes) as ring:
        slot = ring.slots[1]
        sent = np.random.default_rng(1).integers(0, 65536, frame.shape, np.uint16)
        ring.pixels(slot.pixels, frame)[:] = sent
        code = (
            "from daemon.worker.ring import Ring\n"
            "from adapters.ports import FrameFormat\n"
            f"ring = Ring({ring.fd})\n"
            f"pixels = ring.pixels({slot.pixels}, {frame!r})\n"
            f"ring.heat({slot.heat}, 64, 80)[:] = 77\n"
            "print(int(pixels.astype('int64').sum()))\n"
        )
        ran = subprocess.run(
            [sys.executable, "-c", code],
            pass_fds=(ring.fd,),
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        assert int(ran.stdout) == int(sent.astype("int64").sum())
        assert (ring.heat(slot.heat, 64, 80) == 77).all()
        assert np.array_equal(ring.pixels(slot.pixels, frame), sent)  # its exit took nothing away


def test_memory_that_is_not_there_is_an_error_and_leaves_no_descriptor() -> None:
    """Asked under a limit for files, in a process of its own: no machine is filled up."""
    code = (
        "import os, resource\n"
        "from daemon.worker.ring import Ring\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "before = os.listdir('/proc/self/fd')\n"
        "try:\n    Ring.create([1 << 22])\nexcept OSError as error:\n    print(error.strerror)\n"
        "assert os.listdir('/proc/self/fd') == before\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "File too large\n"), ran.stderr


class Quotas(RuleBasedStateMachine):
    """A quota against a plain model: what is free, in the order in which it came back."""

    def __init__(self) -> None:
        super().__init__()
        self.quota = Quota(range(10, 14))
        self.free = [10, 11, 12, 13]
        self.held: list[int] = []
        self.closed = False

    @rule()
    def take(self) -> None:
        slot = self.quota.take(wait=False)
        if self.closed or not self.free:
            assert slot is None
        else:
            assert slot == self.free.pop(0)
            self.held.append(slot)

    @precondition(lambda self: self.closed or self.free)
    @rule()
    def take_waiting_where_nothing_is_waited_for(self) -> None:
        slot = self.quota.take(wait=True)
        if self.closed:
            assert slot is None
        else:
            assert slot == self.free.pop(0)
            self.held.append(slot)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        slot = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.quota.release(slot)
        self.free.append(slot)

    @rule()
    def close(self) -> None:
        self.quota.close()
        self.closed = True

    @invariant()
    def what_is_held_is_counted(self) -> None:
        assert self.quota.held == len(self.held)
        assert len(set(self.held)) == len(self.held)


Quotas.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestQuota = Quotas.TestCase


def waiting_taker(quota: Quota) -> tuple[threading.Thread, list[int | None]]:
    """A thread that waits for a slot: seen in its lock's list of waiters."""
    took: list[int | None] = []
    thread = threading.Thread(target=lambda: took.append(quota.take(wait=True)), daemon=True)
    thread.start()
    return thread, took


@pytest.mark.parametrize("end", ["release", "close"])
def test_who_waits_for_a_slot_is_woken(end: str) -> None:
    quota = Quota([5])
    assert quota.take(wait=False) == 5
    thread, took = waiting_taker(quota)
    while not quota._changed._waiters:  # type: ignore[attr-defined]
        pass
    assert took == []
    if end == "release":
        quota.release(5)
    else:
        quota.close()
    thread.join(5)
    assert took == [5 if end == "release" else None]


def test_many_threads_never_hold_one_slot_at_once() -> None:
    quota, busy, clashes = Quota(range(3)), set(), []

    def work() -> None:
        for _ in range(300):
            slot = quota.take(wait=True)
            if slot in busy:
                clashes.append(slot)
            busy.add(slot)
            busy.discard(slot)
            quota.release(slot)

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not clashes
    assert quota.held == 0
