"""Which failures to reach the SuperLink a SuperNode sits out: real sockets, Flower's own retries, no SuperLink."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.supercore.retry import make_simple_http_retry_invoker

from flowerbed_supernode.connecting import SIGN_ON_SECONDS, broken, patient, repeated


@contextmanager
def server(answer: Callable[[socket.socket], object]) -> Iterator[str]:
    """A listener that does this to its one connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                answer(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(5)


def failure(url: str, timeout: float = 5) -> httpx.TransportError:
    with pytest.raises(httpx.TransportError) as raised:
        httpx.get(url, timeout=timeout, trust_env=False)
    return raised.value


def gives_up(error: Exception) -> bool:
    judge = patient(make_simple_http_retry_invoker)().should_giveup
    return bool(judge(error))


def test_a_negotiation_that_is_cut_off_is_tried_again() -> None:
    with server(lambda connection: connection.shutdown(socket.SHUT_RDWR)) as url:
        error = failure(url)
    assert make_simple_http_retry_invoker().should_giveup(error), "Flower sits it out by itself: `connecting` can go"
    assert not gives_up(error)


def test_a_negotiation_that_takes_too_long_is_tried_again() -> None:
    released = threading.Event()
    with server(lambda _: released.wait(5)) as url:
        error = failure(url, timeout=0.3)
        released.set()
    assert not gives_up(error)


def test_a_certificate_of_somebody_else_is_final(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(foreign_certificate(tmp_path))

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with pytest.raises(ssl.SSLError):
                context.wrap_socket(connection, server_side=True)
            connection.close()

        threading.Thread(target=serve, daemon=True).start()
        error = failure(f"https://127.0.0.1:{listener.getsockname()[1]}")
    assert not broken(error)
    assert gives_up(error)


def foreign_certificate(folder: Path) -> Path:
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.datetime.now(datetime.UTC)
    built = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
    path = folder / "foreign.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return path


@pytest.mark.parametrize(
    ("text", "final"),
    [
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to get local issuer certificate", True),
        ("[SSL: TLSV1_ALERT_UNKNOWN_CA] tlsv1 alert unknown ca (_ssl.c:1006)", True),
        ("[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred in violation of protocol (_ssl.c:1006)", False),
        ("_ssl.c:989: The handshake operation timed out", False),
        ("[Errno 104] Connection reset by peer", False),
    ],
)
def test_refusals_stay_final(text: str, final: bool) -> None:
    assert gives_up(httpx.ConnectError(text)) is final


class SuperLink:
    """Refuses activations with these statuses in turn, then accepts; its clock moves with the waiting."""

    def __init__(self, *statuses: int) -> None:
        self.statuses, self.now = list(statuses), 0.0

    def activate(self, _client: object, request: str) -> str:
        if self.statuses:
            response = httpx.Response(self.statuses.pop(0), request=httpx.Request("POST", "https://gateway"))
            response.raise_for_status()
        return f"node for {request}"

    def wait(self, seconds: float) -> None:
        self.now += seconds


def test_a_node_that_counts_as_online_signs_on_when_that_has_lapsed() -> None:
    superlink = SuperLink(*[412] * 31)
    assert repeated(superlink.activate, superlink.wait, lambda: superlink.now)(None, "key") == "node for key"
    assert superlink.now == 62


def test_it_is_not_asked_for_ever_and_other_refusals_are_final_at_once() -> None:
    never, refused = SuperLink(*[412] * 1000), SuperLink(401)
    for superlink, waited in ((never, SIGN_ON_SECONDS), (refused, 0)):
        with pytest.raises(httpx.HTTPStatusError):
            repeated(superlink.activate, superlink.wait, lambda s=superlink: s.now)(None, "key")
        assert waited <= superlink.now <= waited + 2
