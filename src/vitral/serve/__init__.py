"""Floor 10: a trained model behind HTTP; see docs/serving.md.

    page, client --HTTP--> protocol, watch, app --items--> batching --frames--> worker
    \\_______________ the server process, without torch ______________/  a child process

The child holds the model and decodes: whatever a strange image does to a decoder, it
does to a process that is started again.
"""

from vitral.serve.settings import Settings

__all__ = ["Settings", "serve"]


def serve(settings: Settings) -> None:
    """Answer over HTTP until a signal ends it; every accepted request is answered.

    Raises:
        MissingExtraError: FastAPI or uvicorn is not installed.
        ServerError: the port is in use, or the model process died again and again.
        WeightsError: there is no model, or it is corrupt; before the port is bound.
        ConfigError: the model has no head, or takes clips.
    """
    import importlib.util

    from vitral.errors import MissingExtraError

    missing = [n for n in ("fastapi", "uvicorn") if not importlib.util.find_spec(n)]
    if missing:
        raise MissingExtraError(
            f"The server needs {' and '.join(missing)}: `pip install 'vitral[serve]'`."
        )
    from vitral.serve.lifecycle import run

    run(settings)
