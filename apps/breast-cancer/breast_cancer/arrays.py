"""The model's parameters as named arrays, and the checks both sides make before they use any. Not for training."""

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord

from breast_cancer.errors import ArraysError
from breast_cancer.schema import FEATURES

Arrays = dict[str, npt.NDArray[np.float32]]
# Names as in torch's state_dict of `torch.nn.Linear(30, 1)`.
SHAPES: Final[Mapping[str, tuple[int, ...]]] = {"weight": (1, len(FEATURES)), "bias": (1,)}
# A kilobyte each; anything greater is refused unread.
MAX_BYTES: Final = 4096


def initial_arrays() -> Arrays:
    """Return the model before training: zeros, the usual start of a logistic regression."""
    return {name: np.zeros(shape, dtype=np.float32) for name, shape in SHAPES.items()}


def checked_arrays(record: ArrayRecord) -> Arrays:
    """Return the arrays of a record that holds exactly this model, all values finite.

    Raises:
        ArraysError: names the array and what is wrong with it.
    """
    if set(record) != set(SHAPES):
        raise ArraysError(f"The arrays are not those of this model: {', '.join(SHAPES)} are expected.")
    return {name: _checked(name, record) for name in SHAPES}


def _checked(name: str, record: ArrayRecord) -> npt.NDArray[np.float32]:
    array = record[name]
    if len(array.data) > MAX_BYTES:
        raise ArraysError(f"Array '{name}' is too large.")
    try:
        values = array.numpy()
    except (TypeError, ValueError, EOFError, OSError) as error:
        raise ArraysError(f"Array '{name}' cannot be read.") from error
    if values.shape != SHAPES[name] or values.dtype != np.float32:
        raise ArraysError(f"Array '{name}' is {values.dtype} {values.shape}, not float32 {SHAPES[name]}.")
    if not np.isfinite(values).all():
        raise ArraysError(f"Array '{name}' holds values that are not finite.")
    return values
