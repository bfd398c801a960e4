"""The main job: nine methods train a small perceptron on handwritten digits.

This module and `methods` need only fastopt; the other modules need the packages of the extra `demo`.
"""

from fastopt.demo.methods import METHODS

__all__ = ["METHODS"]
