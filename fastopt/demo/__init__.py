"""The main job: nine methods train a small perceptron on handwritten digits.

This module and `methods` need nothing but fastopt; the others need the packages of the extra `demo`.
"""

from fastopt.demo.methods import METHODS

__all__ = ["METHODS"]
