"""What a container can connect to, found out from inside it. Not for what an open port then answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .federation import Federation

# Perl because every image holds it, Python or not: all connections at once in one process, so that a container's limit
# of processes is no matter and every denied one fails within the same WAIT_S.
WAIT_S = 1.5
CONNECT = r"""
use strict; use warnings; use Socket; use Fcntl;
my ($wait, %left, %names) = (WAIT);
for my $target (qw(TARGETS)) {
    my ($host, $port) = split /:/, $target;
    socket(my $s, PF_INET, SOCK_STREAM, 0) or die "socket: $!";
    fcntl($s, F_SETFL, fcntl($s, F_GETFL, 0) | O_NONBLOCK) or die "fcntl: $!";
    my $begun = connect($s, sockaddr_in($port, inet_aton($host))) || $!{EINPROGRESS};
    print "$target $!\n" unless $begun;
    ($left{fileno $s}, $names{fileno $s}) = ($s, $target) if $begun;
}
while (%left and $wait > 0) {
    my $ready = ''; vec($ready, $_, 1) = 1 for keys %left;
    my $found; ($found, $wait) = select(undef, $ready, undef, $wait);
    for my $number (grep { vec($ready, $_, 1) } keys %left) {
        $! = unpack "i", getsockopt(delete $left{$number}, SOL_SOCKET, SO_ERROR);
        print "$names{$number} ", ($!+0 ? "$!" : "open"), "\n";
    }
}
print "$names{$_} no answer\n" for keys %left;
"""

Target = tuple[str, int]
OPEN = "open"


def service(container: str) -> str:
    """`gateway-north` of the reachability table is the container `north-gateway`."""
    role, _, site = container.partition("-")
    return f"{site}-{role}" if site else role


def inside(federation: Federation, container: str, script: str) -> str:
    """Run a shell script in a container, named as in the reachability table; the `cli` is started for it."""
    if container == "cli":
        return federation.flwr(script)
    return federation.sh(service(container), script)


def connect(federation: Federation, container: str, targets: Iterable[Target]) -> dict[Target, str]:
    """Try every target from inside a container; return what came of each: `open`, or why not."""
    wanted = sorted(set(targets))
    program = CONNECT.replace("WAIT", str(WAIT_S), 1).replace("TARGETS", " ".join(f"{h}:{p}" for h, p in wanted))
    answers = inside(federation, container, f"perl - <<'PROBE'\n{program}\nPROBE\n")
    found = {}
    for line in answers.splitlines():
        target, separator, result = line.partition(" ")
        host, colon, port = target.partition(":")
        if separator and colon and port.isdigit():
            found[host, int(port)] = result
    assert set(found) == set(wanted), answers
    return found


def listeners(federation: Federation, container: str) -> list[str]:
    """Return the addresses, with ports, that a container listens on beyond its loopback, TCP and UDP, IPv4 and IPv6."""
    table = inside(federation, container, "grep . /proc/net/tcp /proc/net/tcp6 /proc/net/udp /proc/net/udp6 || true")
    return [local for kind, local, state in _sockets(table.splitlines()) if _listens(kind, state) and _foreign(local)]


def _sockets(lines: Sequence[str]) -> Iterable[tuple[str, str, str]]:
    for line in lines:
        path, _, row = line.partition(":")
        fields = row.split()
        if path.startswith("/proc/net/") and len(fields) > 3 and fields[0].rstrip(":").isdigit():
            yield path.removeprefix("/proc/net/"), fields[1], fields[3]


def _listens(kind: str, state: str) -> bool:
    # proc(5): 0A is LISTEN; a UDP socket that is bound and not connected is 07 (CLOSE).
    return state == ("07" if kind.startswith("udp") else "0A")


def _foreign(local: str) -> bool:
    """Addresses are hexadecimal in host byte order: 127/8 ends in 7F, ::1 is all zero up to its last word."""
    address = local.partition(":")[0]
    return not (address.endswith("7F") if len(address) == 8 else address == "0" * 24 + "01000000")
