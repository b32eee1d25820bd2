"""Records and the JSON that they are kept in, strictly.

1. A file is a plain one of a sane size, one object, no key twice: a user may hand in anything.
2. Its schema is looked at before its keys: a newer one asks for an update, an older one to be made again.
3. Unknown, missing and mistyped keys are errors that name the key.
"""

from __future__ import annotations

import json
import stat
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from passionsr_trt.engines.common.errors import UserError

MOST_BYTES = 64 << 20
T = TypeVar("T")


def read_object(path: Path, what: str) -> dict[str, Any]:
    """The JSON object in a file. `what` it is expected to be: for messages. FileNotFoundError where it is missing.

    UserError for anything else: a pipe, a folder, other encodings, a key twice, nesting without end.
    """
    expected = f"expected {what}"
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path}: is no file", expected)
        if status.st_size > MOST_BYTES:
            raise UserError(f"{path}: {status.st_size} bytes", f"{expected} of at most {MOST_BYTES}")
        data = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_no_key_twice)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})", expected) from None
    except RecursionError:
        raise UserError(f"{path}: nested too deep", expected) from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})", expected) from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: not a JSON object", expected)
    return data


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _value in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return record


def check_schema(version: Any, known: int, where: str, again: str) -> None:
    """UserError where a `schema_version` is not the one that is read; again: what makes the file anew."""
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise UserError(f"{where}: no schema_version of ours ({version!r})", f"expected {known}")
    if version != known:
        newer = version > known
        raise UserError(
            f"{where}: made by {'a newer' if newer else 'an older'} version (schema {version})",
            f"this one reads {known}",
            "update passionsr-trt" if newer else again,
        )


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
        raise UserError(f"{where}: not a JSON object", f"expected keys of {cls.__name__}")
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
