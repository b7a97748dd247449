"""Buffers for waiting pictures: bounded, and used again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.records.buffers import READY, Buffer, Buffers


def test_a_buffer_that_came_back_is_lent_again() -> None:
    buffers = Buffers(most=2, most_bytes=1000)
    first = buffers.lend(400)
    assert first is not None
    buffers.give_back(first)
    assert buffers.lent == 0
    assert buffers.lend(400) is first
    assert buffers.lent == 1


@pytest.mark.parametrize(("most", "most_bytes"), [(2, 10_000), (100, 250)])
def test_too_many_and_too_much_are_refused(most: int, most_bytes: int) -> None:
    buffers = Buffers(most, most_bytes)
    assert [buffers.lend(100) is not None for _ in range(4)] == [True, True, False, False]


def test_free_buffers_of_another_size_make_room() -> None:
    buffers = Buffers(most=10, most_bytes=1000)
    for buffer in [buffers.lend(250) for _ in range(4)]:
        assert buffer is not None
        buffers.give_back(buffer)
    assert buffers.lend(1000) is not None


def test_buffers_made_ready_are_lent_and_no_more_are_made_than_are_of_use() -> None:
    buffers = Buffers(most=100, most_bytes=100 * READY + 50)
    for _ in range(3):
        buffers.make_ready(100)
    small = buffers.lend(50)  # there is just this much left beside them
    ready = [buffers.lend(100) for _ in range(READY)]
    assert small is not None
    assert all(buffer is not None and not buffer.any() for buffer in ready)
    assert buffers.lend(100) is None


def test_no_more_are_made_ready_than_there_is_room_for() -> None:
    buffers = Buffers(most=100, most_bytes=250)
    buffers.make_ready(100)
    assert [buffers.lend(100) is not None for _ in range(3)] == [True, True, False]


@given(st.lists(st.one_of(st.integers(1, 400), st.none()), max_size=60))
def test_never_more_than_the_bounds_are_out_and_none_twice(steps: list[int | None]) -> None:
    """A number: lend so much; None: the first one comes back."""
    buffers = Buffers(most=5, most_bytes=1000)
    out: list[Buffer] = []
    for size in steps:
        if size is None:
            if out:
                buffers.give_back(out.pop(0))
        elif (buffer := buffers.lend(size)) is not None:
            assert buffer.size == size
            assert all(buffer is not other for other in out)
            out.append(buffer)
        else:
            assert len(out) == 5 or sum(b.size for b in out) + size > 1000
        assert len(out) <= 5
        assert sum(b.size for b in out) <= 1000
