"""HTTP below the application: protocol, limits, uploads, middleware."""

from vitral.serve.http import accept, limits, multipart
from vitral.serve.http.admission import Admission
from vitral.serve.http.fair_scheduler import FairScheduler
from vitral.serve.http.middleware import RequestMiddleware
from vitral.serve.http.origin import OriginCheck
from vitral.serve.http.protocol import HEAD_BYTES, HTTPProtocol

__all__ = [
    "HEAD_BYTES",
    "Admission",
    "FairScheduler",
    "HTTPProtocol",
    "OriginCheck",
    "RequestMiddleware",
    "accept",
    "limits",
    "multipart",
]
