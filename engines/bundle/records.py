"""Typed records from parsed JSON: unknown, missing and mistyped keys are errors that name the key."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import MappingProxyType
from typing import Any, TypeVar

from passionsr_trt.engines.common.errors import UserError

T = TypeVar("T")


def encode(record: Any) -> Any:
    """A record as JSON's types; a record with a `to_json` of its own is asked for it."""
    if hasattr(record, "to_json"):
        return record.to_json()
    if is_dataclass(record) and not isinstance(record, type):
        return {entry.name: encode(getattr(record, entry.name)) for entry in fields(record)}
    if isinstance(record, dict):
        return {key: encode(value) for key, value in record.items()}
    if isinstance(record, list | tuple):
        return [encode(value) for value in record]
    return record


def decode(cls: type[T], data: Any, where: str, ready: Mapping[str, Any] = MappingProxyType({})) -> T:
    """A dataclass from parsed JSON, its fields' types checked, records within records too.

    ready: fields that are values already.
    """
    if not isinstance(data, dict):
        raise UserError(f"{where}: {cls.__name__} is not an object", "expected one")
    known = {entry.name: entry for entry in fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(set(data) - set(known)):
        raise UserError(f"{where}: unknown key {unknown[0]!r}", f"expected {', '.join(sorted(known))}")
    required = {
        name for name, entry in known.items() if entry.default is MISSING and entry.default_factory is MISSING
    }
    if missing := sorted(required - set(data) - set(ready)):
        raise UserError(f"{where}: {missing[0]!r} is missing", f"expected a whole {cls.__name__}")
    hints = typing.get_type_hints(cls)
    values = {key: _value(hints[key], value, f"{where}: {key}") for key, value in data.items() if key not in ready}
    return cls(**values, **ready)


def _value(kind: Any, value: Any, where: str) -> Any:
    """`value` as `kind`: a record, a tuple, a list, a dict, an optional, or a plain type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (kind,) = (argument for argument in arguments if argument is not type(None))
        return _value(kind, value, where)
    if origin is tuple and isinstance(value, list):
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) == len(value):
            return tuple(_value(inner, entry, where) for inner, entry in zip(kinds, value, strict=True))
    elif origin is list and isinstance(value, list):
        return [_value(arguments[0], entry, where) for entry in value]
    elif origin is dict and isinstance(value, dict):
        return {key: _value(arguments[1], entry, f"{where}.{key}") for key, entry in value.items()}
    elif hasattr(kind, "from_json"):
        return kind.from_json(value, where)
    elif is_dataclass(kind):
        return decode(typing.cast(Any, kind), value, where)
    elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif isinstance(kind, type) and isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    name = kind.__name__ if isinstance(kind, type) and origin is None else str(kind)
    raise UserError(f"{where} is {value!r}", f"expected {name}")
