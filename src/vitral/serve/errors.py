"""HTTP errors of the server: each has a status, a code and a message."""

import json


class HTTPError(Exception):
    """An answer other than 200; the message says what happened and what to do."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        retry_after: int = 0,
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after = retry_after
        """Seconds after which to retry; 0 if a retry would not help."""
        self.close = close
        """True if the connection cannot be reused."""

    def headers(self) -> dict[str, str]:
        headers = {}
        if self.retry_after:
            headers["retry-after"] = str(self.retry_after)
        if self.close:
            headers["connection"] = "close"
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return headers


def error_body(code: str, message: str, request_id: str) -> bytes:
    """Return the JSON body of an error."""
    return json.dumps(
        {"code": code, "message": message, "request_id": request_id}
    ).encode()
