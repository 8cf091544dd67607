"""Entries of the fake server: kept by id, and held against the models of the generated client."""

from __future__ import annotations

import json
import re
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import kfp_server_api

from tests.fakes.kubernetes_api import Refused

__all__ = ["at", "checked", "get", "kept", "now", "public", "with_spec"]

_PLAIN = {"str": str, "bool": bool, "int": int, "float": (int, float), "object": object, "datetime": str}


def now() -> str:
    """The time as the server writes it."""
    return datetime.now(UTC).isoformat()


def get(known: dict[str, dict[str, Any]], identifier: str) -> dict[str, Any]:
    """An entry by its id. Raises Refused with 404."""
    if identifier not in known:
        raise Refused(404, f"{identifier or 'the empty id'} not found")
    return known[identifier]


def public(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry without what the fake keeps beside it."""
    hidden = ("documents", "workflow", "namespace", "deleted")
    return {key: value for key, value in entry.items() if key not in hidden}


def with_spec(version: dict[str, Any]) -> dict[str, Any]:
    """A version with its compiled pipeline, which is in two parts if it says something to Kubernetes."""
    documents = version["documents"]
    names = ("pipeline_spec", "platform_spec")
    spec = documents[0] if len(documents) == 1 else dict(zip(names, documents, strict=True))
    return public(version) | {"pipeline_spec": spec}


def at(run: dict[str, Any], step: int) -> str:
    """When a run made a step, one second each."""
    return (datetime.fromisoformat(run["created_at"]) + timedelta(seconds=step)).isoformat()


def kept(known: dict[str, dict[str, Any]], key: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Keeps a new entry under an id of its own."""
    identifier = str(uuid.uuid4())
    known[identifier] = entry | {key: identifier, "created_at": now()}
    return known[identifier]


def checked(body: bytes, model: str) -> dict[str, Any]:
    """A JSON body whose fields are those of a model of the generated client. Raises Refused with 400."""
    value = json.loads(body)
    _check(value, model, model)
    return dict(value)


def _check(value: Any, kind: str, place: str) -> None:
    """Holds a value against a type of the generated client; a field that it does not have is refused."""
    if inner := re.fullmatch(r"list\[(.+)\]", kind):
        for entry in value:
            _check(entry, inner[1], place)
    elif inner := re.fullmatch(r"dict\(str, (.+)\)", kind):
        for name, entry in value.items():
            _check(entry, inner[1], f"{place}.{name}")
    elif kind in _PLAIN:
        if not isinstance(value, _PLAIN[kind]):
            raise Refused(400, f"{place}: {kind} expected, got {type(value).__name__}")
    else:
        model = getattr(kfp_server_api, kind)
        if not model.openapi_types:
            return
        names = {wire: name for name, wire in model.attribute_map.items()}
        for name, entry in value.items():
            if name not in names:
                raise Refused(400, f'{place}: unknown field "{name}"')
            _check(entry, model.openapi_types[names[name]], f"{place}.{name}")
