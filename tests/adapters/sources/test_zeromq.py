"""A camera over real ZeroMQ sockets: what arrives, what is reported lost, and how it ends."""

import signal
import socket as sockets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from itertools import count, pairwise
from pathlib import Path

import numpy as np
import pytest
import structlog
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st
from plant.camera_process import CameraProcess

from adapters.errors import SourceError
from adapters.ports import FrameFormat, Lease, Pixels, Reason, Shot
from adapters.sources import zeromq
from adapters.sources.frame_message import encode
from adapters.sources.product import SimulatedProduct
from adapters.sources.zeromq import ZeroMqSource

RNG = np.random.default_rng(1)
SHAPES = ((64, 80, 1), (65, 63, 3))
PICTURES = [RNG.integers(0, np.iinfo(d).max, s, d) for s in SHAPES for d in (np.uint8, np.uint16)]


class Notebook:
    """An intake that writes down what it is told. It lends `slots` times."""

    def __init__(self, slots: int = 10**9, then: Callable[[], None] = lambda: None) -> None:
        self.slots, self.then = slots, then
        self.seen: list[tuple[Shot, Pixels]] = []
        self.lost: list[tuple[int, Reason]] = []

    def lend(self, frame: FrameFormat, *, wait: bool) -> Lease | None:
        assert not wait, "a live camera cannot"
        if self.slots == len(self.seen):
            return None
        return Lease(0, np.zeros(frame.shape, frame.dtype))

    def arrived(self, shot: Shot, lease: Lease) -> None:
        self.seen.append((shot, lease.pixels))
        self.then()

    def unseen(self, shot: Shot, reason: Reason) -> None:
        self.lost.append((shot.sequence, reason))

    def sequences(self) -> list[int]:
        return [shot.sequence for shot, _ in self.seen]


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.002)


@contextmanager
def streaming(source: ZeroMqSource, notebook: Notebook) -> Iterator[Future[None]]:
    with ThreadPoolExecutor(1) as thread:
        ended = thread.submit(source.stream, notebook)
        try:
            yield ended
        finally:
            source.stop()
    ended.result()


@pytest.fixture
def context() -> Iterator[zmq.Context]:
    with zmq.Context() as context:
        context.linger = 0
        yield context


@pytest.fixture(params=["tcp", "ipc"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return free_tcp() if request.param == "tcp" else f"ipc://{tmp_path}/camera"


def free_tcp() -> str:
    with sockets.create_server(("127.0.0.1", 0)) as server:
        return f"tcp://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def camera_at(context: zmq.Context, address: str, notebook: Notebook) -> Iterator[zmq.Socket]:
    """A camera that pushes, and the source that listens to it."""
    with context.socket(zmq.PUSH) as camera, streaming(ZeroMqSource(address, "pull"), notebook):
        camera.bind(address)
        yield camera


@contextmanager
def feeding(camera: zmq.Socket) -> Iterator[None]:
    """Frames 1, 2, … a millisecond apart, from a thread of their own."""
    over = threading.Event()

    def feed() -> None:
        for k in count(1):
            if over.wait(0.001):
                return
            with suppress(zmq.Again):
                camera.send_multipart(encode(level(k), k), zmq.NOBLOCK)

    with ThreadPoolExecutor(1) as thread:
        fed = thread.submit(feed)
        try:
            yield
        finally:
            over.set()
    fed.result()


def level(value: int) -> Pixels:
    return np.full((64, 64, 1), value % 256, np.uint8)


@pytest.mark.parametrize("bind", [False, True], ids=["connects", "binds"])
def test_pictures_arrive_with_all_that_the_camera_says(
    context: zmq.Context, address: str, bind: bool
) -> None:
    notebook, source = Notebook(), ZeroMqSource(address, "pull", bind=bind)
    sent_ns = time.monotonic_ns()
    with context.socket(zmq.PUSH) as camera, streaming(source, notebook):
        (camera.connect if bind else camera.bind)(address)
        for k, pixels in enumerate(PICTURES):
            camera.send_multipart(encode(pixels, 5 + k, part=70 + k, exposed_ns=sent_ns + k))
        until(lambda: len(notebook.seen) == len(PICTURES))
    for k, (shot, shown) in enumerate(notebook.seen):
        assert shot == Shot(5 + k, sent_ns + k, part=70 + k)
        assert shown.dtype == PICTURES[k].dtype
        np.testing.assert_array_equal(shown, PICTURES[k])
    assert notebook.lost == []


def test_a_publisher_is_heard_from_when_it_is_subscribed_to(
    context: zmq.Context, address: str
) -> None:
    notebook, later = Notebook(), range(10**6, 10**6 + 30)
    with context.socket(zmq.PUB) as camera, streaming(ZeroMqSource(address, "sub"), notebook):
        camera.bind(address)
        with feeding(camera):
            until(lambda: notebook.seen)
        for k in later:
            camera.send_multipart(encode(level(k), k))
        until(lambda: later[-1] in notebook.sequences())
    assert notebook.sequences()[-30:] == list(later)


@pytest.mark.parametrize("off_ns", [None, 10**12, -2 * 10**9])
def test_an_exposure_without_a_believable_time_has_that_of_its_arrival(
    context: zmq.Context, off_ns: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zeromq, "OLDEST_NS", 10**9)  # the machine may have run for minutes only
    notebook, before_ns = Notebook(), time.monotonic_ns()
    exposed_ns = None if off_ns is None else before_ns + off_ns
    with camera_at(context, free_tcp(), notebook) as camera:
        camera.send_multipart(encode(level(0), 0, exposed_ns=exposed_ns))
        until(lambda: notebook.seen)
    assert before_ns <= notebook.seen[0][0].exposed_ns <= time.monotonic_ns()


def test_frames_that_find_no_slot_are_reported_each_by_its_number(
    context: zmq.Context, address: str
) -> None:
    notebook = Notebook(slots=3)
    with camera_at(context, address, notebook) as camera:
        for k in range(20):
            camera.send_multipart(encode(level(k), k))
        until(lambda: len(notebook.lost) == 17)
    assert notebook.sequences() == [0, 1, 2]
    assert notebook.lost == [(k, Reason.OVERLOAD) for k in range(3, 20)]


def test_pixels_that_do_not_fit_their_header_are_a_corrupt_frame_and_take_no_slot(
    context: zmq.Context, address: str
) -> None:
    notebook = Notebook()
    header, pixels = encode(level(0), 1)
    whole = bytes(pixels)
    huge = header.replace(b'"height":64', b'"height":16384')
    wrong = [[header], [header, b""], [header, whole[1:]], [header, whole, b""], [huge, whole]]
    with camera_at(context, address, notebook) as camera:
        for message in wrong:
            camera.send_multipart(message)
        camera.send_multipart([header, whole])
        until(lambda: notebook.seen)
    assert notebook.lost == [(1, Reason.CORRUPT)] * len(wrong)
    assert notebook.sequences() == [1]


def test_any_other_message_is_refused_and_the_frame_behind_it_arrives(context: zmq.Context) -> None:
    notebook, numbers = Notebook(), count()
    with camera_at(context, free_tcp(), notebook) as camera:

        @settings(max_examples=60, deadline=None)
        @given(st.lists(st.binary(max_size=80), min_size=1, max_size=4))
        def holds(message: list[bytes]) -> None:
            camera.send_multipart(message)
            number = next(numbers)
            camera.send_multipart(encode(level(number), number))
            until(lambda: number in notebook.sequences())

        holds()
    assert notebook.lost == []


def test_refused_messages_are_counted_in_the_log_once_a_second(context: zmq.Context) -> None:
    notebook, begun = Notebook(), time.monotonic()
    logging, listening = structlog.testing.capture_logs(), camera_at(context, free_tcp(), notebook)
    with logging as logs, listening as camera:
        for _ in range(500):
            camera.send_multipart([b"{}"])
        until(lambda: sum(said["messages"] for said in logs) == 500)
    assert 2 <= len(logs) <= 2 + time.monotonic() - begun, "the first at once, then one a second"
    assert "missing required field" in logs[0]["last"]


def test_a_message_over_the_bound_is_never_taken_in(
    context: zmq.Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ZeroMQ makes room for what a message claims to be, before the header can be looked at."""
    monkeypatch.setattr(zeromq, "PIXEL_BYTES", 100_000)
    notebook, source = Notebook(), ZeroMqSource(address := free_tcp(), "pull", bind=True)
    with context.socket(zmq.PUSH) as camera, streaming(source, notebook):
        camera.connect(address)
        camera.send_multipart(encode(np.zeros((400, 400, 1), np.uint8), 0))
        with feeding(camera):
            until(lambda: notebook.seen)
    assert 0 not in [*notebook.sequences(), *(number for number, _ in notebook.lost)]


@pytest.mark.parametrize("sends", [False, True], ids=["silent", "sends"])
def test_stop_from_another_thread_ends_it_within_100_ms(context: zmq.Context, sends: bool) -> None:
    address, notebook = free_tcp(), Notebook()
    source = ZeroMqSource(address, "pull")
    with context.socket(zmq.PUSH) as camera, streaming(source, notebook) as ended:
        camera.bind(address)
        camera.send_multipart(encode(level(0), 0))
        until(lambda: notebook.seen)
        with feeding(camera) if sends else nullcontext():
            until(lambda: len(notebook.seen) > 10 or not sends)
            begun = time.monotonic()
            source.stop()
            ended.result(5)
            took = time.monotonic() - begun
    assert took < 0.1


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ("tcp://127.0.0.1", "Invalid argument"), (f"ipc:///tmp/{'x' * 200}", "too long"),
        ("carrier-pigeon://roof", "Protocol not supported"), ("", "Invalid argument"),
    ],
)  # fmt: skip
def test_an_address_that_cannot_be_used_is_a_source_error(wrong: str, problem: str) -> None:
    with pytest.raises(SourceError, match=problem) as refused:
        ZeroMqSource(wrong, "pull").stream(Notebook())
    assert repr(wrong) in str(refused.value)


def test_fifty_reopenings_leak_neither_descriptor_nor_thread(context: zmq.Context) -> None:
    """Whether it was stopped, or the intake broke off, or it never opened."""
    address = free_tcp()

    def use() -> None:
        source = ZeroMqSource(address, "pull")
        source.stream(Notebook(then=source.stop))
        with pytest.raises(ZeroDivisionError):
            ZeroMqSource(address, "pull").stream(Notebook(then=lambda: 1 / 0))
        with pytest.raises(SourceError, match="Address already in use"):
            ZeroMqSource(address, "pull", bind=True).stream(Notebook())

    def used() -> int:
        return sum(len(list(Path("/proc/self", kind).iterdir())) for kind in ("fd", "task"))

    with context.socket(zmq.PUSH) as camera:
        camera.bind(address)
        with feeding(camera):
            use()
            before = used()
            for _ in range(50):
                use()
        until(lambda: used() <= before)  # the sender's ends close a moment later


def camera_process(folder: Path, address: str) -> CameraProcess:
    product = SimulatedProduct("grain", 64, 64, seed=3, defect_rate=0.4)
    return CameraProcess(address, folder / "state", product, 100.0, time.monotonic_ns())


def test_a_camera_killed_and_back_goes_on_with_its_own_count(tmp_path: Path, address: str) -> None:
    """The far end dies without a word; its next process is found, and numbers on from the file."""
    camera, notebook = camera_process(tmp_path, address), Notebook()
    with streaming(ZeroMqSource(address, "pull"), notebook):
        with camera.running(signal.SIGKILL):
            until(lambda: len(notebook.seen) > 20)
        killed, killed_ns = camera.exposed(), time.monotonic_ns()
        with camera.running():
            until(lambda: notebook.sequences()[-1] > killed.frames + 20)
    for shot, pixels in notebook.seen:
        assert shot.exposed_ns == camera.exposed_ns(shot.part)
        np.testing.assert_array_equal(pixels, camera.picture(shot.part))
    shots = [shot for shot, _ in notebook.seen]
    dead = sum(shot.exposed_ns < killed_ns for shot in shots)
    last, first = shots[dead - 1 : dead + 1]
    assert last.sequence < killed.frames <= first.sequence, "it neither forgets nor invents one"
    assert first.part - last.part > first.sequence - last.sequence, "while dead it exposed nothing"
    assert all(a.sequence < b.sequence and a.part < b.part for a, b in pairwise(shots))
    assert camera.exposed().frames > shots[-1].sequence


def test_the_process_knows_which_of_its_parts_are_defective(tmp_path: Path) -> None:
    camera = camera_process(tmp_path, "")
    truth = [camera.product.part(k).defect is not None for k in range(64)]
    assert [camera.defective(part) for part in range(1, 129)] == truth * 2
    assert 10 < sum(truth) < 40


def test_a_camera_that_no_longer_answers_is_connected_to_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a power cut: as far as TCP can tell, its connection stays open for ever."""
    monkeypatch.setattr(zeromq, "HEARTBEAT_MS", 200)
    notebook, camera = Notebook(), camera_process(tmp_path, address := free_tcp())
    with streaming(ZeroMqSource(address, "pull"), notebook), camera.running() as process:
        until(lambda: notebook.seen)
        before = connections_to(address)
        process.send_signal(signal.SIGSTOP)
        until(lambda: connections_to(address) - before)
        process.send_signal(signal.SIGCONT)
        seen = len(notebook.seen)
        until(lambda: len(notebook.seen) > seen + 5)


def connections_to(address: str) -> set[str]:
    """Our ends of those that are established."""
    port = f":{int(address.rpartition(':')[2]):04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return {row[1] for row in rows if row[2].endswith(port) and row[3] == "01"}
