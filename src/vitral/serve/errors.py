"""What the server answers when it does not answer: a status, a code and a sentence."""

import json


class HTTPError(Exception):
    """An answer other than 200. The sentence says what happened and what to do."""

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
        """Seconds after which to try again; 0 where that would not help."""
        self.close = close
        """Whether the connection cannot be used again."""

    def headers(self) -> dict[str, str]:
        found = {}
        if self.retry_after:
            found["retry-after"] = str(self.retry_after)
        if self.close:
            found["connection"] = "close"
        if self.status == 401:
            found["www-authenticate"] = "Bearer"
        return found


def error_body(code: str, message: str, request_id: str) -> bytes:
    """The JSON of an error."""
    return json.dumps(
        {"code": code, "message": message, "request_id": request_id}
    ).encode()
