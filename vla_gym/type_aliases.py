"""Array types used across ``vla_gym``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]
Float32Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
UInt8Array = NDArray[np.uint8]
Int64Array = NDArray[np.int64]
Observation = dict[str, NDArray[Any]]
