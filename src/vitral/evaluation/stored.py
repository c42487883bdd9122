"""Base of the results that are stored as JSON."""

from typing import Any, ClassVar, TypeVar

from vitral.config_io import result_from_dict, result_to_dict

T = TypeVar("T", bound="StoredResult")


class StoredResult:
    """A dataclass with a JSON form."""

    KIND: ClassVar[str]
    """Value of `kind` in the JSON, which says which result it is."""
    TITLE: ClassVar[str] = ""
    """Name in an error; empty for `KIND`."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return result_to_dict(self.KIND, self)

    @classmethod
    def from_dict(cls: type[T], value: dict[str, Any]) -> T:
        """Invert `to_dict`.

        Raises:
            ConfigError: a field is missing or has another type.
        """
        return result_from_dict(cls, value, cls.TITLE or cls.KIND)
