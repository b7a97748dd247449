"""Write Clearline's events into a database: an example to take and change.

Each event is one row, however often it is delivered: (source, id) is the key of duplicates.
Offsets are committed only after the database has committed, so nothing is lost when this is
killed, when Kafka delivers again, or when partitions move to another copy of it.

A record that is no event, or that no row can hold, is named on stderr and passed over.

Needs aiokafka, and psycopg for PostgreSQL. Run as many copies as there are partitions. SIGTERM and
Ctrl-C end it after its batch, trouble it cannot wait out at once: let a service manager restart it.
"""

import argparse
import asyncio
import contextlib
import json
import math
import signal
import sqlite3
import sys
from pathlib import Path

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.helpers import create_ssl_context

TOPICS = ("clearline.defect.v1", "clearline.camera.v1", "clearline.line.v1")
COLUMNS = {  # fields of the data that get columns of their own; `data` has everything
    "TEXT": "line camera kind reason model image_ref",
    "BIGINT": "event_time_ms epoch sequence part_id strips region_count count",
    "DOUBLE PRECISION": "score threshold score_ratio latency_ms web_position_mm"
    " max_region_area_mm2 max_region_x_mm max_region_y_mm",
    "BOOLEAN": "late plc_sent",
}
FLAT = {name: type_ for type_, names in COLUMNS.items() for name in names.split()}
NAMES = ("source", "id", "type", *FLAT, "data")
TABLE = (
    "CREATE TABLE IF NOT EXISTS events (source TEXT NOT NULL, id TEXT NOT NULL, type TEXT NOT NULL,"
    f" {', '.join(map(' '.join, FLAT.items()))}, data TEXT NOT NULL, PRIMARY KEY (source, id))"
)
INSERT = (
    f"INSERT INTO events ({', '.join(NAMES)}) VALUES ({', '.join('?' * len(NAMES))})"
    " ON CONFLICT (source, id) DO NOTHING"
)
KEY_CHARACTERS = 500  # of source and of id: PostgreSQL's index holds no more than 2704 bytes
ANSWER_S = 10  # for a broker, before we go on or leave without it


def open_database(where):
    """A connection, and the INSERT in its dialect."""
    if where.startswith(("postgresql://", "postgres://")):
        import psycopg

        return psycopg.connect(where), INSERT.replace("?", "%s")
    database = sqlite3.connect(where, timeout=30, check_same_thread=False)
    database.execute("PRAGMA journal_mode = WAL")  # dashboards may read meanwhile
    return database, INSERT


def fitting(type_, value):
    """As a column takes it. Asked first: one value that it refuses would undo a whole batch."""
    match type_, value:
        case _, None:
            return None
        case "TEXT", str() if "\0" not in value:
            value.encode()  # half of a surrogate pair is in no database
            return value
        case "BOOLEAN", bool():
            return value
        case "BIGINT" | "DOUBLE PRECISION", bool():
            pass
        case "BIGINT", int() if -(2**63) <= value < 2**63:
            return value
        case "DOUBLE PRECISION", int() | float() if math.isfinite(value):
            return float(value)
    raise ValueError(f"{value!r:.80} is no {type_}")


def name_of(header):
    name = fitting("TEXT", header.decode())
    if len(name) > KEY_CHARACTERS:
        raise ValueError(f"a name of {len(name)} characters")
    return name


def no_number(name):
    raise ValueError(f"{name} is not JSON")  # but Python takes it for that


def parsed(record):
    """Its row. Raises whatever is wrong with it."""
    headers = dict(record.headers)
    names = [name_of(headers[f"ce_{name}"]) for name in ("source", "id", "type")]
    text = record.value.decode()
    data = json.loads(text, parse_constant=no_number)
    return (*names, *(fitting(type_, data.get(name)) for name, type_ in FLAT.items()), text)


def row(record):
    try:
        return parsed(record)
    except (LookupError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as e:
        place = f"{record.topic}[{record.partition}] offset {record.offset}"
        print(f"passed over {place}: {e!r:.200}", file=sys.stderr, flush=True)
        return None


def store(database, insert, rows):
    """How many were new. All of them are on the disk then, or this ends."""
    cursor = database.cursor()
    cursor.executemany(insert, rows)
    database.commit()
    return cursor.rowcount


async def consume(consumer, database, insert, stop):
    stored = duplicates = passed_over = 0
    while not stop.is_set():
        batches = await consumer.getmany(timeout_ms=500, max_records=500)
        if not batches:
            continue
        rows = [values for batch in batches.values() for values in map(row, batch) if values]
        # In a thread: a slow database must not keep the consumer from its group.
        new = await asyncio.to_thread(store, database, insert, rows) if rows else 0
        stored, duplicates = stored + new, duplicates + len(rows) - new
        passed_over += sum(map(len, batches.values())) - len(rows)
        print(f"{stored} stored, {duplicates} duplicates, {passed_over} passed over", flush=True)
        # Where the partition is not ours any more, or nobody is there, they come again.
        with contextlib.suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                await consumer.commit({tp: batch[-1].offset + 1 for tp, batch in batches.items()})


def security(options):
    sasl, tls = "SASL_" if options.username else "", None
    if options.ca_file:
        tls = create_ssl_context(
            cafile=options.ca_file, certfile=options.cert_file, keyfile=options.key_file
        )
    password = options.password_file and Path(options.password_file).read_text().splitlines()[0]
    return {
        "security_protocol": sasl + ("SSL" if tls else "PLAINTEXT"),
        "ssl_context": tls,
        "sasl_mechanism": options.mechanism,
        "sasl_plain_username": options.username,
        "sasl_plain_password": password,
    }


async def run(options):
    database, insert = open_database(options.database)
    database.execute(TABLE)
    database.commit()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    consumer = AIOKafkaConsumer(
        *TOPICS,
        bootstrap_servers=options.bootstrap,
        group_id=options.group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",  # a new group begins with the oldest event
        **security(options),
    )
    try:
        await consumer.start()
        await consume(consumer, database, insert, stop)
    finally:
        with contextlib.suppress(TimeoutError, asyncio.CancelledError):  # aiokafka's own one
            await asyncio.wait_for(consumer.stop(), ANSWER_S)
        database.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("bootstrap", help="brokers, HOST:PORT,HOST:PORT")
    add("--database", default="events.sqlite", help="SQLite file, or postgresql://USER@HOST/NAME")
    add("--group", default="clearline-events", help="copies with one name share the partitions")
    add("--username", help="with it, SASL")
    add("--password-file", help="its first line is the password")
    add("--mechanism", default="SCRAM-SHA-512", help="or SCRAM-SHA-256, PLAIN (not without TLS)")
    add("--ca-file", help="PEM of who signed the brokers' certificates; with it, TLS")
    add("--cert-file", help="PEM of who we are, where brokers ask for it")
    add("--key-file", help="its key")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
