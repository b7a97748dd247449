"""An event as CloudEvents 1.0 has it, for whatever road it takes."""

from datetime import UTC, datetime
from typing import Any

from adapters.ports import Event

CONTENT_TYPE = "application/json"


def attributes(event: Event) -> dict[str, str]:
    """Context attributes with the extensions `partitionkey` and `sequence`; without the data."""
    given = {
        "specversion": "1.0",
        "id": event.id,
        "type": event.type,
        "source": event.source,
        "subject": event.subject,
        "time": rfc3339(event.wall_ns),
        "dataschema": schema(event.type),
        "partitionkey": event.key,
    }
    return given if event.sequence is None else given | {"sequence": event.sequence}


def structured(event: Event) -> dict[str, Any]:
    """The JSON format: attributes and data in one object."""
    return {**attributes(event), "datacontenttype": CONTENT_TYPE, "data": event.data}


def schema(type_: str) -> str:
    """The `$id` of the JSON Schema in deploy/schemas. A name, and no address: nothing is loaded."""
    return f"urn:clearline:schema:{type_}"


def rfc3339(wall_ns: int) -> str:
    """UTC, to the millisecond."""
    seconds, ms = divmod(wall_ns // 1_000_000, 1000)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=1000 * ms)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
