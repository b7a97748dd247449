"""The configuration: what is wrong in it is one line with file, key and value."""

from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.config import Configuration, load
from daemon.errors import ConfigurationError

GOOD = """
site = "mill"
line = "line3"
[cameras.left]
url = "simulated:woven"
[recipes.default]
bundle = "models/foil.safetensors"
"""
Written = Callable[[str], Path]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    def write(text: str) -> Path:
        path = tmp_path / "line.toml"
        path.write_text(text)
        return path

    return write


def refusal(path: Path) -> str:
    with pytest.raises(ConfigurationError) as refused:
        load(path)
    text = str(refused.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    assert refused.value.exit_code == 2
    return text.removeprefix(f"{path}: ")


def test_what_is_not_said_has_its_default(written: Written) -> None:
    settings = load(written(GOOD))
    left = settings.cameras["left"]
    assert (settings.site, settings.line) == ("mill", "line3")
    assert (left.deadline_ms, left.max_fps, left.max_frame_bytes) == (200.0, 30.0, 4 << 20)
    assert (settings.worker.batch_frames, settings.log.level) == (8, "info")


def test_paths_are_relative_to_the_file(written: Written, tmp_path: Path) -> None:
    text = (
        'state_dir = "state"\n' + GOOD + 'calibration = "/abs/c.json"\n'
        '[events]\njsonl = "out/e.jsonl"\n[evidence]\nfolder = "pictures"\n'
    )
    settings = load(written(text))
    recipe = settings.recipes["default"]
    assert settings.state_dir == tmp_path / "state"
    assert recipe.bundle == tmp_path / "models/foil.safetensors"
    assert recipe.calibration_path == Path("/abs/c.json")
    assert settings.events.jsonl == tmp_path / "out/e.jsonl"
    assert settings.evidence.folder == tmp_path / "pictures"
    beside = load(written(GOOD)).recipes["default"].calibration_path
    assert beside == tmp_path / "models/foil.calibration.json"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("speed = 3\n" + GOOD, ["speed is no key that is known here"]),
        (GOOD.replace("url", "fps = 3\nurl"), ["cameras.left.fps is no key that is known here"]),
        (GOOD + "[worker]\nbatch = 8\n", ["worker.batch is no key that is known here"]),
        (GOOD.replace("url", 'deadline_ms = "soon"\nurl'),
         ["cameras.left.deadline_ms = 'soon' ", "valid number"]),
        (GOOD.replace('"simulated:woven"', "7"), ["cameras.left.url = 7 ", "valid string"]),
        (GOOD.replace("url", "deadline_ms = 0\nurl"),
         ["cameras.left.deadline_ms = 0", "greater than 0"]),
        (GOOD.replace("url", "deadline_ms = inf\nurl"),
         ["cameras.left.deadline_ms = inf", "finite"]),
        (GOOD.replace("url", "max_frame_bytes = 1\nurl"),
         ["cameras.left.max_frame_bytes = 1 ", "greater than or equal to 4096"]),
        (GOOD + "[worker]\nbatch_frames = 65\n", ["worker.batch_frames = 65 ", "equal to 64"]),
        (GOOD + '[log]\nlevel = "loud"\n', ["log.level = 'loud' ", "'debug', 'info'"]),
        ("drain_seconds = nan\n" + GOOD, ["drain_seconds = nan "]),
        ("drain_seconds = inf\n" + GOOD, ["drain_seconds = inf "]),
        (GOOD.replace("mill", "my mill"), ["site = 'my mill' ", "pattern"]),
        (GOOD.replace("url", 'recipe = "gold"\nurl'),
         ["cameras.left.recipe = 'gold' ", "none of default"]),
        (GOOD.replace("[cameras.left]\nurl", "[other]\nurl"),
         ["other is no key that is known here"]),
        (GOOD.replace("[cameras.left]\n", "[cameras]\n"), ["cameras.url"]),
        (GOOD.replace('[cameras.left]\nurl = "simulated:woven"', "[cameras]"),
         ["cameras = {} ", "at least 1"]),
        (GOOD.replace('url = "simulated:woven"', ""), ["cameras.left.url is missing"]),
        (GOOD.split("[recipes")[0], ["recipes is missing"]),
        ("", ["cameras is missing"]),
        (GOOD.replace("bundle", 'calibration = "c"\n#'), ["recipes.default.bundle is missing"]),
        (GOOD.replace("cameras.left", 'cameras."a/b"'), ["a/b"]),
        (GOOD.replace("cameras.left", 'cameras.""'), ["cameras"]),
        ("_env_file = 'x'\n" + GOOD, ["_env_file"]),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_key_and_value_and_what_was_expected(
    written: Written, text: str, parts: list[str]
) -> None:
    said = refusal(written(text))
    for part in parts:
        assert part in said


def test_what_is_no_toml_is_refused_with_the_place(written: Written, tmp_path: Path) -> None:
    assert "line 1" in refusal(written("cameras = = 3"))
    (tmp_path / "line.toml").write_bytes(b"\xff\xfe")
    assert "is no TOML" in refusal(tmp_path / "line.toml")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.toml") == (
        "cannot be read: No such file or directory; expected a TOML file"
    )
    assert "Is a directory" in refusal(tmp_path)


def test_the_environment_goes_over_the_file(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLEARLINE_CAMERAS__LEFT__DEADLINE_MS", "50")
    monkeypatch.setenv("CLEARLINE_WORKER__DEVICE", "cpu")
    monkeypatch.setenv("CLEARLINE_LINE", "line9")
    settings = load(written(GOOD))
    assert settings.cameras["left"].deadline_ms == 50
    assert settings.cameras["left"].url == "simulated:woven"
    assert (settings.worker.device, settings.line) == ("cpu", "line9")


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        (
            "CLEARLINE_CAMERAS__LEFT__DEADLINE_MS",
            "soon",
            "CLEARLINE_CAMERAS__LEFT__DEADLINE_MS in the environment = 'soon' is wrong",
        ),
        ("CLEARLINE_CAMERAS__LEFT__DEADLIN_MS", "50", "cameras.left.deadlin_ms is no key"),
        ("CLEARLINE_WORKER", "cpu", 'parsing value for field "worker"'),
        ("CLEARLINE_CAMERAS", "{", 'parsing value for field "cameras"'),
        ("CLEARLINE_LNIE", "x", "CLEARLINE_LNIE names no key that is known here"),
    ],
)
def test_a_mistake_in_the_environment_is_refused_by_its_name(
    written: Written, monkeypatch: pytest.MonkeyPatch, name: str, value: str, part: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as refused:
        load(written(GOOD))
    assert part in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_camera_name_has_no_capitals_which_the_environment_could_not_name(
    written: Written,
) -> None:
    assert "cameras.Left" in refusal(written(GOOD.replace("[cameras.left]", "[cameras.Left]")))


def test_it_cannot_be_changed_afterwards(written: Written) -> None:
    settings: Configuration = load(written(GOOD))
    with pytest.raises(ValueError, match="frozen"):
        settings.line = "other"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ('base = "works/#"', "base must be a topic"),
        ('base = "two words"', "mqtt.base = 'two words' is wrong"),
        (f'base = "{"x" * 65}"', "is wrong"),
        ('password_file = "secret"', "password_file is of no use without username"),
        ('cert_file = "a"\nkey_file = "b"', "cert_file is of no use without ca_file"),
        ('ca_file = "c"\ncert_file = "a"', "cert_file and key_file go together"),
        ('byte_order = "middle"', "mqtt.byte_order = 'middle' is wrong"),
    ],
)
def test_a_road_to_the_plc_that_cannot_be_is_refused(
    written: Written, said: str, expected: str
) -> None:
    assert expected in refusal(written(f'{GOOD}[mqtt]\nhost = "broker"\n{said}\n'))


def test_cameras_have_numbers_by_their_place_or_as_they_are_named(written: Written) -> None:
    second = '[cameras.second]\nurl = "simulated:wood"\nnumber = '
    settings = load(written(f"{GOOD}{second}7\n"))
    assert settings.camera_numbers() == {"left": 1, "second": 7}
    assert "numbers of their own" in refusal(written(f"{GOOD}{second}1\n"))
