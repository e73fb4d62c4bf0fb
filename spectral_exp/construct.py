"""From a config node to an object: the constructor's signature is the schema.

A node is a mapping with a `_target_` (the dotted name of a class or function in spectral_exp or torch) and its
settings; `_partial_: true` asks for the call to be left to the owner. Nodes may nest. Every problem is collected, so
that a user reads all of them at once.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import math
import types
from collections.abc import Callable, Mapping
from typing import Any, Literal, Union, get_args, get_origin

from spectral_exp.errors import SettingError, UserError, nearest

_ALLOWED_PACKAGES = ("spectral_exp", "torch")
_RESERVED = ("_target_", "_partial_")
MISSING = "???"


class Constructor:
    """Builds objects from config nodes and collects what is wrong with them.

    Attributes:
        problems: one line per mistake found so far.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []

    def make(self, node: object, path: str, **runtime: Any) -> Any:
        """Build the object that `node` describes, or return None after noting what is wrong with it.

        Args:
            node: the config node.
            path: its dotted place in the configuration, for messages.
            runtime: values known only at run time; a constructor gets those that its signature names, and a config
                may not set them.
        """
        if not isinstance(node, Mapping) or "_target_" not in node:
            self.problems.append(f"{path}={node} must be a group with a _target_; choose one with {path}=<option>")
            return None
        target = self._target(str(node["_target_"]), path)
        if target is None:
            return None
        known = len(self.problems)
        settings = self._settings(node, target, path, runtime)
        if len(self.problems) > known:
            return None
        if node.get("_partial_"):
            return functools.partial(target, **settings)
        accepted = inspect.signature(target).parameters
        offered = {name: value for name, value in runtime.items() if name in accepted}
        return self.call(path, lambda: target(**offered, **settings))

    def call(self, path: str, build: Callable[[], Any]) -> Any:
        """Return `build()`, or None after noting the user's mistake that it raised."""
        try:
            return build()
        except SettingError as error:
            self.problems.append(str(error.within(path)))
        except UserError as error:
            self.problems.append(str(error))
        return None

    def finish(self) -> None:
        """Raise a UserError with all problems, if there are any."""
        if self.problems:
            raise UserError("\nerror: ".join(dict.fromkeys(self.problems)))

    def _target(self, name: str, path: str) -> Callable[..., Any] | None:
        module_name, _, attribute = name.rpartition(".")
        if module_name.split(".")[0] not in _ALLOWED_PACKAGES:
            self.problems.append(
                f"{path}._target_={name} must lie in {' or '.join(_ALLOWED_PACKAGES)}; add your part to the package"
            )
            return None
        try:
            found = getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError) as error:
            self.problems.append(f"{path}._target_={name} cannot be found: {error}")
            return None
        if not callable(found):
            self.problems.append(f"{path}._target_={name} must be a class or function")
            return None
        return found  # type: ignore[no-any-return]

    def _settings(
        self, node: Mapping[str, Any], target: Callable[..., Any], path: str, runtime: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The keyword arguments that `node` gives, checked against the signature of `target`."""
        parameters = _parameters(target)
        settable = [name for name in parameters if name not in runtime]
        settings: dict[str, Any] = {}
        for name, value in node.items():
            where = _join(path, name)
            if name in _RESERVED:
                continue
            if name not in settable:
                hint = nearest(name, settable) or f"; its settings are {', '.join(settable) or 'none'}"
                self.problems.append(f"{where} is not a setting of {node['_target_']}{hint}")
            elif value == MISSING:
                self.problems.append(f"{where} must be set; give it on the command line: {where}=...")
            elif isinstance(value, Mapping) and "_target_" in value:
                settings[name] = self.make(value, where, **runtime)
            else:
                try:
                    settings[name] = coerce(value, parameters[name].annotation)
                except TypeError as error:
                    self.problems.append(f"{where}={'null' if value is None else value} must be {error}")
        self.problems += [
            f"{_join(path, name)} must be set; {node['_target_']} has no default for it"
            for name in settable
            if parameters[name].default is inspect.Parameter.empty and name not in node and not node.get("_partial_")
        ]
        return settings


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _parameters(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters that can be given by name; annotations evaluated where they can be."""
    try:
        signature = inspect.signature(target, eval_str=True)
    except (NameError, TypeError):
        # An annotation names something imported for type checkers only: its value is then taken as it is.
        signature = inspect.signature(target)
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: p for name, p in signature.parameters.items() if p.kind in by_name}


def coerce(value: Any, annotation: Any) -> Any:
    """`value` as the type that `annotation` asks for: integers become floats, lists tuples, nothing else changes.

    Raises:
        TypeError: its message says what would have been right, e.g. "an integer or null".
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        for alternative in arguments:
            try:
                return coerce(value, alternative)
            except TypeError:
                continue
        raise TypeError(" or ".join(_described(alternative) for alternative in arguments))
    if origin is Literal:
        if value in arguments and not isinstance(value, bool):
            return value
    elif annotation is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, str) and value.lower() in ("inf", "nan", ".inf", ".nan"):
            return float(value.lstrip("."))
    elif annotation is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        # YAML reads 1e6 as a float; a whole number is what was meant.
        if isinstance(value, float) and math.isfinite(value) and value.is_integer():
            return int(value)
    elif origin in (tuple, list):
        return _coerce_sequence(value, annotation)
    elif annotation is type(None):
        if value is None:
            return None
    elif origin is Callable and not isinstance(value, Mapping):
        raise TypeError("a group with a _target_: choose one of its options, as in model/attention=rotary")
    elif annotation in (bool, str):
        if isinstance(value, annotation):
            return value
    else:
        return value
    raise TypeError(_described(annotation))


def _coerce_sequence(value: Any, annotation: Any) -> Any:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if not isinstance(value, (list, tuple)):
        raise TypeError(_described(annotation))
    if origin is list or (len(arguments) == 2 and arguments[1] is Ellipsis):
        return origin(coerce(item, arguments[0]) for item in value)
    if len(value) != len(arguments):
        raise TypeError(_described(annotation))
    return tuple(coerce(item, argument) for item, argument in zip(value, arguments, strict=True))


def _described(annotation: Any) -> str:
    """An annotation in a user's words."""
    words = {int: "an integer", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return "one of " + ", ".join(str(a) for a in arguments)
    if origin is tuple and Ellipsis not in arguments:
        return f"a list of {len(arguments)}: " + ", ".join(_described(a) for a in arguments)
    if origin in (tuple, list):
        return f"a list, each {_described(arguments[0])}"
    return words.get(annotation, getattr(annotation, "__name__", str(annotation)))
