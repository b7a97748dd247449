"""The ledger: what became of every frame, over any kill, in any process, for any camera."""

import json
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from adapters.ports import FrameId, Outcome, Reason
from daemon.cli import main
from daemon.errors import StateError
from daemon.records.ledger import CAMERAS, SIZE, Ledger, Unrecorded

OUTCOMES = st.one_of(
    st.sampled_from([(Outcome.OK, None), (Outcome.DEFECT, None)]),
    st.sampled_from([(Outcome.UNINSPECTED, reason) for reason in Reason]),
)
NAMES = ("left", "right", "above")


def frame(camera: str, sequence: int, epoch: int = 1) -> FrameId:
    return FrameId("line", camera, epoch, sequence)


class Balance(RuleBasedStateMachine):
    """Several cameras against a plain model, through reopenings as after a kill."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "ledger"
        self.said: dict[str, Counter[object]] = {name: Counter() for name in NAMES}
        self.waiting: dict[str, list[FrameId]] = {name: [] for name in NAMES}
        self.last: dict[str, tuple[int, int]] = dict.fromkeys(NAMES, (0, 0))
        self.epochs: set[int] = set()
        self.sequence = 0
        self.open()

    def open(self) -> None:
        self.ledger = Ledger(self.path)
        self.accounts = {name: self.ledger.account(name) for name in NAMES}
        self.epoch = self.ledger.next_epoch()
        assert self.epoch not in self.epochs
        self.epochs.add(self.epoch)

    @rule(name=st.sampled_from(NAMES))
    def receive(self, name: str) -> None:
        self.sequence += 1
        received = frame(name, self.sequence, self.epoch)
        self.accounts[name].receive(received)
        self.said[name]["received"] += 1
        self.waiting[name].append(received)

    @rule(name=st.sampled_from(NAMES), what=OUTCOMES)
    def decide(self, name: str, what: tuple[Outcome, Reason | None]) -> None:
        if self.waiting[name]:
            first = self.waiting[name].pop(0)
            self.accounts[name].decide(first, *what)
            self.said[name][what[1] or what[0]] += 1
            self.last[name] = (first.epoch, first.sequence)

    @rule()
    def reopen_and_close_the_gaps(self) -> None:
        """As after a kill: what was in flight is announced once, with its range."""
        self.open()
        for name, account in self.accounts.items():
            waiting = self.waiting[name]
            gap = account.close_gap()
            if not waiting:
                assert gap is None
                continue
            last = (waiting[-1].epoch, waiting[-1].sequence)
            assert gap == Unrecorded(name, self.last[name], last, len(waiting))
            self.said[name][Reason.DAEMON_RESTART] += len(waiting)
            self.waiting[name], self.last[name] = [], last
            assert account.close_gap() is None

    @invariant()
    def every_frame_is_accounted_for(self) -> None:
        for other in (self.ledger, Ledger(self.path)):
            accounts = {account.camera: account for account in other.accounts()}
            assert accounts.keys() == set(NAMES)
            for name, account in accounts.items():
                counts, said = account.counts(), self.said[name]
                assert counts.received == said["received"]
                assert (counts.ok, counts.defect) == (said[Outcome.OK], said[Outcome.DEFECT])
                assert counts.uninspected == {r: said[r] for r in Reason if said[r]}
                assert counts.in_flight == len(self.waiting[name])

    def teardown(self) -> None:
        self.folder.cleanup()


Balance.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestBalance = Balance.TestCase

LOOP = """
import sys
from pathlib import Path
from adapters.ports import FrameId, Outcome, Reason
from daemon.records.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
account, epoch, sequence = ledger.account("left"), ledger.next_epoch(), 0
print("ready", flush=True)
while True:
    for k in range(5):
        account.receive(FrameId("line", "left", epoch, sequence + k))
    for k in range(5):
        account.decide(FrameId("line", "left", epoch, sequence + k), Outcome.OK, None)
    sequence += 5
    if sequence == int(sys.argv[2]):
        print("now", flush=True)
"""
KILLS = 20


@pytest.fixture
def run_until_killed() -> Callable[[Path, int], None]:
    def run(path: Path, frames: int) -> None:
        """The loop above, killed while it goes on behind `frames`."""
        process = subprocess.Popen(
            [sys.executable, "-c", LOOP, str(path), str(frames)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.readline() == "ready\n"
            assert process.stdout.readline() == "now\n"
            process.send_signal(signal.SIGKILL)
            process.wait()

    return run


def test_killed_at_any_instruction_the_reopened_ledger_says_exactly_what_is_missing(
    tmp_path: Path, run_until_killed: Callable[[Path, int], None]
) -> None:
    path, before, caught = tmp_path / "ledger", 0, 0
    for run in range(1, KILLS + 1):
        run_until_killed(path, 5 * run)
        account = Ledger(path).account("left")
        counts = account.counts()
        received = counts.received - before
        assert account.last_received == (run, received - 1)
        gap = account.close_gap()
        assert (gap.count if gap else 0) == counts.in_flight <= 5
        if gap is not None:
            caught += 1
            # Where none of this epoch was decided, the last one that was is of another.
            after = gap.after[1] if gap.after[0] == run else -1
            assert gap.last == (run, received - 1)
            assert gap.count == gap.last[1] - after
        after = account.counts()
        assert after.in_flight == 0
        assert after.received == after.ok + sum(after.uninspected.values())
        before = after.received
    assert caught > 0  # of ten moments eight have frames in flight


def told_by_the_command(
    folder: Path, capsys: pytest.CaptureFixture[str], *options: str
) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["ledger", str(folder), *options])
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def test_the_command_reads_a_balanced_ledger_while_another_process_writes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", LOOP, str(tmp_path / "ledger"), "0"], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    with process.stdout:
        process.stdout.readline()
        seen = [0]
        while len(seen) < 200:
            code, out, _ = told_by_the_command(tmp_path, capsys, "--json")
            left = json.loads(out)["cameras"].get("left")
            assert code == 0
            # Received is read after decided: what comes between the two looks as if in flight.
            assert left["in_flight"] == left["received"] - left["ok"] >= 0
            assert left["received"] >= seen[-1]
            seen.append(left["received"])
        process.kill()
        process.wait()
    assert len(set(seen)) > 10


def test_the_command_tells_every_camera_and_reason_and_never_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ledger"
    account = Ledger(path).account("left")
    Ledger(path).account("right")
    account.receive(frame("left", 11, epoch=3), 4)
    for sequence, (outcome, reason) in enumerate(
        [(Outcome.OK, None), (Outcome.DEFECT, None), (Outcome.UNINSPECTED, Reason.LATE)], start=8
    ):
        account.decide(frame("left", sequence, epoch=3), outcome, reason)
    path.chmod(0o444)
    before = path.read_bytes(), path.stat().st_mtime_ns
    code, out, _ = told_by_the_command(tmp_path, capsys, "--json")
    assert (code, json.loads(out)["ledger"]) == (0, str(path))
    assert json.loads(out)["cameras"]["left"] == {
        "received": 4, "ok": 1, "defect": 1, "uninspected": {"late": 1}, "in_flight": 1,
        "last_epoch": 3, "last_sequence": 11,
    }  # fmt: skip
    assert json.loads(out)["cameras"]["right"]["received"] == 0
    code, out, _ = told_by_the_command(tmp_path, capsys)
    assert code == 0
    assert "camera left" in out
    assert "camera right" in out
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_a_ledger_opened_to_read_cannot_be_written(tmp_path: Path) -> None:
    """Asked of the memory itself: root may write to any file."""
    Ledger(tmp_path / "ledger").account("left").receive(frame("left", 0))
    reading = Ledger(tmp_path / "ledger", writable=False)
    (account,) = reading.accounts()
    for write in (reading.next_epoch, lambda: account.receive(frame("left", 1))):
        with pytest.raises((TypeError, ValueError), match=r"read-only|read-write"):
            write()
    assert account.counts().received == 1


@pytest.mark.parametrize(
    "content", [None, b"", b"no ledger " * 2000, bytes(SIZE), b"CLRLEDG1" + bytes(SIZE)],
    ids=["missing", "empty", "foreign", "zeros", "another version"],
)  # fmt: skip
def test_the_command_refuses_what_is_no_ledger_with_one_line_and_leaves_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    path = tmp_path / "ledger"
    if content is not None:
        path.write_bytes(content)
    code, out, error = told_by_the_command(tmp_path, capsys)
    assert (code, out) == (2, "")
    assert error.startswith(f"clearline: {path}: ")
    assert error.count("\n") == 1
    assert path.exists() is (content is not None)
    assert content is None or path.read_bytes() == content


def test_another_process_reads_what_this_one_writes(tmp_path: Path) -> None:
    account = Ledger(tmp_path / "ledger").account("left")
    for k in range(3):
        account.receive(frame("left", k))
    account.decide(frame("left", 0), Outcome.DEFECT, None)
    code = (
        "from pathlib import Path\nfrom daemon.records.ledger import Ledger\n"
        f"for account in Ledger(Path({str(tmp_path / 'ledger')!r})).accounts():\n"
        "    print(account.camera, account.counts())"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == f"left {account.counts()}\n"


def test_a_reader_sees_it_balanced_while_a_thread_receives(tmp_path: Path) -> None:
    account = Ledger(tmp_path / "ledger").account("left")
    over = threading.Event()

    def work() -> None:
        for k in range(4000):
            account.receive(frame("left", k))
            account.decide(frame("left", k), Outcome.OK, None)
        over.set()

    thread = threading.Thread(target=work)
    thread.start()
    while not over.is_set():
        assert account.counts().in_flight >= 0
    thread.join()
    assert account.counts().ok == 4000


def test_no_epoch_repeats_over_threads_and_reopenings(tmp_path: Path) -> None:
    given: list[int] = []
    for _ in range(3):
        ledger = Ledger(tmp_path / "ledger")
        threads = [
            threading.Thread(
                target=lambda one=ledger: given.extend(one.next_epoch() for _ in range(30))
            )
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(given) == list(range(1, 271))


@pytest.mark.parametrize(
    "content", [b"no ledger " * 2000, b"CLRLEDG9" + bytes(SIZE), b"CLRLEDG2" + bytes(100), b"x"],
    ids=["text", "another version", "truncated", "one byte"],
)  # fmt: skip
def test_what_is_not_a_whole_ledger_is_refused_and_left_as_it_was(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "ledger"
    path.write_bytes(content)
    with pytest.raises(StateError) as refused:
        Ledger(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert path.read_bytes() == content


def test_a_folder_that_is_not_writable_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "none/ledger", tmp_path / "file/ledger", tmp_path):
        with pytest.raises(StateError, match="expected a ledger in a writable state folder"):
            Ledger(path)


def test_one_camera_too_many_is_refused_by_name(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    for k in range(CAMERAS):
        ledger.account(f"camera{k}").receive(frame(f"camera{k}", 0))
    with pytest.raises(StateError, match=f"onemore.* at most {CAMERAS} names"):
        ledger.account("onemore")
    assert ledger.account("camera7").counts().received == 1
    assert len(ledger.accounts()) == CAMERAS


@pytest.mark.parametrize("camera", ["x" * 64, "Kamera-Süd", "上", "x" * 65, "ü" * 40, ""])
def test_a_name_is_kept_as_it_is_or_refused(tmp_path: Path, camera: str) -> None:
    """Cut short, it would be another camera's, or a new one at every start."""
    ledger = Ledger(tmp_path / "ledger")
    ledger.account("first")
    try:
        ledger.account(camera).receive(frame(camera, 0))
    except StateError:
        return
    again = Ledger(tmp_path / "ledger")
    assert again.account(camera).counts().received == 1
    assert [account.camera for account in again.accounts()] == ["first", camera]
