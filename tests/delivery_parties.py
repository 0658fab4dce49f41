"""A SuperNode and a ServerApp that lose answers, crash and repeat themselves, talking to Flower's own handlers.

They know what the real ones know: a SuperNode has one message at a time, a ServerApp asks for what it has no reply to.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from flwr.app import Message
from flwr.app.message.message import remove_content_from_message
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PushAppMessagesRequest
from flwr.proto.task_pb2 import Task
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, iterate_object_tree
from flwr.superlink.servicer.fleet import fleet_handlers
from flwr.superlink.servicer.runtime import runtime_handlers

from delivery_support import INTERVAL_S, instruction, reply_to
from flowerbed_superlink.state import PostgresLinkState


@dataclass
class SuperNode:
    """One SuperNode's main loop, step by step."""

    state: PostgresLinkState
    node_id: int
    in_hand: Message | None = None

    @property
    def node(self) -> Node:
        return Node(node_id=self.node_id)

    def pull(self, *, lost: bool = False) -> tuple[Message, ObjectTree] | None:
        """Ask for a message; with `lost`, without getting the answer."""
        answer = fleet_handlers.pull_messages(PullMessagesRequest(node=self.node), self.state, self.state.object_store)
        if lost or not answer.messages_list:
            return None
        return message_from_proto(answer.messages_list[0]), answer.message_object_trees[0]

    def receive(self, got: tuple[Message, ObjectTree], *, partly: bool = False, repeat: bool = False) -> None:
        """Get a message's objects, all of which must be there, and confirm it; with `partly`, give up before."""
        message, tree = got
        for each in iterate_object_tree(tree):
            request = PullObjectRequest(node=self.node, run_id=message.metadata.run_id, object_id=each.object_id)
            assert fleet_handlers.pull_object(request, self.state).object_available
            if partly:
                return
        for _ in range(2 if repeat else 1):
            fleet_handlers.confirm_message_received(
                ConfirmMessageReceivedRequest(
                    node=self.node, run_id=message.metadata.run_id, message_object_id=message.metadata.message_id
                ),
                self.state,
                self.state.object_store,
            )
        self.in_hand = message

    def take(self) -> Message:
        """Pull and receive a message, which there must be."""
        got = self.pull()
        assert got is not None
        self.receive(got)
        return got[0]

    def push(self, reply: Message, *, objects: int | None = None, repeat: bool = False) -> list[str]:
        """Send a reply with so many of its objects (all unless given); return what the SuperLink asked for."""
        contents = get_all_nested_objects(reply)
        request = PushMessagesRequest(
            node=self.node,
            messages_list=[message_to_proto(remove_content_from_message(reply))],
            message_object_trees=[get_object_tree(reply)],
            clientapp_runtime_list=[0.1],
        )
        for _ in range(2 if repeat else 1):
            answer = fleet_handlers.push_messages(request, self.state)
        for each in list(answer.objects_to_push)[:objects]:
            sent = PushObjectRequest(
                node=self.node,
                run_id=reply.metadata.run_id,
                object_id=each,
                object_content=contents[each].deflate(),
                session_id=answer.session_id,
            )
            for _ in range(2 if repeat else 1):
                fleet_handlers.push_object(sent, self.state)
        return list(answer.objects_to_push)

    def finish(self, *, objects: int | None = None, repeat: bool = False) -> Message:
        """Reply to what is in hand."""
        assert self.in_hand is not None
        reply, self.in_hand = reply_to(self.in_hand), None
        self.push(reply, objects=objects, repeat=repeat)
        return reply

    def restart(self) -> None:
        """Come back as a new process after the SuperLink has noticed that the old one is gone."""
        self.in_hand = None
        self.state.deactivate_node(self.node_id)
        assert self.state.activate_node(self.node_id, INTERVAL_S)


@dataclass
class ServerApp:
    """One run's Grid, step by step, and what each message came to."""

    state: PostgresLinkState
    run_id: int
    waiting: set[str] = field(default_factory=set)
    outcomes: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    sent: int = 0

    @property
    def task(self) -> Task:
        return Task(run_id=self.run_id)

    def send(self, *node_ids: int, ttl_s: float = 3600, repeat: bool = False, objects: int | None = None) -> list[str]:
        """Push a message to each of these nodes in one request, with so many of its objects."""
        self.sent += 1
        messages = [instruction(self.run_id, node_id, self.sent, ttl_s) for node_id in node_ids]
        request = PushAppMessagesRequest(
            messages_list=[message_to_proto(remove_content_from_message(message)) for message in messages],
            message_object_trees=[get_object_tree(message) for message in messages],
        )
        for _ in range(2 if repeat else 1):
            answer = runtime_handlers.push_messages(request, self.state, self.task)
        contents = {key: value for message in messages for key, value in get_all_nested_objects(message).items()}
        for each in list(answer.objects_to_push)[:objects]:
            sent = PushObjectRequest(
                node=Node(node_id=SUPERLINK_NODE_ID),
                run_id=self.run_id,
                object_id=each,
                object_content=contents[each].deflate(),
                session_id=answer.session_id,
            )
            for _ in range(2 if repeat else 1):
                assert runtime_handlers.push_object(sent, self.state, self.task).stored
        ids = list(answer.message_ids)
        self.waiting |= set(ids)
        return ids

    def pull(self, *, lost: bool = False, confirmed: int | None = None, repeat: bool = False) -> dict[str, str]:
        """Ask for all replies, get their objects and confirm so many; return what they say by message."""
        request = PullAppMessagesRequest(message_ids=sorted(self.waiting))
        answer = runtime_handlers.pull_messages(request, self.state, self.task)
        if lost:
            return {}
        got: dict[str, str] = {}
        pairs = list(zip(answer.messages_list, answer.message_object_trees, strict=True))
        for proto, tree in pairs[:confirmed]:
            for each in iterate_object_tree(tree):
                wanted = PullObjectRequest(
                    node=Node(node_id=SUPERLINK_NODE_ID), run_id=self.run_id, object_id=each.object_id
                )
                assert runtime_handlers.pull_object(wanted, self.state, self.task).object_available
            for _ in range(2 if repeat else 1):
                runtime_handlers.confirm_message_received(
                    ConfirmMessageReceivedRequest(message_object_id=proto.metadata.message_id), self.state, self.task
                )
            message = message_from_proto(proto)
            asked = message.metadata.reply_to_message_id
            got[asked] = message.error.reason if message.has_error() else "reply"
            self.outcomes[asked].append(got[asked])
        self.waiting -= set(got)
        return got
