"""Places for connections: who waits for a request makes room for who has one.

Hand-written: uvicorn counts connections only, so that a thousand idle ones of one
client lock out every other, and the supervisor that asks for /health.
"""

from collections import Counter
from typing import Protocol, runtime_checkable

RESERVE = 64
"""Places beyond the limit, for health and readiness, and to see who has a request."""
RESERVE_SECONDS = 2.0
"""Longest wait for the first request of a connection in the reserve."""
Address = tuple[str, int] | None
"""Host and port of a client; None for a socket without one."""


@runtime_checkable
class Connection(Protocol):
    """Connection of a client that is given a place."""

    client: Address

    def evict(self) -> None:
        """Answer with 503 if a head has begun, and close."""


class Admission:
    """Connections by client, and those that wait for a request, the longest first."""

    def __init__(self, limit: int, client_limit: int) -> None:
        self.limit = limit
        self.client_limit = client_limit
        self._by_host: Counter[str] = Counter()
        self._members: dict[Connection, str] = {}
        self._waiting: dict[Connection, str] = {}
        self._reserve: dict[Address, Connection] = {}
        self._fresh: set[Connection] = set()

    @property
    def num_fresh(self) -> int:
        """Connections without a whole request yet."""
        return len(self._fresh)

    def is_fresh(self, connection: Connection) -> bool:
        """Return whether a connection has not sent a whole request yet."""
        return connection in self._fresh

    def admit(self, connection: Connection) -> bool:
        """Give a place; False if even the reserve is full of answers.

        Beyond the limits it is one of the reserve, where the oldest makes room for the
        newest until its first request is there.
        """
        host = _host(connection)
        if not self._is_full(host):
            self._add_member(connection, host)
        elif not self._join_reserve(connection):
            return False
        self._fresh.add(connection)
        return True

    def is_reserved(self, client: Address) -> bool:
        """Return whether a client's connection has a place of the reserve."""
        return client in self._reserve

    def promote(self, client: Address) -> bool:
        """Move a connection with a request out of the reserve; False without room.

        One that waits for a request loses its place to it: of the same client if that
        has its share already, else of the client with most.
        """
        connection = self._reserve[client]
        host = _host(connection)
        if self._by_host[host] >= self.client_limit:
            has_room = self._make_room(host)
        elif len(self._members) >= self.limit:
            largest = self._by_host.most_common(1)[0][0]
            has_room = self._make_room(largest) or self._make_room(None)
        else:
            has_room = True
        if has_room:
            del self._reserve[client]
            self._add_member(connection, host)
            self._waiting.pop(connection)
        return has_room

    def set_waiting(self, connection: Connection, is_waiting: bool) -> None:
        """Note whether a connection waits for a request; a place in line is kept."""
        if not is_waiting:
            self._waiting.pop(connection, None)
            self._fresh.discard(connection)
        elif connection in self._members:
            self._waiting.setdefault(connection, self._members[connection])

    def remove(self, connection: Connection) -> None:
        """Free the place of a connection."""
        self._fresh.discard(connection)
        self._waiting.pop(connection, None)
        if self._reserve.get(connection.client) is connection:
            del self._reserve[connection.client]
        if connection in self._members:
            host = self._members.pop(connection)
            self._by_host[host] -= 1
            if not self._by_host[host]:
                del self._by_host[host]

    def _is_full(self, host: str) -> bool:
        full = len(self._members) >= self.limit
        return full or self._by_host[host] >= self.client_limit

    def _add_member(self, connection: Connection, host: str) -> None:
        self._members[connection] = self._waiting[connection] = host
        self._by_host[host] += 1

    def _join_reserve(self, connection: Connection) -> bool:
        if len(self._reserve) >= RESERVE:
            oldest = next(iter(self._reserve.values()))
            if oldest not in self._fresh:
                return False
            oldest.evict()
            self.remove(oldest)
        self._reserve[connection.client] = connection
        return True

    def _make_room(self, host: str | None) -> bool:
        """Evict who waits longest, of a host or of all; False if none waits."""
        waiting = (c for c, own in self._waiting.items() if host in (None, own))
        oldest = next(waiting, None)
        if oldest is None:
            return False
        oldest.evict()
        self.remove(oldest)
        return True


def _host(connection: Connection) -> str:
    return connection.client[0] if connection.client else ""
