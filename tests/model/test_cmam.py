"""Memory and gates do what section 3.4 prints, in the default and in the printed form."""

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch

from model.cmam import Cmam, Gates, Memory, shrink
from model.settings import PRINTED, MemorySettings

LATENT, ITEMS, ROWS = 16, 12, 5

Enliven = Callable[[torch.nn.Module], None]


def _codes(rows: int = ROWS) -> torch.Tensor:
    return torch.randn(rows, LATENT, generator=torch.Generator().manual_seed(1))


def _assert_close(got: torch.Tensor, expected: torch.Tensor) -> None:
    """Without torch.testing, whose import alone takes seconds."""
    assert got.dtype == expected.dtype
    np.testing.assert_allclose(got.detach(), expected.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("temperature", [10.0, 1.0])
def test_memory_addresses_shrinks_and_recalls_as_in_equations_2_to_4(
    paper: ModuleType, enliven: Enliven, temperature: float
) -> None:
    memory = Memory(MemorySettings(items=ITEMS, temperature=temperature), LATENT)
    enliven(memory)
    items = paper.numbers_of(memory)["items"]
    recalled = memory(_codes())
    for z, z_hat, weights in zip(_codes(), recalled.z_hat, recalled.weights, strict=True):
        expected = paper.shrink(paper.address(z.numpy().astype(float), items, temperature))
        np.testing.assert_allclose(weights.detach(), expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(z_hat.detach(), paper.recall(expected, items), atol=1e-5)
        assert 0 < (expected > 0).sum() < ITEMS, "the cut of eq. 3 must show"


def test_the_printed_form_is_temperature_1_and_softmax_gates() -> None:
    assert PRINTED.memory == MemorySettings(temperature=1.0, gates="softmax")
    assert MemorySettings() == MemorySettings(items=500, temperature=10.0, gates="sigmoid")


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_gates_forget_and_repair_as_in_equations_6_to_10(
    paper: ModuleType, enliven: Enliven, kind: str
) -> None:
    gates = Gates(MemorySettings.model_validate({"gates": kind}), LATENT)
    enliven(gates)
    z, z_hat = _codes(), _codes().flip(1)
    sigma = {"sigmoid": paper.sigmoid, "softmax": paper.softmax}[kind]
    for one, hat, repaired in zip(z, z_hat, gates(z, z_hat), strict=True):
        expected = paper.repair(one.numpy(), hat.numpy(), paper.numbers_of(gates), sigma)
        np.testing.assert_allclose(repaired.detach(), expected, atol=1e-5)


def test_the_module_gates_the_code_with_what_the_memory_recalls(enliven: Enliven) -> None:
    cmam = Cmam(MemorySettings(items=ITEMS), LATENT)
    enliven(cmam)
    code, weights = cmam(_codes())
    recalled = cmam.memory(_codes())
    _assert_close(code, cmam.gates(_codes(), recalled.z_hat))
    _assert_close(weights, recalled.weights)


@pytest.mark.parametrize("items", [2, 3, 8, 500, 2000])
def test_a_row_of_equal_items_falls_back_to_its_largest(items: int) -> None:
    equal = torch.full((2, items), 1.0 / items)
    assert shrink(equal).tolist() == [[1.0] + [0.0] * (items - 1)] * 2


def test_a_memory_of_equal_items_recalls_them() -> None:
    memory = Memory(MemorySettings(items=ITEMS), LATENT)
    torch.nn.init.ones_(memory.items)
    recalled = memory(_codes())
    _assert_close(recalled.z_hat, torch.ones(ROWS, LATENT))
    _assert_close(recalled.weights.sum(dim=1), torch.ones(ROWS))


@pytest.mark.parametrize("temperature", [0.01, 1.0, 10.0, 1000.0])
@pytest.mark.parametrize("items", [2, 500])
def test_rows_sum_to_one_and_hold_nothing_negative(temperature: float, items: int) -> None:
    memory = Memory(MemorySettings(items=items, temperature=temperature), LATENT)
    weights = memory(_codes(64)).weights
    _assert_close(weights.sum(dim=1), torch.ones(64))
    assert (weights >= 0).all()


@pytest.mark.parametrize("temperature", [0.01, 10.0, 1000.0])
def test_gradients_are_finite_where_weights_are_zero(temperature: float) -> None:
    cmam = Cmam(MemorySettings(items=500, temperature=temperature), LATENT)
    codes = _codes(64).requires_grad_()
    code, weights = cmam(codes)
    assert (weights == 0).any()
    torch.autograd.backward(code.square().sum() + weights.square().sum())
    for tensor in (codes, *cmam.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


def test_gradients_are_finite_in_a_row_that_shrinks_to_zero() -> None:
    equal = torch.full((1, 8), 1 / 8, requires_grad=True)
    torch.autograd.backward(shrink(equal).square().sum())
    assert equal.grad is not None
    assert equal.grad.isfinite().all()


def test_addressing_stays_in_float32_under_autocast(enliven: Enliven) -> None:
    """Eq. 3 divides by differences of the order of 1/N, which bfloat16 cannot tell apart."""
    memory = Memory(MemorySettings(items=500), LATENT)
    enliven(memory)
    expected = memory(_codes()).weights
    with torch.autocast("cpu", torch.bfloat16):
        weights = memory(_codes()).weights
    assert weights.dtype == torch.float32
    np.testing.assert_allclose(weights.detach(), expected.detach(), rtol=1e-5, atol=1e-7)


def test_the_recalled_code_comes_in_the_type_of_the_code() -> None:
    recalled = Memory(MemorySettings(items=ITEMS), LATENT)(_codes().bfloat16())
    assert recalled.z_hat.dtype == torch.bfloat16
    assert recalled.weights.dtype == torch.float32
