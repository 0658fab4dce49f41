"""The attacker at the centre, who also sends the attacker at each site to work."""

import base64
import json
import time

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from attack import probes
from flowerbed_app import Results

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Attack here, then at every site, once for each entry of `turns`; store what was found."""
    spec = json.loads(base64.b64decode(str(context.run_config["spec"])))
    found = {"serverapp": probes.run(spec["serverapp"])}
    for number, turn in enumerate(spec["turns"]):
        for site, what in at_sites(grid, turn).items():
            found[f"{site} {number}"] = what
    Results().save_metrics("found.json", found)


def at_sites(grid: Grid, turn: dict) -> dict:
    """Send one turn to every site and return what each found."""
    while len(nodes := list(grid.get_node_ids())) < 3:
        time.sleep(1)
    content = RecordDict({"what": ConfigRecord({"spec": json.dumps(turn)})})
    messages = [Message(content=content, dst_node_id=node, message_type="train") for node in nodes]
    answers = {}
    for reply in grid.send_and_receive(messages, timeout=120):
        if reply.has_error():
            answers[str(reply.metadata.src_node_id)] = {"error": str(reply.error)}
        else:
            answers[str(reply.content["found"]["site"])] = json.loads(str(reply.content["found"]["json"]))
    return answers
