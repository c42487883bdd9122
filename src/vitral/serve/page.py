"""Routes of the page: files of this package, under a policy of their own."""

from importlib import resources

from fastapi import FastAPI, Response

_CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
PAGE = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
"""File and media type of each path."""


def add_page(app: FastAPI) -> None:
    """Add the routes of `PAGE`."""

    def add(path: str, name: str, media_type: str) -> None:
        content = resources.files("vitral.serve").joinpath(name).read_bytes()

        @app.get(path, include_in_schema=False)
        async def page() -> Response:
            headers = {"content-security-policy": _CONTENT_POLICY}
            return Response(content, headers=headers, media_type=media_type)

    for path, (name, media_type) in PAGE.items():
        add(path, name, media_type)
