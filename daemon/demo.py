"""`clearline demo`: the main job on a product that does not exist, with the commands a user gives.

It writes pictures of a simulated product, trains and calibrates by the ordinary commands, runs the
ordinary daemon on simulated cameras, and then compares the verdicts with the truth.
"""

import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scipy import stats

import clearline
from adapters.image_files import write_image
from adapters.ports import Outcome, Verdict
from adapters.sources.product import SimulatedProduct
from adapters.url import CameraUrl
from daemon import config, console, edges, logs
from daemon.config import LogSettings
from daemon.deadlines import percentile
from daemon.errors import StateError
from daemon.records.ledger import Counts, Ledger
from daemon.running import live
from daemon.watch.terminal import Watch
from model import calibration as calibrations
from model.calibration import Calibration

NORMAL_IMAGES = 500
CAMERAS = ("left", "right")
FALSE_REJECT_RATE = 0.01
DEFECT_RATE = 0.1
CONTRAST = 2.5  # a model of 80 seconds needs stronger defects than the usual ones
DEADLINE_MS = 1000
MOST_FPS = 5.0  # of each camera; less where the machine is slow
LOAD = 0.5  # of what the machine was measured to give
SURE = 0.99  # how seldom a sound line would have more false rejects than the bound

# A short training in small, quick steps: 80 s on two cores, and under two minutes on any.
SETTINGS = """\
[training]
batch = 32
learning_rate = 1e-3
stage1_steps = 350
stage2_steps = 150
check_every = 50
minutes = 1.7
calibration_share = 0.8
anomalies.gaaga = "rich"
"""


def run_demo(frames: int, keep: Path | None, *, as_json: bool) -> None:
    """`frames` over all cameras, 0 until Ctrl-C. Raises clearline.Error where a step failed."""
    logs.configure(LogSettings(format="text", level="warning"))
    with _folder(keep) as folder:
        bundle, data = folder / "grain.safetensors", folder / "data"
        _write_product(data)
        (folder / "training.toml").write_text(SETTINGS)
        _command("train", data, "--out", bundle, "--settings", folder / "training.toml")
        calibrated = _command(
            "calibrate", bundle, data, "--false-reject-rate", FALSE_REJECT_RATE, "--json"
        )
        fps = min(MOST_FPS, LOAD * 1000 / calibrated["ms_per_image"] / len(CAMERAS))
        (folder / "line.toml").write_text(_line(frames, fps, evidence=keep is not None))
        _say("run", folder / "line.toml")
        truth = _Truth()
        watch = None if as_json else Watch()
        settings = config.load(folder / "line.toml")
        asyncio.run(live(settings, folder / "line.toml", watch, (truth,)))
        counts = {a.camera: a.counts() for a in Ledger(folder / "state" / "ledger").accounts()}
        result = _result(counts, truth, calibrations.load(calibrations.beside(bundle)))
    if as_json:
        console.print_json(result)
    else:
        console.print_table("against the truth", result)
        if keep is not None:
            console.remarks.print(f"bundle, calibration, events and pictures are in {keep}")


class StepError(clearline.Error):
    """One of the demonstration's commands failed; it ends with that command's exit code."""

    def __init__(self, problem: str, exit_code: int) -> None:
        super().__init__(problem)
        self.exit_code = exit_code


class _Truth:
    """A verdict sink that compares every verdict with what the camera really showed."""

    def __init__(self) -> None:
        self._products = {name: _product(index) for index, name in enumerate(CAMERAS)}
        self.told: Counter[tuple[bool, Outcome]] = Counter()
        """How many parts, by (defective, outcome)."""
        self.latencies_ms: deque[float] = deque(maxlen=100_000)

    def tell(self, verdict: Verdict) -> None:
        frame = verdict.exposure.id
        defective = self._products[frame.camera].part(frame.sequence).defect is not None
        self.told[defective, verdict.outcome] += 1
        if verdict.outcome is not Outcome.UNINSPECTED:
            self.latencies_ms.append(verdict.latency_ms)


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="clearline-demo-") as made:
            yield Path(made)
        return
    try:
        keep.mkdir(parents=True, exist_ok=True)
        if any(keep.iterdir()):
            raise StateError(
                "is not empty", file=keep, key="keep", expected="a new or empty folder"
            )
    except OSError as error:
        raise StateError(
            f"cannot be used: {error.strerror}", file=keep, key="keep", expected="a folder"
        ) from error
    yield keep.resolve()


def _write_product(data: Path) -> None:
    """Normal parts only, as the training needs them; the line shows others, of another seed."""
    product = SimulatedProduct("grain", 256, 256, seed=1)
    with console.progress() as bars:
        for number in range(NORMAL_IMAGES):
            path = data / "train" / "good" / f"{number:04d}.png"
            write_image(path, product.part(number).pixels)
            bars.watch("photographing", number + 1, NORMAL_IMAGES)


def _camera_url(index: int, fps: float, frames: int) -> str:
    return (
        f"simulated:grain?width=256&height=256&seed={2 + index}&defect_rate={DEFECT_RATE}"
        f"&contrast={CONTRAST}&fps={fps:.2f}&frames={frames}"
    )


def _line(frames: int, fps: float, *, evidence: bool) -> str:
    """The configuration of the demonstration's line, as TOML."""
    shares = [frames // len(CAMERAS) + (i < frames % len(CAMERAS)) for i in range(len(CAMERAS))]
    cameras = "".join(
        f'\n[cameras.{name}]\nurl = "{_camera_url(index, fps, share)}"\n'
        f"deadline_ms = {DEADLINE_MS}\nmm_per_px = 0.1\n"
        for index, (name, share) in enumerate(zip(CAMERAS, shares, strict=True))
        if share or not frames
    )
    pictures = '\n[evidence]\nfolder = "pictures"\n' if evidence else ""
    return (
        'line = "demo"\nstate_dir = "state"\n'
        '\n[recipes.default]\nbundle = "grain.safetensors"\n'
        f'\n[events]\njsonl = "events.jsonl"\n{pictures}{cameras}'
    )


def _say(*words: object) -> None:
    console.remarks.print(
        f"[bold]$ clearline {' '.join(str(word) for word in words)}", soft_wrap=True
    )


def _command(*words: object) -> dict[str, Any]:
    """One of our own commands in a process of its own: this one never holds torch."""
    _say(*words)
    command = [sys.executable, "-m", "daemon.cli", *(str(word) for word in words)]
    wants_json = "--json" in command
    ended = subprocess.run(
        command, stdout=subprocess.PIPE if wants_json else sys.stderr, text=True, check=False
    )
    if ended.returncode != 0:
        raise StepError(f"clearline {words[0]} failed, as said above", ended.returncode)
    return dict(json.loads(ended.stdout)) if wants_json else {}


def _result(counts: dict[str, Counts], truth: _Truth, calibration: Calibration) -> dict[str, Any]:
    """What came out, against the truth. Recall and false rejects are of what was judged."""
    caught, missed = truth.told[True, Outcome.DEFECT], truth.told[True, Outcome.OK]
    passed, false_rejects = truth.told[False, Outcome.OK], truth.told[False, Outcome.DEFECT]
    good = passed + false_rejects
    return {
        "received": sum(c.received for c in counts.values()),
        "ok": sum(c.ok for c in counts.values()),
        "defect": sum(c.defect for c in counts.values()),
        "uninspected": sum(sum(c.uninspected.values()) for c in counts.values()),
        "in_flight": sum(c.in_flight for c in counts.values()),
        "recall": caught / (caught + missed) if caught + missed else None,
        "defects_caught": caught,
        "defects_missed": missed,
        "defects_uninspected": truth.told[True, Outcome.UNINSPECTED],
        "false_rejects": false_rejects,
        "false_reject_rate": false_rejects / good if good else None,
        "false_reject_budget": calibration.false_reject_rate,
        "false_reject_bound": int(stats.binom.ppf(SURE, good, calibration.bound)),
        "latency_ms_p50": round(percentile(truth.latencies_ms, 50), 1),
        "latency_ms_p99": round(percentile(truth.latencies_ms, 99), 1),
    }


def _product(index: int) -> SimulatedProduct:
    return edges.simulated_product(CameraUrl.parse(_camera_url(index, 1.0, 0)))
