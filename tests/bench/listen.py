"""A subscriber in a process of its own: notes when each verdict arrives (CLOCK_MONOTONIC, ns), and
prints [camera, inspection_id, arrival] of all when its standard input ends.

    python tests/bench/listen.py PORT BASE
"""

import json
import struct
import sys
import time

import paho.mqtt.client as paho


def main() -> None:
    port, base = int(sys.argv[1]), sys.argv[2]
    heard: list[tuple[int, int, int]] = []

    def note(client: paho.Client, _: object, message: paho.MQTTMessage) -> None:
        arrived_ns = time.monotonic_ns()
        (sequence,) = struct.unpack_from("<I", message.payload, 12)
        heard.append((message.payload[1], sequence, arrived_ns))

    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.on_message = note
    client.on_connect = lambda c, *_: c.subscribe(f"{base}/plc/verdict")
    client.connect("127.0.0.1", port)
    client.loop_start()
    sys.stdin.read()
    client.loop_stop()
    print(json.dumps(heard))


if __name__ == "__main__":
    main()
