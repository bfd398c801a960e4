from typing import Any

import numpy as np

__all__ = ["zeros_like"]

def zeros_like(arrays: list[np.ndarray[Any, np.dtype[Any]]]) -> list[np.ndarray[Any, np.dtype[Any]]]: ...
