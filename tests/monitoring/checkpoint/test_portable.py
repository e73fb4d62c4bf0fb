"""What a checkpoint may hold: it comes back equal, or it is refused before anything is written."""

from __future__ import annotations

import collections
import copy
import enum
import tempfile
import warnings
from collections import OrderedDict, UserDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spectral_exp.core.errors import SettingError
from spectral_exp.monitoring import CheckpointManager
from spectral_exp.monitoring.checkpoint.portable import portable_config, portable_state

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning:torch",
    "ignore:.*beta state",
    "ignore:.*prototype",
    "ignore:ComplexHalf",
    "ignore:.*torch.jit",
)


class Plain(torch.Tensor):
    """A subclass that adds nothing."""


class Scaled(torch.Tensor):
    """One whose instances have an attribute."""


class Color(str, enum.Enum):
    RED = "red"

    def __str__(self) -> str:
        return "a color"


class Level(enum.IntEnum):
    HIGH = 3


class Odd(enum.Enum):
    ONE = 1


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "something else"


Point = namedtuple("Point", "x y")


@dataclass
class Record:
    x: int = 1


def scaled() -> torch.Tensor:
    tensor = torch.ones(2).as_subclass(Scaled)
    tensor.scale = 2.0  # type: ignore[attr-defined]
    return tensor


def freed() -> torch.Tensor:
    tensor = torch.ones(4)
    tensor.untyped_storage().resize_(0)
    return tensor


DTYPES = [value for value in vars(torch).values() if isinstance(value, torch.dtype)]


def empty(dtype: torch.dtype) -> torch.Tensor:
    try:
        return torch.zeros(4, dtype=torch.uint8).view(torch.uint8).to(dtype)
    except (RuntimeError, NotImplementedError, TypeError):
        return torch.empty(3, dtype=dtype)


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of kinds of tensors that torch calls prototypes
    KEPT: dict[str, Any] = {
        "subclass": torch.randn(3).as_subclass(Plain),
        "subclass parameter": nn.Parameter(torch.randn(3).as_subclass(Plain)),
        "conjugate": torch.randn(3, dtype=torch.complex64).conj(),
        "negative": torch.randn(3, dtype=torch.complex64).conj().imag,
        "sparse": torch.eye(3).to_sparse(),
        "csr": torch.eye(3).to_sparse_csr(),
        "quantized": torch.quantize_per_tensor(torch.randn(3), 0.1, 0, torch.qint8),
        "expanded": torch.ones(1).expand(5),
        "transposed": torch.randn(2, 3).t(),
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(3),
        "string enumeration": Color.RED,
        "whole enumeration": Level.HIGH,
        "text": Text("text"),
        "surrogate": "\ud800",
        "named tuple": Point(1, 2.5),
        "size": torch.Size([2, 3]),
        "default": defaultdict(list, {"a": [1]}),
        "user mapping": UserDict({"a": 1}),
        "counter": collections.Counter("aab"),
        "numpy": [np.float32(0.5), np.int8(3), np.bool_(True), np.str_("x"), np.bytes_(b"x")],
        "long": 2**2000,
        "keys": {1: "a", (1, "b"): 2, None: 3, 2.5: 4, Color.RED: 5},
        "dtype": [torch.bfloat16, torch.device("cpu")],
        "bytes": [b"\x00\xff", b""],
        "infinite": [float("inf"), -0.0],
    }
    REFUSED: dict[str, Any] = {
        "attribute": scaled(),
        "meta": torch.empty(3, device="meta"),
        "freed": freed(),
        "lazy": nn.LazyLinear(3).weight,
        "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "jagged": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
        "mkldnn": torch.ones(2, 2).to_mkldnn(),
        "array": np.zeros(3),
        "object array": np.array([object()], dtype=object),
        "long double": np.longdouble(1) / 3,
        "complex": 1 + 2j,
        "decimal": Decimal("0.1"),
        "fraction": Fraction(1, 3),
        "set": {1, 2},
        "enumeration": Odd.ONE,
        "data class": Record(),
        "function": len,
        "module": nn.Linear(1, 1),
        "generator": torch.Generator(),
        "storage": torch.ones(2).untyped_storage(),
        "bytearray": bytearray(b"x"),
        "memoryview": memoryview(b"x"),
        "too long": 2**3000,
        "too long a key": {2**3000: 1},
        "tensor key": {torch.ones(1): 1},
        "tensor inside a key": {(torch.ones(1),): 1},
        "same keys": {"a": 1, Path("a"): 2},
    }


def equal(one: Any, other: Any) -> bool:
    """Equal in values; tensors also in type, shape and layout."""
    if isinstance(one, torch.Tensor):
        plain = (
            one.detach() if type(one) is torch.Tensor else one.detach().as_subclass(torch.Tensor)
        )
        if plain.layout == torch.strided and not plain.is_quantized:
            plain = plain.resolve_conj().resolve_neg()
        same = (
            type(other) is torch.Tensor
            and plain.dtype == other.dtype
            and plain.layout == other.layout
        )
        if plain.is_quantized:
            return same and torch.equal(plain.int_repr(), other.int_repr())
        if plain.layout != torch.strided:
            return same and torch.equal(plain.to_dense(), other.to_dense())
        return (
            same
            and plain.shape == other.shape
            and bool((plain.nan_to_num() == other.nan_to_num()).all())
        )
    if isinstance(one, dict | UserDict):
        return len(one) == len(other) and all(
            equal(value, other[key]) for key, value in one.items()
        )
    if isinstance(one, list | tuple | deque):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other) or (one != one and other != other)


def save_and_load(folder: Path, value: Any, background: bool = False) -> Any:
    """The value after a save and a load.

    Raises what the save raises, when nothing may have been written.
    """
    model = nn.Linear(1, 1)
    manager = CheckpointManager(folder, background=background)
    try:
        manager.save_checkpoint(
            1, model, torch.optim.SGD(model.parameters()), [], {}, extra={"value": value}
        )
        manager.wait()
    except BaseException:
        assert list(folder.iterdir()) == []
        raise
    state = CheckpointManager(folder).load_checkpoint(1)
    assert state is not None
    return state["value"]


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("name", KEPT)
def test_supported_values_come_back_equal(tmp_path: Path, name: str, background: bool) -> None:
    assert equal(KEPT[name], save_and_load(tmp_path, KEPT[name], background))


@pytest.mark.parametrize("name", REFUSED)
def test_unloadable_values_are_refused_before_writing(tmp_path: Path, name: str) -> None:
    for value in (REFUSED[name], {"inside": [REFUSED[name]]}):
        with pytest.raises(TypeError, match=r"(a key of )?extra\['value'\]"):
            save_and_load(tmp_path, value)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_comes_back_or_is_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    try:
        tensor = empty(dtype)
    except RuntimeError:
        pytest.skip("torch makes no tensor of it")
    try:
        loaded = save_and_load(tmp_path, tensor)
    except TypeError as error:
        assert str(dtype) in str(error)  # noqa: PT017 - either answer is right
        assert dtype not in {
            torch.float32,
            torch.bfloat16,
            torch.int64,
            torch.bool,
            torch.complex64,
            torch.float8_e5m2,
        }
    else:
        assert loaded.dtype == dtype
        assert bytes(loaded.untyped_storage()) == bytes(tensor.untyped_storage())


def test_a_refused_parameter_is_named(tmp_path: Path) -> None:
    model = nn.Module()
    model.register_buffer("scale", scaled())
    model.register_parameter("weight", nn.Parameter(torch.ones(1)))
    manager = CheckpointManager(tmp_path)
    optimizer = torch.optim.SGD(model.parameters())
    with pytest.raises(
        TypeError, match=r"model_state_dict\['scale'\] holds a Scaled with attributes \(scale\)"
    ):
        manager.save_checkpoint(1, model, optimizer, [], {})
    with pytest.raises(TypeError, match="loss_history holds values that are no numbers"):
        manager.save_checkpoint(1, nn.Linear(1, 1), optimizer, ["x"], {})  # type: ignore[list-item]
    with pytest.raises(SettingError, match="names, which are strings"):
        manager.save_checkpoint(1, nn.Linear(1, 1), optimizer, [], {}, extra={1: 2})  # type: ignore[dict-item]
    assert list(tmp_path.iterdir()) == []


def test_circular_values_are_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(TypeError, match="state is nested too deeply, or contains itself"):
        portable_state(endless, "state")
    with pytest.raises(TypeError, match="config is nested too deeply"):
        portable_config({"a": endless})


def by_name(name: str) -> Any:
    """One of the values above, which are not printed: that kills a process if a tensor has no
    memory."""
    return (KEPT | REFUSED)[name]


leaves = st.one_of(
    *(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(),
        st.binary(),
        st.sampled_from(DTYPES),
    ),
    st.sampled_from([*KEPT, *REFUSED]).map(by_name),
)
keys = st.one_of(
    st.text(max_size=3), st.integers(), st.floats(allow_nan=False), st.booleans(), st.none()
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(keys, inner, max_size=3),
        st.dictionaries(keys, inner, max_size=3).map(OrderedDict),
    ),
    max_leaves=6,
)


@settings(max_examples=20, deadline=None)
@given(values)
def test_any_state_comes_back_equal_or_is_refused(value: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            loaded = save_and_load(Path(folder), value)
        except TypeError as error:
            assert "extra['value']" in str(error)  # noqa: PT017 - either answer is right
        else:
            assert equal(value, loaded)


@settings(max_examples=20, deadline=None)
@given(values)
def test_any_configuration_is_kept_and_saved_again(value: Any) -> None:
    kept = portable_config({"value": value})
    assert kept == portable_config(copy.copy(kept)) or "nan" in repr(kept)
    model = nn.Linear(1, 1)
    with tempfile.TemporaryDirectory() as folder:
        manager = CheckpointManager(folder)
        for step in (1, 2):
            assert manager.save_checkpoint(
                step, model, torch.optim.SGD(model.parameters()), [], {"value": value}
            )
        assert manager.load_latest_checkpoint() is not None


def test_tensors_and_arrays_of_a_configuration_become_lists(tmp_path: Path) -> None:
    config = {
        "weights": torch.tensor([1.0, 2.0]),
        "array": np.arange(3),
        "large": torch.zeros(5000),
    }
    model = nn.Linear(1, 1)
    manager = CheckpointManager(tmp_path)
    for step in (1, 2):
        assert manager.save_checkpoint(step, model, torch.optim.SGD(model.parameters()), [], config)
    state = manager.load_checkpoint(2)
    assert state is not None
    large = "Tensor of shape (5000,), torch.float32"
    assert state["config"] == {"weights": [1.0, 2.0], "array": [0, 1, 2], "large": large}


class Compiled(nn.Module):
    """Wraps as `torch.compile` does, without the seconds that importing its compiler takes."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._orig_mod = module


class Net(nn.Module):
    """Two parts, which may be wrapped."""

    def __init__(self, wrap: str = "", compiled: Callable[[nn.Module], Any] = Compiled) -> None:
        super().__init__()
        self.module = nn.Linear(2, 2)  # a name that a wrapper uses too
        body: nn.Module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        if "inner" in wrap:
            inner: nn.Module = compiled(nn.BatchNorm1d(2))
            body = nn.Sequential(nn.Linear(2, 2), inner)
        if "parallel" in wrap:
            body = nn.DataParallel(body)
        if "compiled" in wrap:
            body = compiled(body)
        self.body = body


WRAPS = ["", "inner", "compiled", "parallel", "parallel compiled", "inner parallel compiled"]


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize(
    "compiled", [Compiled, pytest.param(torch.compile, marks=pytest.mark.slow)]
)
def test_wrappers_inside_a_model_leave_no_names(tmp_path: Path, wrap: str, compiled: Any) -> None:
    plain, model = Net(), Net(wrap, compiled)
    manager = CheckpointManager(tmp_path)
    manager.save_checkpoint(1, model, torch.optim.SGD(model.parameters()), [], {})
    state = manager.load_checkpoint(1)
    assert state is not None
    weights = state["model_state_dict"]
    assert list(weights) == list(plain.state_dict())
    plain.load_state_dict(weights)
    for other in WRAPS:
        fresh = Net(other, compiled)
        CheckpointManager.load_weights(compiled(fresh), weights)
        for one, two in zip(fresh.state_dict().values(), weights.values(), strict=True):
            assert torch.equal(one, two)
    with pytest.raises(RuntimeError, match="Missing key"):
        CheckpointManager.load_weights(Net("compiled"), {"body.0.weight": torch.ones(2, 2)})
