"""A site's Runtime API with tasks of the test's choosing: Flower's own SuperNode app and state, without a SuperLink.

Run inside a container, beside an executor that shares its network: ``python runtime_api.py SECRETS JOBS OUT``. Each
file ``JOBS/<run id>.json`` becomes a run with one task; ``OUT/<run id>.json`` tells how it stands. Not a model of the
SuperLink.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import time
from pathlib import Path

import uvicorn
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.main import create_app
from flwr.supernode.nodestate import NodeStateFactory
from flwr.supernode.start_client_internal import _insert_message

from flowerbed_supernode import replies

PORT, NODE = 9094, 7


class Runs:
    def __init__(self) -> None:
        self.factory = NodeStateFactory(objectstore_factory=ObjectStoreFactory())
        self.state = self.factory.state()
        self.state.set_node_id(NODE)
        self.replies: dict[int, dict[str, object]] = {}

    def add(self, job: dict[str, object], fab: bytes) -> None:
        run_id, digest = int(str(job["run_id"])), hashlib.sha256(fab).hexdigest()
        run = Run.create_empty(run_id)
        run.fab_id, run.fab_version, run.fab_hash, run.series_id = "flowerbed/probe", "1.0.0", digest, run_id
        run.primary_task_type = TaskType.CLIENT_APP
        context = Context(run_id, NODE, {}, RecordDict(), {}, series_id=run_id)
        self.state.set_run_series_context(run_id, context)
        self.state.store_run(run)
        self.state.store_fab(Fab(digest, fab, {}))
        if job["type"] != TaskType.SERVER_APP:
            content = RecordDict({"config": ConfigRecord({"round": 1})})
            TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, 1, 1
            message = Message(content, dst_node_id=NODE, message_type="train")
            _insert_message(message, self.state, self.factory.objectstore_factory.store())
        self.state.create_task(str(job["type"]), run_id, fab_hash=digest)

    def standing(self) -> dict[int, dict[str, object]]:
        for message in self.state.get_messages_legacy(is_reply=True):
            reason = message.error.reason if message.has_error() else None
            self.replies[message.metadata.run_id] = {"error": reason}
        return {
            task.run_id: {
                "status": task.status.status,
                "sub_status": task.status.sub_status,
                "details": task.status.details,
                "reply": self.replies.get(task.run_id),
            }
            for task in self.state.get_tasks()
        }


def main(secrets: Path, jobs: Path, out: Path) -> None:
    replies.install()
    runs, seen = Runs(), set()
    config = uvicorn.Config(
        create_app(runs.factory, (secrets / "superexec.secret").read_bytes()),
        host="127.0.0.1",
        port=PORT,
        log_level="warning",
        ssl_certfile=str(secrets / "tls.crt"),
        ssl_keyfile=str(secrets / "tls.key"),
    )
    threading.Thread(target=uvicorn.Server(config).run, daemon=True).start()
    while True:
        for path in sorted(jobs.glob("*.json")):
            if path.name not in seen:
                seen.add(path.name)
                job = json.loads(path.read_text())
                runs.add(job, (jobs / str(job["fab"])).read_bytes())
        for run_id, standing in runs.standing().items():
            part = out / f".{run_id}.part"
            part.write_text(json.dumps(standing))
            part.replace(out / f"{run_id}.json")
        time.sleep(0.1)


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:4]))
