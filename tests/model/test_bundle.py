"""A bundle comes back as it was saved or is refused by name, whatever happened to its file."""

import ast
import json
import pickle
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from safetensors import safe_open

from model import bundle
from model.bundle import Bundle
from model.engine import restore
from model.errors import BundleError
from model.settings import MemorySettings, ModelSettings

PACKAGES = ("adapters", "daemon", "model", "training")


def _bundle() -> Bundle:
    """Small enough to break at every single bit. A count without axes, as batch-norms have."""
    random = np.random.default_rng(1)
    return Bundle(
        settings=ModelSettings(stride=32),
        weights={
            "a": random.normal(size=(2, 3)).astype(np.float32),
            "count": np.array(7, np.int64),
        },
        golden_pixels=random.integers(0, 256, (1, 2, 2, 1), np.uint8),
        golden_scores=np.array([0.5], np.float32),
        report={"loss": 0.25, "steps": 300},
        fingerprints=frozenset({"ab12", "cd34"}),
        versions={"torch": "2"},
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "wood.safetensors"
    _bundle().save(path)
    return path


def _assert_same(left: Bundle, right: Bundle) -> None:
    assert left.hash == right.hash
    for name in ("settings", "report", "fingerprints", "versions"):
        assert getattr(left, name) == getattr(right, name)
    assert left.weights.keys() == right.weights.keys()
    pairs = [(left.weights[name], right.weights[name]) for name in left.weights]
    pairs += [(left.golden_pixels, right.golden_pixels), (left.golden_scores, right.golden_scores)]
    for one, other in pairs:
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def _refusal(path: Path) -> str:
    """One line that names the file and what was expected of it."""
    with pytest.raises(BundleError) as caught:
        bundle.load(path)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"{path}: ")
    assert "; expected " in line
    return line


def _read(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    with safe_open(path, framework="numpy") as file:
        return dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _rewrite(path: Path, **changed: str) -> None:
    """The same file with other metadata, and the hash that it had."""
    metadata, tensors = _read(path)
    path.write_bytes(safetensors.numpy.save(tensors, metadata | changed))


# As it was saved


def test_it_comes_back_as_it_was_saved(saved: Path) -> None:
    _assert_same(bundle.load(saved), _bundle())


def test_a_whole_model_comes_back_as_it_was_saved(tiny_bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    tiny_bundle.save(path)
    _assert_same(bundle.load(path), tiny_bundle)


def test_weights_come_back_however_they_lie_in_memory(tmp_path: Path) -> None:
    values = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    last = torch.from_numpy(values).to(memory_format=torch.channels_last).numpy()
    lying = {
        "channels last": last,
        "fortran": np.asfortranarray(values),
        "every second": np.repeat(values, 2, axis=3)[..., ::2],
        "backwards": values[::-1].copy()[::-1],
    }
    assert not any(tensor.flags.c_contiguous for tensor in lying.values())
    path = tmp_path / "b.safetensors"
    made = replace(_bundle(), weights=lying)
    made.save(path)
    _assert_same(bundle.load(path), made)
    for tensor in bundle.load(path).weights.values():
        np.testing.assert_array_equal(tensor, values)


def test_the_hash_tells_what_is_in_it_not_how_it_lies_in_memory() -> None:
    made = _bundle()
    turned = dict(made.weights) | {"a": np.asfortranarray(made.weights["a"])}
    assert replace(made, weights=turned).hash == made.hash


def test_the_hash_changes_with_everything() -> None:
    made = _bundle()
    changes: dict[str, Any] = {
        "settings": ModelSettings(stride=33),
        "weights": dict(made.weights) | {"a": np.nextafter(made.weights["a"], np.float32(1))},
        "golden_pixels": made.golden_pixels ^ 1,
        "golden_scores": made.golden_scores * 2,
        "report": {},
        "fingerprints": frozenset({"ab12"}),
        "versions": {"torch": "3"},
    }
    assert changes.keys() == {field.name for field in fields(Bundle) if field.init}
    hashes = {replace(made, **{name: value}).hash for name, value in changes.items()}
    assert len(hashes | {made.hash}) == len(changes) + 1


# Damaged


def test_a_bundle_cut_anywhere_is_refused(saved: Path) -> None:
    content = saved.read_bytes()
    for length in range(len(content)):
        saved.write_bytes(content[:length])
        _refusal(saved)


def test_a_bundle_with_any_single_bit_flipped_is_refused(saved: Path) -> None:
    content = saved.read_bytes()
    for offset in range(len(content)):
        for bit in range(8):
            broken = bytearray(content)
            broken[offset] ^= 1 << bit
            saved.write_bytes(broken)
            _refusal(saved)


def test_a_bundle_with_any_byte_inverted_is_refused(saved: Path) -> None:
    content = saved.read_bytes()
    for offset in range(len(content)):
        broken = bytearray(content)
        broken[offset] ^= 0xFF
        saved.write_bytes(broken)
        _refusal(saved)


@pytest.mark.parametrize("length", [0, 7, 8, 9, 1000, 100_000])
def test_a_real_bundle_that_is_truncated_is_refused(
    tiny_bundle: Bundle, tmp_path: Path, length: int
) -> None:
    path = tmp_path / "tiny.safetensors"
    tiny_bundle.save(path)
    with path.open("r+b") as file:
        file.truncate(length)
    _refusal(path)
    tiny_bundle.save(path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - length - 1)
    _refusal(path)


def test_a_bundle_with_something_behind_its_end_is_refused(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes() + b"\0")
    _refusal(saved)


def test_another_hash_is_refused_by_both(saved: Path) -> None:
    _rewrite(saved, hash="f" * 64)
    line = _refusal(saved)
    assert "hash = 'ffffffffffff' has been changed" in line
    assert _bundle().hash[:12] in line


@pytest.mark.parametrize("lost", ["golden.pixels", "golden.scores", "weight.a", "weight.count"])
def test_a_missing_tensor_is_refused(saved: Path, lost: str) -> None:
    metadata, tensors = _read(saved)
    del tensors[lost]
    saved.write_bytes(safetensors.numpy.save(tensors, metadata))
    _refusal(saved)


@pytest.mark.parametrize("lost", ["settings", "report", "fingerprints", "versions", "hash"])
def test_missing_metadata_are_refused(saved: Path, lost: str) -> None:
    metadata, tensors = _read(saved)
    del metadata[lost]
    saved.write_bytes(safetensors.numpy.save(tensors, metadata))
    _refusal(saved)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("settings", '{"stride": "x"}'),
        ("settings", '{"strides": 64, "whites": 255}'),
        ("settings", "[]"),
        ("settings", ""),
        ("report", "{"),
        ("report", "[" * 100_000),
        ("fingerprints", "5"),
        ("fingerprints", "null"),
        ("fingerprints", "[[1]]"),
        ("versions", "two"),
    ],
    ids=lambda text: text[:12],
)
def test_damaged_metadata_are_refused_in_one_line(saved: Path, key: str, value: str) -> None:
    _rewrite(saved, **{key: value})
    _refusal(saved)


def _reformatted(path: Path) -> None:
    _rewrite(path, report=json.dumps(_bundle().report, indent=1))


def _reordered(path: Path) -> None:
    _rewrite(path, settings=json.dumps(dict(reversed(_bundle().settings.model_dump().items()))))


def _with_more_metadata(path: Path) -> None:
    _rewrite(path, note="trust me")


def _with_another_tensor(path: Path) -> None:
    metadata, tensors = _read(path)
    tensors["extra"] = np.zeros(3, np.float32)
    path.write_bytes(safetensors.numpy.save(tensors, metadata))


@pytest.mark.parametrize(
    "change", [_reformatted, _reordered, _with_more_metadata, _with_another_tensor]
)
def test_a_change_that_leaves_model_and_settings_alone_is_noticed_as_well(
    saved: Path, change: Callable[[Path], None]
) -> None:
    """load promises every byte as it was saved, not only those that mean something to it."""
    change(saved)
    _refusal(saved)


# Not ours


@pytest.mark.parametrize("version", ["0", "2", "1.0", ""])
def test_another_format_version_is_refused_by_its_number(saved: Path, version: str) -> None:
    _rewrite(saved, version=version)
    assert f"version = {version!r} is of another format version; expected 1" in _refusal(saved)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn], ids=str
)
def test_a_foreign_safetensors_file_is_refused_as_no_bundle(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    path = tmp_path / "foreign.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(3).to(dtype)}, path)
    _refusal(path)
    safetensors.torch.save_file({"weight": torch.zeros(3).to(dtype)}, path, {"format": "pt"})
    assert "is not a Clearline bundle; expected format clearline-bundle" in _refusal(path)


class _Trap:
    """Leaves a file where it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.witness,)


@pytest.mark.parametrize(
    "write", [torch.save, lambda trap, path: path.write_bytes(pickle.dumps(trap))]
)
def test_a_pickle_is_refused_and_never_run(tmp_path: Path, write: Callable[..., object]) -> None:
    path, witness = tmp_path / "evil.safetensors", tmp_path / "witness"
    write(_Trap(witness), path)
    _refusal(path)
    assert not witness.exists()


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"\0" * 4096, b"{}", b"\x89PNG\r\n\x1a\n" * 9])
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "b.safetensors"
    path.write_bytes(content)
    _refusal(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert "does not exist" in _refusal(tmp_path / "none.safetensors")
    _refusal(tmp_path)


def _without(weights: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {key: tensor for key, tensor in weights.items() if key != name}


def test_weights_that_do_not_fit_the_settings_are_refused(tiny_bundle: Bundle) -> None:
    weights = dict(tiny_bundle.weights)
    name = "cmam.gates.forget.weight"
    for unfit in (
        _without(weights, name),
        weights | {"another": weights[name]},
        weights | {name: weights[name][:, :-1]},
    ):
        with pytest.raises(BundleError, match="weights that do not fit its settings") as caught:
            restore(tiny_bundle.settings, unfit)
        assert "\n" not in str(caught.value)
    other = tiny_bundle.settings.model_copy(update={"memory": MemorySettings(items=9)})
    with pytest.raises(BundleError, match=r"cmam\.memory\.items"):
        restore(other, weights)


# Nowhere a pickle


def _dangers(source: str) -> set[str]:
    """Whatever in a source could read or write a pickle."""
    modules = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    found = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found |= {alias.name for alias in names} & modules
            case ast.ImportFrom(module=module, names=names):
                found |= {str(module)} & modules
                if module == "torch":
                    found |= {alias.name for alias in names} & {"load", "save"}
            case ast.Attribute(value=ast.Name(id="torch"), attr="load" | "save" as name):
                found.add(f"torch.{name}")
            case ast.keyword(arg="allow_pickle", value=value):
                if not (isinstance(value, ast.Constant) and value.value is False):
                    found.add("allow_pickle")
    return found


def test_no_source_reads_or_writes_a_pickle() -> None:
    root = Path(bundle.__file__).parents[1]
    sources = [path for package in PACKAGES for path in (root / package).rglob("*.py")]
    assert len(sources) > len(PACKAGES)
    assert {str(path): d for path in sources if (d := _dangers(path.read_text()))} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "from torch import load",
        "torch.save(x, f)",
        "m = torch.load(f, weights_only=True)",
        "np.load(f, allow_pickle=True)",
        "np.load(f, allow_pickle=given)",
    ],
)
def test_the_search_for_pickles_finds_them(source: str) -> None:
    assert _dangers(source)
