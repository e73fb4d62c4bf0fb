"""Build objects from config nodes; the signature of the constructor is the schema.

A node is a mapping with a `_target_` (the dotted name of a class or function that fits the node's
role, see `roles.py`) and its settings. With `_partial_: true`, the object that the node belongs to
makes the call. Nodes may nest. All problems are collected, so that a user sees them in one go.
"""

from __future__ import annotations

import functools
import inspect
import logging
import math
import re
import types
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, Union, get_args, get_origin

from spectral_exp.config.packages import find_packages
from spectral_exp.config.roles import NotAPartError, Role
from spectral_exp.core.errors import SettingError, UserError, describe_error, nearest
from spectral_exp.core.foreign_text import printable
from spectral_exp.runs.overrides import flatten

log = logging.getLogger(__name__)

_RESERVED = ("_target_", "_partial_")
_COPIED = {
    "monitoring.backup.url": "backup_url",
    "monitoring.companion.mirrors": "mirrors",
    "monitoring.companion.alerts": "alerts",
}
"""Settings that copy one at the top of the configuration, under whose name users give them."""
MISSING = "???"


class Constructor:
    """Builds objects from config nodes and collects their mistakes.

    Args:
        config: the configuration, whose `packages` may hold parts.

    Attributes:
        problems: one line per mistake found so far.
        packages: names of the packages of the user.
    """

    def __init__(self, config: Mapping[str, Any] = MappingProxyType({})) -> None:
        self.problems: list[str] = []
        self.packages: tuple[str, ...] = ()
        self._config = config
        found = self.call("", lambda: find_packages(config))
        self.packages = tuple(found or ())

    def make(
        self, node: object, path: str, role: Role, *, partial: bool = False, **runtime: Any
    ) -> Any:
        """Build the object that `node` describes, or return None after adding its problems.

        Args:
            node: the config node.
            path: its dotted path in the configuration, for messages.
            role: the classes and functions that it may name; checked before any call.
            partial: whether the node needs `_partial_: true`; then return a `functools.partial`.
            runtime: values known only at run time. A constructor gets those that its signature
                names; a configuration may not set them.
        """
        if not isinstance(node, Mapping) or "_target_" not in node:
            self.problems.append(
                f"{path}={node} must be a group with a _target_; choose one with {path}=<option>"
            )
            return None
        name = str(node["_target_"])
        try:
            target = role.find(name, self.packages)
        except NotAPartError as error:
            self.problems.append(f"{path}._target_={name} {error}")
            return None
        known = len(self.problems)
        if bool(node.get("_partial_")) is not partial:
            self.problems.append(
                f"{path}._partial_={node.get('_partial_')} must be {str(partial).lower()} here"
            )
        settings = self._settings(node, target, path, role, runtime)
        if len(self.problems) > known:
            return None
        if partial:
            return functools.partial(target, **settings)
        accepted = inspect.signature(target).parameters
        offered = {name: value for name, value in runtime.items() if name in accepted}
        return self.call(
            path, lambda: construct(f"{path}: {name}", lambda: target(**offered, **settings))
        )

    def call(self, path: str, build: Callable[[], Any]) -> Any:
        """Return `build()`, or None after adding the error that it raised to the problems."""
        try:
            return build()
        except SettingError as error:
            self.problems.append(str(self._as_given(error.within(path))))
        except UserError as error:
            self.problems += str(error).split("\nerror: ")
        except MemoryError as error:
            reason = error or "none is left"
            self.problems.append(
                f"{path} needs more memory than this machine has ({reason}); make it smaller"
            )
        return None

    def finish(self) -> None:
        """Raise one UserError with the first problem of each setting, one line each, if any."""
        first: dict[str, str] = {}
        for problem in self.problems:
            setting = re.match(r"[\w.]+(?==)", problem)
            first.setdefault(setting[0] if setting else problem, printable(problem))
        if first:
            raise UserError("\nerror: ".join(first.values()))

    def _as_given(self, error: SettingError) -> SettingError:
        """Name a setting by the one at the top of the configuration whose value it copies."""
        name, bracket, index = error.setting.partition("[")
        top = _COPIED.get(name)
        if top is None:
            return error
        values = dict(flatten(self._config))
        if values.get(top) != values.get(name):
            return error
        return SettingError(f"{top}{bracket}{index}", error.value, error.allowed, error.remedy)

    def _settings(
        self,
        node: Mapping[str, Any],
        target: Callable[..., Any],
        path: str,
        role: Role,
        runtime: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Return the settings of `node` as keyword arguments that fit the signature of `target`."""
        parameters = _parameters(target)
        settable = [name for name in parameters if name not in runtime]
        settings: dict[str, Any] = {}
        for name, value in node.items():
            where = _join(path, name)
            if name in _RESERVED:
                continue
            if name not in settable:
                hint = (
                    nearest(name, settable) or f"; its settings are {', '.join(settable) or 'none'}"
                )
                self.problems.append(f"{where} is not a setting of {node['_target_']}{hint}")
            elif value == MISSING:
                self.problems.append(
                    f"{where} must be set; give it on the command line: {where}=..."
                )
            elif isinstance(value, Mapping) and "_target_" in value:
                part = role.part(parameters[name].annotation)
                if part is None:
                    self.problems.append(
                        f"{where} must be a plain value, not a group with a _target_"
                    )
                else:
                    settings[name] = self.make(value, where, part, partial=True, **runtime)
            else:
                try:
                    settings[name] = coerce(value, parameters[name].annotation)
                except TypeError as error:
                    self.problems.append(
                        f"{where}={'null' if value is None else value} must be {error}"
                    )
        self.problems += [
            f"{_join(path, name)} must be set; {node['_target_']} has no default for it"
            for name in settable
            if parameters[name].default is inspect.Parameter.empty
            and name not in node
            and not node.get("_partial_")
        ]
        return settings


def construct(name: str, build: Callable[[], Any]) -> Any:
    """Return `build()`; turn an error into a UserError of one line with `name`, file and line."""
    try:
        return build()
    except UserError:
        raise
    except Exception as error:
        log.debug("%s failed", name, exc_info=True)
        raise UserError(f"{name} refuses these settings: {describe_error(error)}") from error


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _parameters(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters that can be given by name, with evaluated annotations if possible."""
    try:
        signature = inspect.signature(target, eval_str=True)
    except (NameError, TypeError):
        # An annotation is imported for type checkers only, so values are not converted.
        signature = inspect.signature(target)
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: p for name, p in signature.parameters.items() if p.kind in by_name}


def coerce(value: Any, annotation: Any) -> Any:
    """Return `value` as the type of `annotation`: integers become floats, lists become tuples.

    Raises:
        TypeError: `value` has another type; the message names the allowed ones, as in "an integer
            or null".
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        for alternative in arguments:
            try:
                return coerce(value, alternative)
            except TypeError:
                continue
        raise TypeError(" or ".join(_describe(alternative) for alternative in arguments))
    if origin is Literal:
        if value in arguments and not isinstance(value, bool):
            return value
    elif annotation is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            try:
                return float(value)
            except OverflowError:
                raise TypeError("a number that a float can hold") from None
        if isinstance(value, str) and value.lower() in ("inf", "nan", ".inf", ".nan"):
            return float(value.lstrip("."))
    elif annotation is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        # YAML reads 1e6 as a float.
        if isinstance(value, float) and math.isfinite(value) and value.is_integer():
            return int(value)
    elif origin in (tuple, list):
        return _coerce_sequence(value, annotation)
    elif annotation is type(None):
        if value is None:
            return None
    elif origin is Callable and not isinstance(value, Mapping):
        raise TypeError(
            "a group with a _target_: choose one of its options, as in model/attention=rotary"
        )
    elif annotation in (bool, str):
        if isinstance(value, annotation):
            return value
    else:
        return value
    raise TypeError(_describe(annotation))


def _coerce_sequence(value: Any, annotation: Any) -> Any:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if not isinstance(value, (list, tuple)):
        example = f", such as [{value}]" if isinstance(value, str) and value else ""
        raise TypeError(f"{_describe(annotation)}{example}")
    if origin is list or (len(arguments) == 2 and arguments[1] is Ellipsis):
        return origin(coerce(item, arguments[0]) for item in value)
    if len(value) != len(arguments):
        raise TypeError(_describe(annotation))
    return tuple(coerce(item, argument) for item, argument in zip(value, arguments, strict=True))


def _describe(annotation: Any) -> str:
    """Return the words for an annotation in messages."""
    words = {
        int: "an integer",
        float: "a number",
        bool: "true or false",
        str: "text",
        type(None): "null",
    }
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return "one of " + ", ".join(str(a) for a in arguments)
    if origin is tuple and Ellipsis not in arguments:
        return f"a list of {len(arguments)}: " + ", ".join(_describe(a) for a in arguments)
    if origin in (tuple, list):
        return f"a list, each {_describe(arguments[0])}"
    return words.get(annotation, getattr(annotation, "__name__", str(annotation)))
