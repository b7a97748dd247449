"""A kill in the middle of a picture: none is torn under its name, and the next start tidies up."""

import signal
import subprocess
import sys
from pathlib import Path

from adapters.evidence_files import Provenance, read_record
from daemon.records.evidence import Evidence
from daemon.records.pictures import Keeping
from daemon.worker.ring import Ring

KEEPING = Keeping("png", "jpeg", 1 << 30, 24.0)
BY = {"": Provenance("cloth", "b" * 64, "c" * 64, "d" * 64, "float32")}

# The fourth picture is half written when the process dies.
CHILD = """
import os, signal, sys, time
from pathlib import Path
from adapters.ports import Exposure, Frame, FrameFormat, FrameId
from daemon.records.evidence import Evidence
from daemon.worker.protocol import Result
from daemon.worker.ring import Ring
from model.judgement import Judgement
from test_evidence_killed import BY, KEEPING

whole, written = Path.write_bytes, []
def write_bytes(path, content):
    written.append(path)
    if len(written) == 4:
        whole(path, bytes(content)[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(path, content)
Path.write_bytes = write_bytes

form = FrameFormat(64, 80, 1, "uint8")
ring = Ring.create([form.nbytes])
evidence = Evidence(Path(sys.argv[1]), KEEPING, Path(sys.argv[1]), ring, BY)
for k in range(3):
    frame = Frame(Exposure(FrameId("line", "left", 1, k), 0, time.time_ns(), 0, 0), form, 0)
    evidence.keep(frame, Result(0.9, 0.5, Judgement.DEFECT, ()), "cpu")
    evidence.take(frame, lambda: None)
evidence.close()
"""


def test_a_killed_daemon_leaves_no_torn_picture_and_what_it_left_is_removed(
    tmp_path: Path,
) -> None:
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[3])]
    died = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths}\n{CHILD}", tmp_path],
        timeout=60,
        check=False,
    )
    assert died.returncode == -signal.SIGKILL
    left = list(tmp_path.glob(".*"))
    assert [p.name for p in left] == [".left-1-00000001.crop.jpg.part"]
    (tmp_path / ".someone-elses.part").touch()
    whole = sorted(set(tmp_path.iterdir()) - {*left, tmp_path / ".someone-elses.part"})
    assert [read_record(p).sequence for p in whole] == [0, 0, 0]
    ring = Ring.create([4096])
    (tmp_path / "aside").mkdir()
    (tmp_path / "aside/.left-1-00000002.png.part").touch()
    Evidence(tmp_path, KEEPING, tmp_path / "aside", ring, BY).close()
    ring.close()
    assert not list((tmp_path / "aside").iterdir())
    (tmp_path / "aside").rmdir()
    assert set(tmp_path.iterdir()) == {*whole, tmp_path / ".someone-elses.part"}
