"""Counters in Prometheus' text format (exposition format 0.0.4).

Hand-written: it saves the dependency on prometheus_client.
"""

from bisect import bisect_left
from collections import Counter
from itertools import accumulate

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_IMAGES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)


class Histogram:
    """Counts of values by upper bound."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self, name: str) -> list[str]:
        sums = list(accumulate(self.counts))
        names = [*(f"{bound:g}" for bound in self.bounds), "+Inf"]
        return [
            f"# TYPE {name} histogram",
            *(
                f'{name}_bucket{{le="{bound}"}} {count}'
                for bound, count in zip(names, sums, strict=True)
            ),
            f"{name}_sum {self.total:.9g}",
            f"{name}_count {sums[-1]}",
        ]


class Metrics:
    """Counters since the server started."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        """By path and status; unknown paths count as `other`."""
        self.seconds = Histogram(_SECONDS)
        """Seconds from the last byte of a request to its answer, /predict with 200."""
        self.batches = Histogram(_IMAGES)
        self.dropped = 0
        """Images dropped before the model: too late, or the client left."""
        self.restarts = 0
        self.decoder_deaths = 0
        """Decoders that an image ended, or the system."""
        self.reloads = 0
        """Successful reloads."""
        self.rejected_reloads = 0
        """Failed reloads."""
        self.clients_gone = 0
        """Clients that disconnected before their answer."""

    def observe_batch(self, images: int) -> None:
        self.batches.observe(float(images))

    def render(self, gauges: dict[str, float]) -> str:
        """Return all counters and `gauges` as text."""
        lines = ["# TYPE vitral_requests_total counter"]
        for (path, status), count in sorted(self.requests.items()):
            lines.append(
                f'vitral_requests_total{{path="{path}",status="{status}"}} {count}'
            )
        for name, value in (
            ("vitral_dropped_total", self.dropped),
            ("vitral_clients_gone_total", self.clients_gone),
            ("vitral_worker_restarts_total", self.restarts),
            ("vitral_decoder_deaths_total", self.decoder_deaths),
            ("vitral_models_taken_total", self.reloads),
            ("vitral_models_refused_total", self.rejected_reloads),
        ):
            lines += [f"# TYPE {name} counter", f"{name} {value}"]
        for name, gauge in gauges.items():
            lines += [f"# TYPE {name} gauge", f"{name} {gauge:g}"]
        lines += self.seconds.lines("vitral_predict_seconds")
        lines += self.batches.lines("vitral_batch_images")
        return "\n".join(lines) + "\n"
