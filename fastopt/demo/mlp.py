"""A small multi-layer perceptron in NumPy: the forward and the backward pass."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


class MLP:
    """One hidden layer with ReLU, softmax at the end, cross-entropy loss.

    Parameters
    ----------
    sizes : (int, int, int)
        Inputs, hidden units, classes.
    rng : numpy.random.Generator
        Draws the weights: He et al., arXiv:1502.01852, with standard deviation sqrt(2/inputs) under a ReLU.
    dtype
        Type of the parameters.

    Attributes
    ----------
    params : dict of str to array
        `w1`, `b1`, `w2`, `b2`, which an optimizer updates in place.
    """

    def __init__(self, sizes: tuple[int, int, int], rng: np.random.Generator, dtype: Any = np.float32) -> None:
        inputs, hidden, classes = sizes
        self.params: dict[str, Array] = {
            "w1": (rng.normal(size=(inputs, hidden)) * np.sqrt(2 / inputs)).astype(dtype),
            "b1": np.zeros(hidden, dtype),
            "w2": (rng.normal(size=(hidden, classes)) * np.sqrt(1 / hidden)).astype(dtype),
            "b2": np.zeros(classes, dtype),
        }

    def forward(self, x: Array) -> tuple[Array, Array]:
        """The hidden activations and the logarithms of the class probabilities."""
        p = self.params
        hidden = np.maximum(x @ p["w1"] + p["b1"], 0)
        logits = hidden @ p["w2"] + p["b2"]
        logits -= logits.max(axis=1, keepdims=True)  # the softmax does not change, and exp cannot overflow
        return hidden, logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    def loss(self, x: Array, labels: Array) -> float:
        """The mean cross-entropy, in nats."""
        _, log_probabilities = self.forward(x)
        return float(-log_probabilities[np.arange(len(labels)), labels].mean())

    def loss_and_grads(self, x: Array, labels: Array) -> tuple[float, dict[str, Array]]:
        """The mean cross-entropy and its gradient for each of `params`."""
        hidden, log_probabilities = self.forward(x)
        rows = np.arange(len(labels))
        loss = float(-log_probabilities[rows, labels].mean())
        d_logits = np.exp(log_probabilities)  # the gradient of softmax and cross-entropy together: probability - truth
        d_logits[rows, labels] -= 1
        d_logits /= len(labels)
        d_hidden = d_logits @ self.params["w2"].T
        d_hidden[hidden <= 0] = 0
        grads = {
            "w1": x.T @ d_hidden,
            "b1": d_hidden.sum(axis=0),
            "w2": hidden.T @ d_logits,
            "b2": d_logits.sum(axis=0),
        }
        return loss, grads

    def accuracy(self, x: Array, labels: Array) -> float:
        """The share of samples whose most probable class is the right one."""
        _, log_probabilities = self.forward(x)
        return float((log_probabilities.argmax(axis=1) == labels).mean())
