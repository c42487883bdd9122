"""HTTP server of a trained model; see docs/serving.md.

    client --HTTP--> protocol, middleware, app --items--> batching --frames--> worker

The worker is a child process that decodes and runs the model: an image that crashes a
decoder crashes a process that is restarted. The server process never imports torch.
"""

from vitral.serve.settings import Settings

__all__ = ["Settings", "serve"]


def serve(settings: Settings) -> None:
    """Serve a model over HTTP until a signal; every accepted request is answered.

    Raises:
        MissingExtraError: FastAPI or uvicorn is not installed.
        ServerError: the port is in use, or the worker process crashed repeatedly.
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
