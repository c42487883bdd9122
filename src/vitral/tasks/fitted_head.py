"""A head that is fitted to features, as a task that has such a fit defines it."""

import numpy as np

from vitral.errors import ConfigError
from vitral.evaluation.probes import HeadFit
from vitral.tasks.features import ExtractedFeatures


class FittedHead:
    """The part of a task on heads that need no gradient steps."""

    def fit_head(
        self, features: ExtractedFeatures, outputs: int, *, c: float | None, seed: int
    ) -> HeadFit | None:
        """Return a linear head that is fitted to features; None where it cannot be.

        Args:
            outputs: rows of the head.
            c: inverse strength of the penalty; None to choose it.
            seed: of what is drawn.
        """
        return None

    def is_right(self, outputs: np.ndarray, features: ExtractedFeatures) -> np.ndarray:
        """Return a number for each example: 1 for a right answer, 0 for a wrong one.

        Args:
            outputs: those of a fitted head for the features.

        Raises:
            ConfigError: the task fits no head.
        """
        raise ConfigError(
            f"{type(self).__name__} fits a head and does not say how good it is: "
            "define `is_right`."
        )
