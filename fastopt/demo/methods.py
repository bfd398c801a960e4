"""The field's standard methods: for each its optimizer, batch size, epochs and hyperparameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import fastopt


@dataclass(frozen=True)
class Method:
    """A method of training.

    `name` is its name on the command line; `batch_size=None` means all the data; `hypers` are the hyperparameters for
    the digits, `surface` those for the two-dimensional surface, whose gradients are of another size.
    """

    name: str
    title: str
    optimizer: Callable[..., fastopt.Optimizer]
    batch_size: int | None
    epochs: int
    hypers: Mapping[str, Any]
    surface: Mapping[str, Any] = field(default_factory=dict)
    expects: float | None = 0.93  # the test accuracy below which the report has a remark; None: any will do
    note: str = ""


METHODS = {
    method.name: method
    for method in [
        Method(
            "batch-gd",
            "batch GD",
            fastopt.SGD,
            None,
            60,
            {"lr": 0.3},
            {"lr": 1e-2},
            expects=None,
            note="Batch GD lags because it takes a single step an epoch, where batches of 32 make 42.",
        ),
        Method("sgd", "SGD", fastopt.SGD, 1, 10, {"lr": 0.01}, {"lr": 1e-2}),
        Method("minibatch-gd", "mini-batch GD", fastopt.SGD, 32, 30, {"lr": 0.1}, {"lr": 1e-2}),
        Method("momentum", "Momentum", fastopt.Momentum, 32, 30, {"lr": 0.02}, {"lr": 1e-3}),
        Method("nag", "NAG", fastopt.NAG, 32, 30, {"lr": 0.02}, {"lr": 1e-3}),
        Method("adagrad", "Adagrad", fastopt.Adagrad, 32, 30, {"lr": 0.02}, {"lr": 0.3}),
        Method("adadelta", "Adadelta", fastopt.Adadelta, 32, 30, {"lr": 0.5}, {"lr": 1.0, "eps": 1e-5}),
        Method("rmsprop", "RMSprop", fastopt.RMSprop, 32, 30, {"lr": 0.001}, {"lr": 1e-2, "alpha": 0.9}),
        Method("adam", "Adam", fastopt.Adam, 32, 30, {"lr": 0.002}, {"lr": 0.05}),
    ]
}
