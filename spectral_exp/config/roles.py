"""The classes and functions that a `_target_` may name.

A configuration may come from a stranger's run. So each place in it has a role, and a name is
accepted only if it fits that role; this is decided before anything is called. A class fits if it is
a subclass of the role's kind in this package (or in torch, if the role allows it); a function fits
if it is defined in the role's own package and its return annotation is of that kind. Classes and
functions of packages that the user has named fit too if they are of the kind.
"""

from __future__ import annotations

import importlib
import inspect
import re
import types
import typing
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

from spectral_exp.config.packages import entry_point_packages
from spectral_exp.core.errors import describe_error

PACKAGE = "spectral_exp"
_DOTTED_NAME = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+", re.ASCII)


class NotAPartError(Exception):
    """A name does not fit its role; the message continues "<setting>._target_=<name> ..."."""


@dataclass(frozen=True)
class Role:
    """The parts that fit one place of the configuration.

    Attributes:
        kind: base class or protocol of the parts.
        home: the package or module whose functions may build a part.
        torch_home: the package of torch whose classes fit too.
        instead_of_own: what a user gives instead of a part of their own; None if those fit too.
    """

    kind: type
    home: str
    torch_home: str | None = None
    instead_of_own: str | None = None

    def part(self, annotation: Any) -> Role | None:
        """Return the role of a nested part, for a parameter annotated `Callable[..., Kind]`.

        None for other annotations, and if `Kind` is not a subclass of this role's kind.
        """
        choices = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
        kinds = [
            typing.get_args(choice)[-1]
            for choice in choices
            if typing.get_origin(choice) is Callable
        ]
        fitting = [kind for kind in kinds if _is_subclass(kind, self.kind)]
        return replace(self, kind=fitting[0]) if fitting else None

    def find(self, name: str, own: Collection[str] = ()) -> Callable[..., Any]:
        """Return the class or function `name` without calling it.

        Args:
            name: dotted.
            own: packages of the user, which may hold parts of every kind.

        Raises:
            NotAPartError: it does not exist, or does not fit this role.
        """
        top = name.partition(".")[0]
        if self.instead_of_own is not None:
            own = ()
            if top not in (PACKAGE, "torch"):
                raise NotAPartError(f"must lie in {PACKAGE}; {self.instead_of_own}")
        if top not in (PACKAGE, "torch", *own):
            if top not in entry_point_packages():
                raise NotAPartError(
                    f"must lie in {PACKAGE}, torch or a package that you name with packages=[...] "
                    "or --packages"
                )
            own = (*own, top)
        packages = (PACKAGE, *own, *([self.torch_home] if self.torch_home else []))
        if not _DOTTED_NAME.fullmatch(name) or not _is_inside(name, packages):
            raise NotAPartError(self._requirement(own))
        module, _, attribute = name.rpartition(".")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise NotAPartError(f"cannot be found: {error}") from error
        except Exception as error:
            if top not in own:
                raise
            raise NotAPartError(f"cannot be imported: {describe_error(error)}") from error
        # Modules also hold the names that they import; only parts defined in the package fit.
        defined_in = str(getattr(found, "__module__", ""))
        if isinstance(found, type):
            fits = _is_inside(defined_in, packages) and _is_subclass(found, self.kind)
        else:
            fits = _is_inside(defined_in, (self.home, *own)) and self._is_builder(found)
        if not fits:
            raise NotAPartError(self._requirement(own))
        return found  # type: ignore[no-any-return]

    def _is_builder(self, found: Any) -> bool:
        if not inspect.isfunction(found):
            return False
        try:
            result = typing.get_type_hints(found).get("return")
        except (NameError, TypeError):  # the annotation is imported for type checkers only
            return False
        return _is_subclass(result, self.kind)

    def _requirement(self, own: Collection[str]) -> str:
        kind = self.kind.__name__
        of_torch = f", one of {self.torch_home}" if self.torch_home else ""
        places, homes = ((" or ".join([first, *own])) for first in (PACKAGE, self.home))
        return (
            f"must be a subclass of {kind} in {places}{of_torch}, or a function in {homes} "
            "that is annotated to return one"
        )


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _is_inside(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _is_subclass(found: Any, kind: type) -> bool:
    return isinstance(found, type) and issubclass(found, kind)
