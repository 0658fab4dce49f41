"""The attacker at a site."""

import json

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from attack import probes

app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Do what the ServerApp's message says."""
    found = probes.run(json.loads(str(msg.content["what"]["spec"])))
    answer = {"site": str(context.node_config["organisation"]), "json": json.dumps(found)}
    return Message(RecordDict({"found": ConfigRecord(answer)}), reply_to=msg)
