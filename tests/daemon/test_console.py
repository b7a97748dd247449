"""What commands print is what was given to them."""

import pytest

from daemon import console


@pytest.mark.parametrize("told", ["no room in [/tmp/x]", "[kafka] refused it", "[red]sheep[/red]"])
def test_brackets_are_printed_as_they_are(told: str, capsys: pytest.CaptureFixture[str]) -> None:
    console.print_table(told, {told: told, "missing": None})
    heading, row, missing = (line.strip() for line in capsys.readouterr().out.splitlines())
    assert heading == told
    assert row.split(told) == ["", row[len(told) : -len(told)], ""]
    assert missing.split() == ["missing", "-"]
