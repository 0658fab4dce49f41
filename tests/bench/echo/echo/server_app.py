"""Times rounds (train and evaluate, through the Grid's own waits) or single exchanges (without any); logs the seconds."""

import json
import time
from collections.abc import Iterable
from functools import partial

from flwr.app import ArrayRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.superlink.grid import http_grid

app = ServerApp()
# Long enough that looking for messages, at both ends, does not take the cores from the exchange that is timed.
PAUSE_S = 0.05


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Wait for the nodes, measure, log one line `BENCH [seconds, …]`."""
    config = context.run_config
    while len(nodes := sorted(grid.get_node_ids())[: int(config["nodes"])]) < int(config["nodes"]):
        time.sleep(0.2)
    if int(config["exchanges"]):
        shorten_backoff()
        seconds = [exchange(grid, nodes, number) for number in range(int(config["exchanges"]))]
    else:
        seconds = [one_round(grid, nodes, number) for number in range(int(config["rounds"]))]
    print("BENCH " + json.dumps(seconds), flush=True)  # noqa: T201


def shorten_backoff() -> None:
    """Have the Grid ask again after PAUSE_S for an object that is announced and not there yet; Flower waits 1 to 10 s."""
    http_grid.pull_objects = partial(http_grid.pull_objects, initial_backoff=PAUSE_S, backoff_cap=PAUSE_S)


def messages(nodes: Iterable[int], kind: str, number: int) -> list[Message]:
    """Return a small message for each node."""
    import numpy as np

    content = RecordDict({"arrays": ArrayRecord([np.zeros(31, dtype=np.float32)])})
    return [Message(content, dst_node_id=node, message_type=kind, group_id=str(number)) for node in nodes]


def one_round(grid: Grid, nodes: list[int], number: int) -> float:
    """Return the seconds of a train and an evaluate exchange with every node, as strategies do them."""
    started = time.perf_counter()
    for kind in (MessageType.TRAIN, MessageType.EVALUATE):
        replies = list(grid.send_and_receive(messages(nodes, kind, number)))
        assert len(replies) == len(nodes), replies
        assert not (errors := [reply.error for reply in replies if reply.has_error()]), errors
    return time.perf_counter() - started


def exchange(grid: Grid, nodes: list[int], number: int) -> float:
    """Return the seconds from sending one message to having its reply, asking every PAUSE_S."""
    started = time.perf_counter()
    waiting = list(grid.push_messages(messages(nodes[:1], MessageType.TRAIN, number)))
    while not list(grid.pull_messages(waiting)):
        time.sleep(PAUSE_S)
    return time.perf_counter() - started
