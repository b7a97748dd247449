"""Frame ids that wrap, as numbers that only rise."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adapters.errors import SourceError
from adapters.sources.frame_numbers import Unwrapped


def test_gige_ids_go_from_65535_to_1() -> None:
    unwrapped = Unwrapped()
    ids = [65533, 65534, 65535, 1, 2]
    assert [unwrapped.number(id) for id in ids] == [65533, 65534, 65535, 65536, 65537]


def test_an_id_that_comes_again_has_its_number_again() -> None:
    unwrapped = Unwrapped()
    assert [unwrapped.number(id) for id in (7, 7, 9, 9)] == [7, 7, 9, 9]


def test_a_step_back_is_a_lower_number_and_no_loss_of_almost_a_cycle() -> None:
    unwrapped = Unwrapped()
    assert [unwrapped.number(id) for id in (65535, 2, 1, 3)] == [65535, 65537, 65536, 65538]


@given(
    form=st.sampled_from([(16, True), (16, False), (8, True), (4, False)]),
    first=st.integers(0, 65535),
    steps=st.lists(st.floats(0, 0.5), max_size=50),
)
@example(form=(16, True), first=65535, steps=[0.0, 0.5, 0.5])
def test_numbers_follow_a_count_that_never_wraps_with_losses_up_to_half_a_cycle(
    form: tuple[int, bool], first: int, steps: list[float]
) -> None:
    bits, skips_zero = form
    cycle = [id for id in range(1 << bits) if id or not skips_zero]
    unwrapped, exposed = Unwrapped(bits, skips_zero), first % len(cycle)
    start = cycle[exposed]
    assert unwrapped.number(start) == start
    begun = exposed
    for share in steps:
        exposed += 1 + int(share * (len(cycle) - 1))
        assert unwrapped.number(cycle[exposed % len(cycle)]) == start + exposed - begun


@pytest.mark.parametrize(
    ("bits", "skips_zero", "id"),
    [(16, True, 0), (16, True, 65536), (8, False, 256), (8, False, -1)],
)
def test_an_id_that_the_camera_cannot_have_given_is_a_source_error(
    bits: int, skips_zero: bool, id: int
) -> None:
    with pytest.raises(SourceError, match="is no frame id; expected"):
        Unwrapped(bits, skips_zero).number(id)
