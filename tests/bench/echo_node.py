"""A SuperNode that answers at once: Flower's own Fleet connection without the SuperNode's sleeps, executor and app.

Stands in for a SuperNode on both sides of the comparison of single exchanges (bench_rounds.py), so that what is measured is
the way of a message and its reply. Not a SuperNode for anything else.

    echo_node.py ADDRESS [CA PRIVATE_KEY]
"""

import signal
import sys
import time
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Message, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import pull_objects, push_object_contents_from_iterable
from flwr.supernode.fleet_http_connection import http_request_response

PAUSE_S = 0.05  # as in echo/server_app.py, which says why


def main() -> None:
    """Answer until stopped, then sign off: the next one with the same key would be refused, or be sent this one's messages."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    address, *secured = sys.argv[1:]
    keys = None
    if secured:
        private = load_ssh_private_key(Path(secured[1]).read_bytes(), None)
        keys = (private, private.public_key())
    with http_request_response(address, not secured, secured[0] if secured else None, keys) as connection:
        while True:
            if not serve(*connection[1:3], *connection[5:]):
                time.sleep(PAUSE_S)


def serve(receive, send, pull_object, push_object, confirm) -> bool:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """Take one message in and answer it; return whether there was one."""
    received = receive()
    if received is None:
        return False
    message, tree = received
    run = message.metadata.run_id
    pull_objects(
        [node.object_id for node in iterate_object_tree(tree)],
        pull_object_fn=lambda one: pull_object(run, one),
        initial_backoff=PAUSE_S,
        backoff_cap=PAUSE_S,
    )
    confirm(run, message.metadata.message_id)
    reply = Message(RecordDict({"metrics": MetricRecord({"value": 1.0})}), reply_to=message)
    with no_object_id_recompute():
        reply.metadata.__dict__["_message_id"] = reply.object_id
        wanted, session = send(reply, get_object_tree(reply), 0.0)
        contents = ((name, one.deflate()) for name, one in get_all_nested_objects(reply).items() if name in wanted)
        push_object_contents_from_iterable(contents, push_object_fn=partial(push_object, run, session))
    return True


if __name__ == "__main__":
    main()
