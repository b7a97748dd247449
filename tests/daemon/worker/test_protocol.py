"""The messages between daemon and worker: what is said is heard, whole, at its largest too."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.ports import FrameFormat
from daemon.worker.protocol import (
    PACKET,
    Alive,
    Failed,
    FrameRef,
    Load,
    Ready,
    RecipeFiles,
    Refused,
    Result,
    Score,
    Scored,
    decode_from_worker,
    decode_to_worker,
    encode,
    pair,
)
from model.judgement import Judgement
from model.regions import Region

LARGE = st.integers(0, 2**53)
FLOATS = st.floats()
FORMATS = st.builds(
    FrameFormat, st.integers(1, 16384), st.integers(1, 16384), st.sampled_from([1, 3]),
    st.sampled_from(["uint8", "uint16"]),
)  # fmt: skip
FRAMES = st.builds(FrameRef, LARGE, LARGE, FORMATS, st.none() | st.floats(0, 65535))
RESULTS = st.builds(
    Result, FLOATS, FLOATS, st.sampled_from(Judgement),
    st.lists(st.builds(Region, LARGE, LARGE, LARGE, LARGE, LARGE, FLOATS), max_size=3).map(tuple),
)  # fmt: skip
TO_WORKER = st.one_of(
    st.builds(
        Load,
        st.lists(st.builds(RecipeFiles, st.text(), st.text(), st.text()), max_size=3).map(tuple),
        st.text(),
    ),
    st.builds(Score, LARGE, st.text(), st.lists(FRAMES, max_size=4).map(tuple)),
)
FROM_WORKER = st.one_of(
    st.builds(Ready, st.text()),
    st.builds(Alive),
    st.builds(Failed, st.text()),
    st.builds(Refused, LARGE, st.text()),
    st.builds(Scored, LARGE, st.lists(RESULTS, max_size=4).map(tuple)),
)


def maximal() -> Scored:
    """64 frames with 16 regions each, every number as long as it gets."""
    region = Region(16383, 16383, 16384, 16384, 2**28, 1 / 3)
    return Scored(2**53, tuple(Result(1 / 3, 1 / 7, Judgement.INVALID_SCORE, (region,) * 16)
                               for _ in range(64)))  # fmt: skip


@given(TO_WORKER)
def test_every_word_to_the_worker_is_heard_as_it_was_said(message: Load | Score) -> None:
    assert decode_to_worker(encode(message)) == message


@given(FROM_WORKER)
def test_every_word_from_the_worker_is_heard_as_it_was_said(message: Ready | Scored) -> None:
    # repr, since a NaN is not equal to itself
    assert repr(decode_from_worker(encode(message))) == repr(message)


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_arrives_as_such(score: float) -> None:
    said = Scored(1, (Result(score, 0.5, Judgement.INVALID_SCORE, ()),))
    heard = decode_from_worker(encode(said))
    assert isinstance(heard, Scored)
    assert repr(heard.results[0].score) == repr(score)


def test_the_largest_batch_passes_a_real_connection_in_one_packet() -> None:
    ours, theirs = pair()
    with ours, theirs:
        frame = FrameRef(2**40, 2**40, FrameFormat(16384, 16384, 3, "uint16"), 1 / 3)
        request = Score(2**53, "r" * 32, (frame,) * 64)
        for end, other, message, decode in (
            (ours, theirs, request, decode_to_worker),
            (theirs, ours, maximal(), decode_from_worker),
        ):
            packet = encode(message)
            assert len(packet) <= PACKET
            assert end.send(packet) == len(packet)
            assert decode(other.recv(PACKET)) == message


def test_two_largest_batches_wait_without_being_read() -> None:
    """DEPTH batches are under way at once; the sender must not block on them."""
    ours, theirs = pair()
    with ours, theirs:
        theirs.setblocking(False)
        for _ in range(2):
            theirs.send(encode(maximal()))
        assert decode_from_worker(ours.recv(PACKET)) == maximal()
        assert decode_from_worker(ours.recv(PACKET)) == maximal()


def test_packets_keep_their_borders_and_the_end_is_told() -> None:
    ours, theirs = pair()
    with ours:
        with theirs:
            for number in range(3):
                theirs.send(encode(Refused(number, "x" * number)))
        assert [decode_from_worker(ours.recv(PACKET)) for _ in range(3)] == [
            Refused(0, ""), Refused(1, "x"), Refused(2, "xx"),
        ]  # fmt: skip
        assert ours.recv(PACKET) == b""


@pytest.mark.parametrize("packet", [b"", b"\x00", b"\xff" * 9, encode(Ready("cpu"))[:-1]])
def test_what_is_no_message_is_refused(packet: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_from_worker(packet)
