"""Mini-batches: every sample once an epoch, views where possible, reproducible, and clear errors."""

import numpy as np
import pytest

from fastopt import minibatches

X = np.arange(30).reshape(10, 3)
Y = np.arange(10)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 9, 10, 11, None, np.int64(4)])
def test_every_sample_once(batch_size, drop_last, shuffle):
    size = 10 if batch_size is None else int(batch_size)
    batches = list(minibatches(X, Y, batch_size=batch_size, shuffle=shuffle, drop_last=drop_last, rng=1))
    lengths = [len(y) for _, y in batches]
    whole, rest = divmod(10, size)
    assert lengths == [size] * whole + ([rest] if rest and not drop_last else [])
    for x, y in batches:
        assert (x == X[y]).all()  # the arrays stay together
    seen = [int(i) for _, y in batches for i in y]
    assert len(set(seen)) == len(seen)
    if not drop_last:
        assert sorted(seen) == list(range(10))
    if not shuffle:
        assert seen == sorted(seen)


def test_order_and_views():
    for batch_size, shuffle in [(3, False), (None, False), (None, True), (10, True), (99, True)]:
        for x, y in minibatches(X, Y, batch_size=batch_size, shuffle=shuffle, rng=0):
            assert np.shares_memory(x, X)
            assert np.shares_memory(y, Y)
    for x, _ in minibatches(X, Y, batch_size=3, rng=0):
        assert not np.shares_memory(x, X)


def test_a_seed_gives_the_same_order_and_a_generator_moves_on():
    def order(rng):
        return [int(i) for (y,) in minibatches(Y, batch_size=3, rng=rng) for i in y]

    assert order(5) == order(5)
    assert order(5) != order(6)
    generator = np.random.default_rng(5)
    first, second = order(generator), order(generator)
    assert first == order(5)
    assert first != second
    generator = np.random.default_rng(5)
    assert [order(generator), order(generator)] == [first, second]


def test_no_samples():
    assert list(minibatches(X[:0], batch_size=3)) == []
    assert list(minibatches(X[:0], batch_size=None)) == []


@pytest.mark.parametrize(
    ("arrays", "options", "error", "words"),
    [
        ((), {"batch_size": 1}, ValueError, "at least one array"),
        ((X, Y[:9]), {"batch_size": 1}, ValueError, r"arrays\[1\] has 9 samples, but arrays\[0\] has 10"),
        ((X, [1] * 10), {"batch_size": 1}, TypeError, r"arrays\[1\] must be a NumPy array, got list"),
        ((np.array(1.0),), {"batch_size": 1}, ValueError, r"arrays\[0\] .* 0-d"),
        ((X,), {"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ((X,), {"batch_size": -2}, ValueError, "batch_size must be at least 1, got -2"),
        ((X,), {"batch_size": 2.0}, TypeError, "batch_size must be an int or None, got 2.0"),
        ((X,), {"batch_size": True}, TypeError, "batch_size must be an int or None, got a bool"),
        ((X,), {}, TypeError, "batch_size"),
    ],
)
def test_errors_come_with_the_call(arrays, options, error, words):
    with pytest.raises(error, match=words):
        minibatches(*arrays, **options)
