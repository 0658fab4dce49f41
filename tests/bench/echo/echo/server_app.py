"""Times rounds (train and evaluate, through the Grid's own waits) or single exchanges (without any); logs the seconds."""

import json
import time
from collections.abc import Iterable

from flwr.app import ArrayRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()
PAUSE_S = 0.005


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Wait for the nodes, measure, log one line `BENCH [seconds, …]`."""
    config = context.run_config
    while len(nodes := sorted(grid.get_node_ids())) < int(config["nodes"]):
        time.sleep(0.2)
    if int(config["exchanges"]):
        seconds = [exchange(grid, nodes, number) for number in range(int(config["exchanges"]))]
    else:
        seconds = [one_round(grid, nodes, number) for number in range(int(config["rounds"]))]
    print("BENCH " + json.dumps(seconds), flush=True)  # noqa: T201


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
        assert len(replies) == len(nodes) and not any(reply.has_error() for reply in replies)  # noqa: PT018
    return time.perf_counter() - started


def exchange(grid: Grid, nodes: list[int], number: int) -> float:
    """Return the seconds from sending one message to having its reply, asking every few milliseconds."""
    started = time.perf_counter()
    waiting = list(grid.push_messages(messages(nodes[:1], MessageType.TRAIN, number)))
    while not list(grid.pull_messages(waiting)):
        time.sleep(PAUSE_S)
    return time.perf_counter() - started
