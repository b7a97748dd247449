"""Who is who: a line that cannot be put together says what is wrong, before anything starts."""

import contextlib
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import clearline
from adapters.errors import SourceUrlError
from daemon import wiring
from daemon.config import Configuration
from daemon.errors import ConfigurationError, StateError
from daemon.worker.rooms import Room
from model.errors import BundleError, CalibrationError

Configured = Callable[..., Configuration]


@pytest.fixture
def configured(tiny_files: Path, tmp_path: Path) -> Configured:
    def make(url: str = "simulated:woven", bundle: Path = tiny_files, **more: Any) -> Configuration:
        camera = {"url": url, **{k: more.pop(k) for k in list(more) if k.startswith("max_")}}
        return Configuration(
            cameras={"left": camera},  # type: ignore[dict-item]
            recipes={"default": {"bundle": bundle}},  # type: ignore[dict-item]
            **{"state_dir": tmp_path / "state", **more},
        )

    return make


async def refusal(settings: Configuration, kind: type[clearline.Error]) -> str:
    before = threading.active_count()
    with pytest.raises(kind) as refused:
        wiring.build(settings, Path("/base"), ())
    assert "\n" not in str(refused.value)
    assert refused.value.exit_code == 2
    assert threading.active_count() == before  # nothing was started that nobody ends
    return str(refused.value)


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("woven", "does not say what kind of camera"),
        ("laser:woven", "expected replay:… or simulated:…"),
        ("simulated:woven?fsp=3", "fsp = '3' is no option of a simulated camera"),
        ("simulated:silk", "kind = 'silk' is not possible; expected woven or grain or wood"),
        ("simulated:woven?width=8", "width = 8 is not possible; expected 64 to 16384"),
        ("simulated:woven?fps=fast", "fps = 'fast' is wrong"),
        ("replay:.?loop=yes", "loop = 'yes' is wrong"),
        ("replay:.?width=3", "expected fps or loop"),
        ("replay:lot?fps=3", "does not exist"),
        ("replay:", "does not exist"),
    ],
)
async def test_a_mistake_in_a_cameras_url_is_one_of_the_configuration(
    configured: Configured, url: str, part: str
) -> None:
    said = await refusal(configured(url), SourceUrlError)
    assert part in said
    assert url in said or "kind = " in said or "width = " in said


async def test_a_missing_bundle_is_named(configured: Configured, tmp_path: Path) -> None:
    missing = tmp_path / "none.safetensors"
    said = await refusal(configured(bundle=missing), BundleError)
    assert f"{missing}: does not exist; expected a bundle made by clearline train" in said


async def test_a_missing_calibration_is_named(
    configured: Configured, tiny_files: Path, tmp_path: Path
) -> None:
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes(tiny_files.read_bytes())  # noqa: ASYNC240
    said = await refusal(configured(bundle=alone), CalibrationError)
    assert "alone.calibration.json: cannot be read" in said


async def test_a_state_folder_that_cannot_be_written_is_refused(
    configured: Configured, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    said = await refusal(configured(state_dir=tmp_path / "file/state"), StateError)
    assert f"{tmp_path}/file/state: state_dir cannot be written to: Not a directory" in said


async def test_a_ledger_that_is_not_ours_is_refused(configured: Configured, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "ledger").write_bytes(b"not ours " * 2000)
    assert "ledger" in await refusal(configured(), StateError)


async def test_an_outbox_that_is_another_programs_is_refused(
    configured: Configured, tmp_path: Path
) -> None:
    (tmp_path / "state").mkdir()
    with contextlib.closing(sqlite3.connect(tmp_path / "state" / "outbox.sqlite")) as database:
        database.execute("CREATE TABLE theirs (what TEXT)")
    assert "outbox.sqlite: is another" in await refusal(configured(), StateError)


async def test_a_ring_that_no_machine_has_is_refused(configured: Configured) -> None:
    said = await refusal(configured(max_frame_bytes=1 << 30, max_fps=10_000), ConfigurationError)
    assert "max_frame_bytes" in said


async def test_a_ring_that_the_kernel_refuses_is_refused(
    configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not asked for in truth: other processes would be ended first."""

    def full(*_: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("daemon.worker.rooms.Ring.create", full)
    said = await refusal(configured(), ConfigurationError)
    assert "max_frame_bytes = '36 MiB' cannot be reserved: Cannot allocate memory" in said


def test_a_camera_gets_slots_for_its_deadline_and_three_more(configured: Configured) -> None:
    camera = configured(max_fps=30.0, max_frame_bytes=5000).cameras["left"]
    assert Room.of(camera) == Room(slots=9, frame_bytes=5000)  # ceil(30/s x 200 ms) + 3


async def test_a_second_line_on_one_state_folder_is_refused(configured: Configured) -> None:
    """Two would give each other's epochs again and close each other's frames as lost."""
    first = wiring.build(configured(), Path(), ())
    second = None
    try:
        with pytest.raises(StateError):
            second = wiring.build(configured(), Path(), ())
    finally:
        for service in (first, second):
            if service is not None:
                await service.stop()


MQTT = {"host": "127.0.0.1", "port": 1}


async def test_a_secret_that_cannot_be_read_is_named_before_anything_starts(
    configured: Configured, tmp_path: Path
) -> None:
    missing = tmp_path / "secret"
    said = await refusal(
        configured(mqtt={**MQTT, "username": "line", "password_file": missing}), ConfigurationError
    )
    assert said.startswith(f"{missing}: mqtt.password_file cannot be read")


@pytest.mark.parametrize("key", ["ca_file", "cert_file", "key_file"])
async def test_a_certificate_that_is_not_there_is_named(
    configured: Configured, tmp_path: Path, key: str
) -> None:
    files = {name: tmp_path / name for name in ("ca_file", "cert_file", "key_file")}
    for name, file in files.items():
        if name != key:
            file.touch()
    said = await refusal(configured(mqtt={**MQTT, **files}), ConfigurationError)
    assert f"mqtt.{key} = '{files[key]}' does not exist" in said
