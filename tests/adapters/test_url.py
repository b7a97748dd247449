"""A camera's URL: what is in it comes out, and what is wrong in it is named."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

import clearline
from adapters.errors import SourceUrlError
from adapters.url import CameraUrl


def parse(text: str) -> CameraUrl:
    return CameraUrl.parse(text)


@pytest.mark.parametrize(
    ("text", "scheme", "place", "options"),
    [
        ("simulated:woven", "simulated", "woven", {}),
        (
            "replay:/data/lot 3?fps=5&loop=true",
            "replay",
            "/data/lot 3",
            {"fps": "5", "loop": "true"},
        ),
        ("replay:lots/3", "replay", "lots/3", {}),
        ("rtsp://10.0.0.7:554/stream", "rtsp", "10.0.0.7:554/stream", {}),
        ("zmq+tcp://host:5555?topic=a", "zmq+tcp", "host:5555", {"topic": "a"}),
        ("gige://192.168.1.2", "gige", "192.168.1.2", {}),
        ("simulated:woven?seed=", "simulated", "woven", {"seed": ""}),
    ],
)
def test_scheme_place_and_options_come_apart(
    text: str, scheme: str, place: str, options: dict[str, str]
) -> None:
    url = parse(text)
    assert (url.text, url.scheme, url.place, url.options) == (text, scheme, place, options)


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.text(max_size=8)))
def test_every_option_comes_out_as_it_was_written(options: dict[str, str]) -> None:
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in options.items())
    assert parse(f"simulated:woven?{query}").options == options


@given(st.text(max_size=30))
def test_any_text_is_a_url_or_refused_in_one_line(text: str) -> None:
    refused: SourceUrlError | None = None
    try:
        assert parse(text).scheme
    except SourceUrlError as error:
        refused = error
    assert refused is None or ("\n" not in str(refused) and refused.expected)


@pytest.mark.parametrize(
    "text", ["", "woven", "/data/lot", "?fps=3", "simulated:woven?fps", "gige://[::1", "a:b?=&&"]
)
def test_what_is_no_url_is_refused_with_what_was_expected(text: str) -> None:
    with pytest.raises(SourceUrlError) as refused:
        parse(text)
    assert (refused.value.key, refused.value.value) == ("url", text)
    assert "kind:PLACE?option=value" in str(refused.value)
    assert refused.value.exit_code == 2


def test_a_place_with_a_number_sign_is_not_cut_off_in_silence() -> None:
    try:
        place = parse("replay:/data/lot#3").place
    except clearline.UsageError:
        return
    assert place == "/data/lot#3"


def test_an_option_given_twice_is_refused() -> None:
    with pytest.raises(SourceUrlError, match="fps"):
        parse("replay:/data?fps=5&fps=50")


def test_an_unknown_option_is_refused_with_those_that_are_known() -> None:
    url = parse("replay:/data?fsp=5")
    with pytest.raises(SourceUrlError, match=r"fsp = '5' is no option .*expected fps or loop"):
        url.allow("fps", "loop")
    parse("replay:/data?fps=5").allow("fps", "loop")


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "-inf", "1e999", "", "fast", "0x10", "5,5"])
def test_a_number_is_finite_and_from_zero(value: str) -> None:
    url = parse(f"replay:/data?fps={value}")
    with pytest.raises(SourceUrlError, match=r"fps = .*expected a number from 0") as refused:
        url.number("fps", 1.0)
    assert url.text in str(refused.value)


@pytest.mark.parametrize("value", ["-1", "1.5", "", "many", "1e3", "9" * 5000])
def test_a_whole_number_is_whole_and_from_zero(value: str) -> None:
    with pytest.raises(SourceUrlError, match=r"(?s)seed = .*expected a whole number from 0"):
        parse(f"simulated:woven?seed={value}").whole("seed", 1)


@pytest.mark.parametrize("value", ["True", "1", "", "yes"])
def test_a_flag_is_true_or_false(value: str) -> None:
    with pytest.raises(SourceUrlError, match=r"loop = .*expected true or false"):
        parse(f"replay:/data?loop={value}").flag("loop", default=False)


def test_options_have_their_values_or_their_defaults() -> None:
    url = parse("simulated:woven?fps=2.5&seed=7&strips=true")
    assert (url.number("fps", 1.0), url.whole("seed", 1), url.flag("strips", False)) == (
        2.5,
        7,
        True,
    )
    assert (url.number("no", 1.5), url.whole("no", 3), url.flag("no", True)) == (1.5, 3, True)
