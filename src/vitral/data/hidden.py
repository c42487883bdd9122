"""Names of files and folders that belong to a system, and are never examples."""

_SYSTEM_NAMES = frozenset(
    {"__macosx", "@eadir", "@recycle", "#recycle", "#snapshot", "lost+found"}
    | {"$recycle.bin", "system volume information", "thumbs.db", "desktop.ini"}
)


def reason_hidden(name: str) -> str:
    """Return why a file or folder of this name is never read; "" if it may be."""
    if name.casefold() in _SYSTEM_NAMES:
        return "file of the operating system"
    return "hidden" if name.startswith(".") else ""
