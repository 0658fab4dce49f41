"""Answers every message with a number of its own: no data, no training."""

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


def answer(msg: Message) -> Message:
    """Reply with one metric."""
    return Message(RecordDict({"metrics": MetricRecord({"value": 1.0})}), reply_to=msg)


@app.train()
def train(msg: Message, _context: Context) -> Message:
    """Answer at once."""
    return answer(msg)


@app.evaluate()
def evaluate(msg: Message, _context: Context) -> Message:
    """Answer at once."""
    return answer(msg)
