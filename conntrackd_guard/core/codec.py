"""Every value of `core.model` as JSON-able data, and back exactly.

Pure. Decoding follows the declared types of the fields. Unknown fields (of a newer guard) are left out, and missing ones
(of an older guard) take their default. A decision has its class as `verdict`, and a hold's reason is its code.
"""

from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import Decision, Hold, Override, Raise

T = TypeVar("T")

_PLAIN = frozenset({int, str, float, bool, NoneType})

_VERDICTS: dict[type, str] = {Raise: "raise", Hold: "hold", Override: "override"}
"""The name of each decision class, in codec, history, log and metrics alike."""


def verdict(decision: Decision) -> str:
    """Return the decision's name: `raise`, `hold` or `override`."""
    return _VERDICTS[type(decision)]


def encode(value: object) -> Any:
    """Return `value` as dicts, lists, strings, numbers, booleans and None."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is tuple:
        return [encode(item) for item in cast("tuple[object, ...]", value)]
    if kind is dict:
        return {key: encode(item) for key, item in cast("dict[str, object]", value).items()}
    if isinstance(value, Enum) and kind is not HoldReason:
        return value.value
    return encode(encode_one(value))


def encode_one(value: object) -> Any:
    """Return a dataclass as a dict whose values are not encoded yet, and a hold's reason as its code.

    As the `default` of `json`, which encodes the rest, this takes half the time of `encode`.
    """
    kind = type(value)
    if kind is HoldReason:
        return cast("HoldReason", value).code
    data = {name: getattr(value, name) for name in cast("Any", kind).__dataclass_fields__}
    return {"verdict": _VERDICTS[kind], **data} if kind in _VERDICTS else data


def decode(kind: type[T], data: object) -> T:
    """Return the `kind` that `encode` made `data` of; ValueError names what doesn't fit."""
    return cast("T", _decode(kind, data))


def decode_decision(data: object) -> Decision:
    """Return the decision that `encode` made `data` of; ValueError names what doesn't fit."""
    return cast("Decision", _decode(Decision, data))


def _decode(kind: Any, data: Any) -> Any:  # noqa: PLR0911 - one return a kind of type
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (UnionType, Union):
        return _decode_union(arguments, data)
    if is_dataclass(kind):
        return _decode_fields(kind, _checked(data, dict, kind))
    if origin is tuple:
        return tuple(_decode(arguments[0], item) for item in _checked(data, list, kind))
    if origin is dict:
        return {key: _decode(arguments[1], item) for key, item in _checked(data, dict, kind).items()}
    if kind is HoldReason:
        return hold_reason(data)
    if issubclass(kind, Enum):
        return kind(data)
    if kind is float and type(data) is int:  # a float field may have been given a whole number
        return data
    return _checked(data, kind, kind)


def _decode_union(arguments: tuple[Any, ...], data: Any) -> Any:
    """Return `data` as one of the union: None, the only other member, or the class that `verdict` names."""
    if data is None and NoneType in arguments:
        return None
    members = [member for member in arguments if member is not NoneType]
    if len(members) == 1:
        return _decode(members[0], data)
    name = _checked(data, dict, Decision).get("verdict")
    member = next((member for member in members if _VERDICTS.get(member) == name), None)
    if member is None:
        raise ValueError(f"unknown verdict {name!r}")
    return _decode(member, data)


def _decode_fields(kind: Any, data: dict[str, Any]) -> Any:
    """Return the dataclass `kind` with its known fields of `data`."""
    hints = _hints(kind)
    known = {field.name: _decode(hints[field.name], data[field.name]) for field in fields(kind) if field.name in data}
    required = (field.name for field in fields(kind) if field.default is field.default_factory is MISSING)
    if missing := [name for name in required if name not in known]:
        raise ValueError(f"{kind.__name__} lacks {', '.join(missing)}")
    return kind(**known)


def _checked(data: Any, kind: type, wanted: Any) -> Any:
    """Return `data` if it is exactly a `kind` (a boolean is no number)."""
    if type(data) is not kind:
        raise ValueError(f"expected {getattr(wanted, '__name__', wanted)}, found {data!r:.80}")
    return data


def hold_reason(code: object) -> HoldReason:
    """Return the reason with that code; ValueError for an unknown one."""
    reason = next((reason for reason in HoldReason if reason.code == code), None)
    if reason is None:
        raise ValueError(f"unknown hold reason {code!r}")
    return reason


@cache
def _hints(kind: type) -> dict[str, Any]:
    """Return the field types of a dataclass, cached: resolving is slow, and needed for every nested value."""
    return get_type_hints(kind)
