"""Events held against what deploy/ says of them: data, CloudEvents attributes, size.

The schemas are open: a consumer that validates must not refuse what a later version adds. Here they
are closed, so that no field of ours goes out undescribed.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import yaml
from jsonschema import Draft202012Validator, validators
from jsonschema.protocols import Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from adapters.ports import Event
from adapters.sinks.cloud_event import CONTENT_TYPE, attributes

DEPLOY = Path(__file__).parents[2] / "deploy"
TYPES = ("clearline.defect.v1", "clearline.camera.v1", "clearline.line.v1")
MOST_BYTES = 64 * 1024
DOCUMENT = "urn:clearline:asyncapi"

# JSON Schema takes 1.0 for an integer; whoever reads the text into a typed column does not.
_Exact: Any = validators.extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    ),
)


def check(event: Event) -> None:
    """Raises ValidationError or AssertionError where it is not as described."""
    encoded = msgspec.json.encode(event.data)
    assert len(encoded) < MOST_BYTES, f"{event.id}: {len(encoded)} bytes"
    data = json.loads(encoded)
    assert data == event.data, "what is not in JSON, a NaN say, goes out as something else"
    closed_schema(event.type).validate(data)
    headers = {f"ce_{name}": value for name, value in attributes(event).items()}
    described(f"/components/messages/{event.type.split('.')[1]}/headers").validate(
        headers | {"content-type": CONTENT_TYPE}
    )
    of_line = event.type == "clearline.line.v1"
    subject = data["line"] if of_line else data["camera"]
    key = data["line"] if of_line else f"{data['line']}/{data['camera']}"
    ms = data["event_time_ms"]
    assert event.id == data["event_id"]
    assert event.wall_ns // 1_000_000 == ms
    assert headers["ce_time"].endswith(f".{ms % 1000:03d}Z")
    assert (event.subject, event.key) == (subject, key)
    assert event.source.split("/")[2:] == key.split("/")
    assert event.id.startswith(f"{key}/")


@cache
def schema(type_: str) -> Any:
    """As it is shipped."""
    return json.loads((DEPLOY / "schemas" / f"{type_}.json").read_text())


@cache
def closed_schema(type_: str) -> Validator:
    return _Exact(_closed(schema(type_)))


@cache
def document() -> Any:
    """deploy/asyncapi.yaml."""
    return yaml.safe_load((DEPLOY / "asyncapi.yaml").read_text())


@cache
def described(pointer: str) -> Validator:
    """For what stands at a place of the document, which is closed as well."""
    registry: Registry[Any] = Registry().with_resource(
        DOCUMENT, DRAFT202012.create_resource(document())
    )
    there = {"$ref": f"{DOCUMENT}#{pointer}", "unevaluatedProperties": False}
    return _Exact(there, registry=registry)


def _closed(schema: Any) -> Any:
    """Every object that a schema describes, and not only those that it is made of."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: _closed(value) for key, value in schema.items()}
    return inner | {"unevaluatedProperties": False} if schema.get("type") == "object" else inner
