"""What this version of torch does under the private names that monitoring uses, and that no other
file uses any."""

from __future__ import annotations

import ast
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import spectral_exp.monitoring
from spectral_exp.monitoring import torch_private

MONITORING = Path(spectral_exp.monitoring.__file__).parent
ATTRIBUTES = {
    "_C", "_utils", "_version", "_cdata", "_metadata", "_orig_mod", "_untyped_storage", "_size",
    "_pickle_storage_type", "_python_dispatch", "_is_param", "_is_buffer",
}  # fmt: skip


def private_names(source: str) -> Iterator[str]:
    """The private names of torch in a file: attributes, strings for `getattr`, and imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in ATTRIBUTES:
            if ast.unparse(node.value) != "self":
                yield node.attr
        elif isinstance(node, ast.Constant) and node.value in ATTRIBUTES:
            yield str(node.value)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch"):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            yield from (name for name in names if name.startswith("_"))


def test_one_file_uses_private_names() -> None:
    used = {path.name: [*private_names(path.read_text())] for path in MONITORING.rglob("*.py")}
    assert [name for name, names in used.items() if names] == ["torch_private.py"]
    assert set(used["torch_private.py"]) >= {"_cdata", "_version", "_metadata", "_orig_mod", "_C"}


def test_storages() -> None:
    tensor = torch.arange(6, dtype=torch.float32)
    storage = tensor.untyped_storage()
    same, other = tensor[2:].untyped_storage(), tensor.clone().untyped_storage()
    ids = [torch_private.storage_id(each) for each in (storage, same, other)]
    assert ids[0] == ids[1] != ids[2]
    assert torch_private.storage_class(torch.float32) is torch.FloatStorage
    assert torch_private.storage_class(torch.uint16) is None
    typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)  # type: ignore[no-untyped-call]
    inside, n_elements = torch_private.storage_in(typed)
    assert (torch_private.storage_id(inside), n_elements) == (ids[0], 6)
    rebuilt = torch_private.rebuild_tensor(typed, 2, (2, 2), (2, 1), False, OrderedDict())
    assert torch.equal(rebuilt, tensor[2:].reshape(2, 2))
    assert torch_private.rebuild_tensor.__module__ == "torch._utils"
    assert torch_private.rebuild_tensor.__name__ == "_rebuild_tensor_v2"


def test_changes_are_counted() -> None:
    tensor = torch.zeros(3)
    alias = tensor.detach()
    before = torch_private.change_count(alias)
    tensor.add_(1)
    assert torch_private.change_count(alias) == before + 1
    tensor.data.add_(1)
    assert torch_private.change_count(alias) == before + 1


def test_subclasses() -> None:
    class Refusing(torch.Tensor):
        @classmethod
        def __torch_function__(cls, *_: object, **__: object) -> object:
            raise AssertionError("the subclass is asked")

    tensor = torch.zeros(2).as_subclass(Refusing)
    plain = torch_private.without_subclass(tensor)
    assert type(plain) is torch.Tensor
    assert torch_private.own_attributes(nn.Parameter(torch.zeros(1))) == []
    assert torch_private.own_attributes(nn.Buffer(torch.zeros(1))) == []
    tensor.note = "x"  # type: ignore[attr-defined]
    assert torch_private.own_attributes(tensor) == ["note"]
    assert not torch_private.is_traceable_wrapper_subclass(tensor)


def test_modules() -> None:
    model = nn.BatchNorm1d(2)
    versions = torch_private.layout_versions(model.state_dict())
    assert versions == {"": {"version": 2}}
    state: OrderedDict[str, object] = OrderedDict()
    assert torch_private.layout_versions(state) is None
    torch_private.set_layout_versions(state, versions)
    assert torch_private.layout_versions(state) == versions
    assert torch_private.is_lazy(nn.LazyLinear(2).weight)
    compiled = torch.compile(model, backend="eager")
    assert torch_private.compiled_inside(compiled) is model  # type: ignore[arg-type]
    assert {name.split(".")[0] for name in compiled.state_dict()} == {torch_private.COMPILED_NAME}  # type: ignore[attr-defined]
    assert torch_private.compiled_inside(model) is None
    with pytest.raises(AttributeError):
        model.get_submodule(torch_private.COMPILED_NAME)
