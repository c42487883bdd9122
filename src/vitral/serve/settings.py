"""Settings and limits of the server."""

from dataclasses import dataclass, fields

from vitral.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a server. The defaults suit one machine and images from a camera."""

    run: str
    """A run folder, a model folder, or an exported model."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for every interface of the machine."""
    port: int = 8000
    """TCP port; 0 lets the system choose one."""
    max_batch: int = 8
    """Images in one pass of the model; 1 for no batches."""
    max_wait_ms: float = 4.0
    """Milliseconds that the first image of a batch waits for others; 0 for none."""
    queue: int = 0
    """Images that may wait; 0 for 8 times `max_batch`."""
    queue_seconds: float = 1.0
    """Seconds that an image may expect to wait; one batch may wait in any case."""
    max_bytes: int = 20_000_000
    """Bytes of a request's body, counted while it arrives."""
    max_pixels: int = 32_000_000
    """Width times height, read from an image's header before it is decoded."""
    decode_seconds: float = 8.0
    """Seconds of processor time to decode an image of `max_pixels`; a smaller one has
    its share, an eighth at least."""
    decoders: int = 0
    """Images that are decoded at a time, each in a process; 0 for 8 more than cores."""
    max_buffered: int = 256_000_000
    """Bytes of all bodies together that are buffered at a time."""
    timeout: float = 10.0
    """Seconds from the last byte of a request to its answer."""
    body_timeout: float = 30.0
    """Seconds that a body may take to arrive."""
    head_timeout: float = 10.0
    """Seconds that the first line and headers may take to arrive."""
    keep_alive: float = 5.0
    """Seconds that a connection may stay without a request."""
    max_connections: int = 512
    """Connections open at a time. One that waits for a request makes room for a new
    one; health and readiness have places of their own."""
    client_connections: int = 0
    """Connections of one client (address) at a time; 0 for half of all."""
    allow_hosts: str = ""
    """Names of this server, and of sites whose pages may post to it, joined by commas.
    On a loopback address others are refused."""
    worker_timeout: float = 30.0
    """Seconds for one batch, after which the model process counts as hung."""
    grace: float = 20.0
    """Seconds that a stop waits for answers; what is left then gets 503."""
    token: str = ""
    """Bearer token to ask for; empty for none. Better in VITRAL_TOKEN, which nobody
    sees."""
    threads: int = 0
    """Threads of the model; 0 for one a core."""
    merge: int | None = None
    """Tokens merged in every block; 0 for none, None as the model was trained."""
    merge_schedule: str | None = None
    """Spread over the blocks; None for `constant`."""

    def __post_init__(self) -> None:
        minimums = {"port": 0, "queue": 0, "max_wait_ms": 0, "threads": 0, "merge": 0}
        minimums |= {"client_connections": 0, "decoders": 0}
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None or isinstance(value, str):
                continue
            low = minimums.get(field.name)
            if not (value >= low if low is not None else value > 0):
                expected = "0 or more" if low is not None else "above 0"
                raise ConfigError(f"`{field.name}` must be {expected}: got {value}.")
        if self.port > 65535:
            raise ConfigError(f"`port` must be at most 65535: got {self.port}.")
        if any(not 33 <= ord(letter) <= 126 for letter in self.token):
            raise ConfigError(
                "The token must be visible ASCII characters without spaces, as a "
                "header can carry them."
            )
        if self.max_bytes > self.max_buffered:
            raise ConfigError(
                f"`max_bytes` {self.max_bytes} is above `max_buffered` "
                f"{self.max_buffered}, so that such a body could never be held."
            )

    @property
    def client_limit(self) -> int:
        """Connections of one client."""
        return self.client_connections or max(1, self.max_connections // 2)

    @property
    def queue_limit(self) -> int:
        """Images that may wait."""
        return self.queue or 8 * self.max_batch
