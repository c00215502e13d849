"""Every value of `core.model` as JSON-able data, and back exactly.

Pure. Decoding follows the declared types of the fields. Unknown fields (of a newer guard) are left out, and missing ones
(of an older guard) take their default. A decision has its class as `verdict`, and a hold's reason is its code.
"""

import json
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Final, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import Decision, Hold, Override, Raise

VERSION: Final = 1
"""Of every JSON document: fields may be added, and none changes its meaning."""
T = TypeVar("T")
_Decode = Callable[[Any], Any]

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


def document(content: dict[str, Any], *, indent: int | None = 2) -> str:
    """Return `content` as one versioned document, indented for people; without `indent` as one line of a stream."""
    return json.dumps({"version": VERSION, **content}, indent=indent) + "\n"


def decode(kind: type[T], data: object) -> T:
    """Return the `kind` that `encode` made `data` of; ValueError names what doesn't fit."""
    return cast("T", _decoder(cast("Any", kind))(data))


def decode_decision(data: object) -> Decision:
    """Return the decision that `encode` made `data` of; ValueError names what doesn't fit."""
    return cast("Decision", _decoder(Decision)(data))


@cache
def _decoder(kind: Any) -> _Decode:  # noqa: PLR0911 - one return a kind of type
    """Return the function that decodes a `kind`, worked out once: a history has millions of values."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (UnionType, Union):
        return _union_decoder(arguments)
    if is_dataclass(kind):
        return _fields_decoder(kind)
    if origin is tuple:
        item = _decoder(arguments[0])
        return lambda data: tuple([item(one) for one in _checked(data, list, kind)])
    if origin is dict:
        value = _decoder(arguments[1])
        return lambda data: {key: value(one) for key, one in _checked(data, dict, kind).items()}
    if kind is HoldReason:
        return hold_reason
    if issubclass(kind, Enum):
        return cast("_Decode", kind)
    plain = _plain(kind)
    return lambda data: data if type(data) in plain else _checked(data, kind, kind)


def _plain(kind: Any) -> frozenset[type]:
    """Return the types of the data that stands for itself where a `kind` is declared."""
    members = get_args(kind) if get_origin(kind) in (UnionType, Union) else (kind,)
    if not _PLAIN.issuperset(members):
        return frozenset()
    # A float field may have been given a whole number.
    return frozenset({*members, int}) if float in members else frozenset(members)


def _union_decoder(arguments: tuple[Any, ...]) -> _Decode:
    """Return a decoder of None, the only other member, or the class that `verdict` names."""
    members = [member for member in arguments if member is not NoneType]
    if len(members) == 1:
        only = _decoder(members[0])
        return lambda data: None if data is None else only(data)
    by_name = {_VERDICTS[member]: _decoder(member) for member in members}

    def decode_one(data: Any) -> Any:
        name = _checked(data, dict, Decision).get("verdict")
        member = by_name.get(name) if isinstance(name, str) else None
        if member is None:
            raise ValueError(f"unknown verdict {name!r}")
        return member(data)

    return decode_one


def _fields_decoder(kind: Any) -> _Decode:
    """Return a decoder of the dataclass `kind`, with its known fields."""
    hints = get_type_hints(kind)
    decoders = [(field.name, _plain(hints[field.name]), _decoder(hints[field.name])) for field in fields(kind)]
    required = [field.name for field in fields(kind) if field.default is field.default_factory is MISSING]

    def decode_fields(data: Any) -> Any:
        content = _checked(data, dict, kind)
        known = {}
        for name, plain, decoder in decoders:
            if name in content:
                value = content[name]
                known[name] = value if type(value) in plain else decoder(value)
        if len(known) < len(decoders) and (missing := [name for name in required if name not in known]):
            raise ValueError(f"{kind.__name__} lacks {', '.join(missing)}")
        return kind(**known)

    return decode_fields


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
