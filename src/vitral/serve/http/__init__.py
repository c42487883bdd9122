"""HTTP below the application: parsing limits, fair turns, uploads."""

from vitral.serve.http import limits, multipart
from vitral.serve.http.fair_scheduler import Turns
from vitral.serve.http.middleware import Watch
from vitral.serve.http.protocol import HEAD_BYTES, Protocol

__all__ = ["HEAD_BYTES", "Protocol", "Turns", "Watch", "limits", "multipart"]
