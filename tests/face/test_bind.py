"""Gradients that are bound, given again or new in each step; and buffers of other libraries."""

import array
import copy
import ctypes
import gc
import pickle
import sys
import weakref

import numpy as np
import pytest
from common import CLASSES, DTYPES, assert_same_bits, random_tensor

import fastopt
from fastopt._rules import RULES

SHAPES = [(3, 4), (), (0, 2), (17,)]


def tensors(seed):
    rng = np.random.default_rng(seed)
    return [random_tensor(rng, int(np.prod(shape)), DTYPES[i % 2]).reshape(shape) for i, shape in enumerate(SHAPES)]


STRUCTURES = {
    "list": list,
    "tuple": tuple,
    "mapping": lambda arrays: dict(zip("abcd", arrays, strict=True)),
    "groups": lambda arrays: [{"params": arrays[0]}, {"params": arrays[1:]}],
}


@pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES)
@pytest.mark.parametrize("cls", CLASSES)
def test_bound_fresh_and_repeated_gradients_give_the_same_bits(cls, structure):
    """The trajectory does not depend on how the gradients are given, in this step or in earlier ones."""
    params = {name: tensors(0) for name in ("bound", "same", "fresh", "mixed")}
    opts = {name: cls(structure(arrays)) for name, arrays in params.items()}
    grads = [np.zeros_like(p) for p in params["bound"]]
    opts["bound"].bind(structure(grads))
    opts["mixed"].bind(structure(grads))
    same = structure(grads)
    for step in range(6):
        for grad, value in zip(grads, tensors(step + 1), strict=True):
            grad[...] = value
        assert opts["bound"].step() is None
        opts["same"].step(same)
        opts["fresh"].step(structure([g.copy() for g in grads]))
        if step % 2:
            opts["mixed"].step()
        else:
            opts["mixed"].step(structure([g.copy() for g in grads]))
        for name in ("same", "fresh", "mixed"):
            for found, expected in zip(params[name], params["bound"], strict=True):
                assert_same_bits(found, expected, name)
        assert not np.array_equal(params["bound"][0], tensors(0)[0])


def test_step_without_gradients_needs_a_binding():
    opt = fastopt.SGD([np.ones(2)])
    with pytest.raises(TypeError, match="no gradients are bound; give them, or bind"):
        opt.step()
    opt.bind([np.ones(2)])
    opt.step()
    opt.bind(None)
    with pytest.raises(TypeError, match="no gradients are bound"):
        opt.step()
    assert opt.state[0]["step"] == 1


def test_a_refused_binding_keeps_the_last_one():
    p, good = np.ones(3), np.full(3, 0.5)
    opt = fastopt.SGD([p], lr=1.0)
    opt.bind([good])
    bad = [
        ([np.ones(4)], ValueError, "grads[0] has shape (4,)"),
        ([np.ones(3, np.int32)], TypeError, "grads[0] has dtype int32"),
        ([np.ones(3, np.longdouble)], TypeError, "grads[0] has dtype"),
        ([p], ValueError, "grads[0] shares memory with params[0]"),
        ([good, good], ValueError, "grads must be a sequence of 1 arrays, got 2"),
        ([np.ones(25, np.uint8)[1:].view(float)], ValueError, "grads[0] is not aligned"),
        ([[1.0, 1.0, 1.0]], TypeError, "grads[0] is of type list"),
        (good, TypeError, "grads must be a sequence of 1 arrays, got one array"),
    ]
    for grads, error, words in bad:
        with pytest.raises(error) as caught:
            opt.bind(grads)
        assert words in str(caught.value)
    opt.step()
    assert (p == 0.5).all()


def test_bound_gradients_may_be_read_only_and_shared():
    shared = np.ones(3)
    shared.flags.writeable = False
    params = [np.ones(3), np.ones(3)]
    opt = fastopt.SGD(params, lr=0.25)
    opt.bind([shared, shared])
    opt.step()
    assert all((p == 0.75).all() for p in params)


def test_a_binding_survives_new_state_and_loading():
    """New state buffers may overlap the bound gradients, so the binding is checked again."""
    p, grad = np.ones(4), np.full(4, 0.5)
    opt, expected = fastopt.SGD(p), fastopt.SGD(p.copy())
    opt.bind(grad)
    for change in ({}, {"momentum": 0.9}, {"lr": 0.5}):
        for name, value in change.items():
            setattr(opt, name, value)
            setattr(expected, name, value)
        opt.step()
        expected.step(grad)
    opt.load_state_dict(expected.state_dict())
    opt.step()
    expected.step(grad)
    assert_same_bits(p, expected.params[0])


def test_overlap_of_a_known_gradient_with_new_state_is_found():
    """Memory that an earlier step accepted as a gradient is checked again once there is new state."""
    p = np.ones(4)
    opt = fastopt.SGD([p], lr=1.0, momentum=0.9)
    opt.step([np.full(4, 0.5)])
    memory = opt.state[0]["momentum_buffer"]
    opt.momentum = 0  # the buffer is kept, but not in use
    opt.step([memory])
    before = p.copy()
    opt.momentum = 0.9
    with pytest.raises(ValueError, match=r"grads\[0\] shares memory with params\[0\] or its state"):
        opt.step([memory])
    assert_same_bits(p, before)


def test_bound_gradients_cannot_be_resized_until_they_are_unbound():
    grad = np.ones(10)
    opt = fastopt.SGD([np.ones(10)])
    opt.bind([grad])
    with pytest.raises(ValueError, match="resize"):
        grad.resize(10_000)
    opt.bind(None)
    references = sys.getrefcount(grad)
    opt.bind([grad])
    assert sys.getrefcount(grad) > references
    opt.bind([np.ones(10)])
    assert sys.getrefcount(grad) == references


@pytest.mark.parametrize("bad", [False, True])
def test_a_step_keeps_no_gradient(bad):
    """After a step, or an error, the memory of the gradients is the caller's again."""
    opt = fastopt.Adam([np.ones(100), np.ones(3)])
    grads = [np.ones(100), np.ones(4 if bad else 3)]
    seen = weakref.ref(grads[0])
    if bad:
        with pytest.raises(ValueError, match="shape"):
            opt.step(grads)
    else:
        opt.step(grads)
    del grads
    gc.collect()
    assert seen() is None


@pytest.mark.filterwarnings("ignore:Setting the shape:DeprecationWarning")
def test_an_array_that_changes_between_steps_is_checked_again():
    """The same object may have other memory, another shape or another type."""
    p, grad = np.ones(4), np.ones(4)
    opt = fastopt.SGD([p], lr=1.0)
    opt.step([grad])
    grad.shape = (2, 2)
    with pytest.raises(ValueError, match="shape"):
        opt.step([grad])
    grad.shape = (4,)
    grad.resize(8, refcheck=False)
    with pytest.raises(ValueError, match="shape"):
        opt.step([grad])
    assert (p == 0).all()
    grad.resize(4, refcheck=False)
    opt.step([grad])
    assert (p == -1).all()


@pytest.mark.filterwarnings("ignore:Setting the dtype:DeprecationWarning")
@pytest.mark.parametrize(
    ("before", "after"),
    [(np.float32, np.float64), (np.float64, np.float32), (np.float32, np.dtype(np.float32).newbyteorder())],
)
def test_a_parameter_that_becomes_another_type_is_an_error(before, after):
    """Read as another type, it has other elements, more or fewer than its state."""
    p = np.ones(8, before)
    opt = fastopt.Adam(p, amsgrad=True)
    opt.step(np.ones(8, before))
    saved, bits = opt.state_dict(), p.tobytes()
    p.dtype = after
    for _ in range(2):
        for act in (opt.step, opt.bind):
            with pytest.raises(ValueError, match=r"params has become \S+ of shape .* since it was bound"):
                act(np.ones(p.size, np.dtype(after).newbyteorder("=")))
        opt.load_state_dict(saved)  # the state is that of the type that was bound
        assert p.tobytes() == bits
    p.dtype = before
    opt.load_state_dict(saved)
    opt.step(np.ones(8, before))
    assert opt.state[0]["step"] == 2


def test_copies_are_not_bound():
    opt = fastopt.Adam(np.ones(2))
    opt.bind(np.ones(2))
    opt.threads = 3
    for twin in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        assert twin.threads == 3
        with pytest.raises(TypeError, match="no gradients are bound"):
            twin.step()


# ---- Other libraries' buffers. ----


class Dlpack:
    """A tensor that offers DLPack and nothing else; its export raises `error`, if there is one."""

    def __init__(self, memory, error=None):
        self.memory, self.error = memory, error

    def __dlpack__(self, **arguments):
        if self.error:
            raise self.error
        return self.memory.__dlpack__(**arguments)

    def __dlpack_device__(self):
        return self.memory.__dlpack_device__()


BUFFERS = {
    "array": lambda a: array.array("f", a.tolist()),
    "memoryview": lambda a: memoryview(a.copy()),
    "ctypes": lambda a: (ctypes.c_float * a.size)(*a.tolist()),
    "dlpack": lambda a: Dlpack(a.copy()),
}


@pytest.mark.parametrize("wrap", BUFFERS.values(), ids=BUFFERS)
def test_other_buffers(wrap):
    """As gradients they are read in place; as parameters they are updated in place."""
    start, slope = np.linspace(1, 2, 9, dtype=np.float32), np.linspace(-1, 1, 9, dtype=np.float32)
    expected = fastopt.Adam(start.copy())
    p, grad = wrap(start), wrap(slope)
    if isinstance(p, Dlpack) and not np.from_dlpack(p).flags.writeable:
        pytest.skip("this NumPy makes every DLPack tensor read-only, unless it has __array__ too: use 2.1 or newer")
    opt = fastopt.Adam(p)
    opt.step(grad)
    opt.step(grad, max_norm=0.5)
    opt.bind(grad)
    opt.step(zero_grad=True)
    for max_norm in (None, 0.5, None):
        expected.step(slope, max_norm=max_norm)
    assert_same_bits(opt.params[0], expected.params[0])
    memory = p.memory if isinstance(p, Dlpack) else np.frombuffer(p, np.float32)
    assert np.shares_memory(memory, opt.params[0])
    memory = grad.memory if isinstance(grad, Dlpack) else np.frombuffer(grad, np.float32)
    assert not memory.any()
    assert fastopt.global_norm([wrap(slope), wrap(slope)]) == fastopt.global_norm([slope, slope])


class Tensor(Dlpack):
    """As NumPy before 2.1 sees a tensor: read-only through DLPack, and writable through `__array__`."""

    def __init__(self, memory, other=None):
        super().__init__(memory)
        self.other = memory if other is None else other

    def __dlpack__(self, **arguments):
        memory = self.memory[...]
        if arguments:  # older ones take all that comes from DLPack for read-only
            memory.flags.writeable = False
        return memory.__dlpack__(**arguments)

    def __array__(self, dtype=None, copy=None):
        return self.other


def test_a_tensor_whose_array_is_the_same_memory_may_be_written():
    memory = np.ones(3)
    fastopt.SGD(Tensor(memory), lr=0.5).step(np.ones(3))
    assert_same_bits(memory, np.full(3, 0.5))
    with pytest.raises(ValueError, match="params is read-only"):
        fastopt.SGD(Tensor(memory, memory.copy()))


def test_a_tensor_that_cannot_share_its_memory_says_why():
    p = np.ones(3)
    opt = fastopt.SGD([p])
    stubborn = Dlpack(np.ones(3), BufferError("Can't export tensors that require gradient"))
    with pytest.raises(TypeError, match=r"grads\[0\] is of type Dlpack .*Can't export tensors that require gradient"):
        opt.step([stubborn])
    with pytest.raises(TypeError, match=r"params is of type Dlpack .*Can't export"):
        fastopt.SGD(stubborn)
    for bad, error, words in ((Dlpack(np.ones(3, int)), TypeError, "dtype"), (Dlpack(np.ones(4)), ValueError, "shape")):
        with pytest.raises(error, match=rf"grads\[0\] has {words}"):
            opt.step([bad])
    assert (p == 1).all()


class Reentrant(Dlpack):
    """A gradient that uses the optimizer while it is asked for its memory."""

    def __init__(self, memory, act):
        super().__init__(memory)
        self.act = act

    def __dlpack__(self, **arguments):
        self.act()
        return super().__dlpack__(**arguments)


def test_a_gradient_cannot_step_or_change_the_optimizer_that_reads_it():
    p = np.ones(3)
    opt = fastopt.SGD([p], lr=1.0)
    refused = []

    def misuse():
        for act in (lambda: opt.step([np.ones(3)]), lambda: setattr(opt, "lr", 5.0), lambda: opt.bind([np.ones(3)])):
            try:
                act()
            except RuntimeError as error:
                refused.append(str(error))

    opt.step([Reentrant(np.ones(3), misuse)])
    assert len(refused) == 3
    assert all("already in use" in words for words in refused)
    assert (p == 0).all()
    assert (opt.lr, opt.state[0]["step"]) == (1.0, 1)


def test_bound_gradients_are_checked_after_the_arguments_are_read():
    """An argument's own code may unbind the gradients, whose memory may then be freed."""
    p = np.ones(3)
    opt = fastopt.SGD(p)
    opt.bind(np.ones(3))
    opt.step()

    class Unbinding:
        def __float__(self):
            opt.bind(None)
            return 1.0

    for name in ("grad_scale", "max_norm"):
        opt.bind(np.ones(3))
        before = p.copy()
        with pytest.raises(TypeError, match="no gradients are bound"):
            opt.step(**{name: Unbinding()})
        assert_same_bits(p, before)


def test_the_truth_of_zero_grad_is_asked_once():
    """An object that changes its answer cannot have a gradient zeroed that was checked only for reading."""

    class Wavering:
        asked = 0

        def __bool__(self):
            self.asked += 1
            return self.asked == 1

    p, grad = np.ones(3), np.ones(3)
    grad.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        fastopt.SGD([p]).step([grad], zero_grad=Wavering())
    assert (grad == 1).all()
    assert (p == 1).all()


def test_a_list_that_shrinks_under_the_step_is_an_error():
    grads = [None, np.ones(3)]
    grads[0] = Reentrant(np.ones(3), grads.pop)
    params = [np.ones(3), np.ones(3)]
    with pytest.raises(ValueError, match=r"grads\[1\] was taken out of its list"):
        fastopt.SGD(params).step(grads)
    assert all((p == 1).all() for p in params)


def test_a_bound_gradient_that_becomes_read_only_is_not_zeroed():
    params, grads = [np.ones(3), np.ones(2)], [np.ones(3), np.full((2, 2), 0.5)[:, 0]]
    opt = fastopt.SGD(params)
    opt.bind(grads)
    opt.step(zero_grad=True)
    for i in range(2):
        grads[i][...] = 1
        grads[i].flags.writeable = False
        before = [p.copy() for p in params]
        with pytest.raises(ValueError, match=rf"grads\[{i}\] is no longer writable, but is to be zeroed"):
            opt.step(zero_grad=True)
        opt.step()  # reads it
        assert grads[i].all()
        assert not np.array_equal(params[i], before[i])
        grads[i].flags.writeable = True


@pytest.mark.parametrize("bound", [False, True], ids=["given", "bound"])
def test_a_parameter_that_becomes_read_only_is_refused(bound):
    params, grads = [np.ones(3), np.ones(2)], [np.ones(3), np.ones(2)]
    opt = fastopt.Adam(params)
    if bound:
        opt.bind(grads)
        opt.step()
    before, grads = [p.copy() for p in params], None if bound else grads
    params[1].flags.writeable = False
    with pytest.raises(ValueError, match=r"params\[1\] is no longer writable"):
        opt.step(grads)
    for p, b in zip(params, before, strict=True):
        assert_same_bits(p, b)
    params[1].flags.writeable = True
    opt.step(grads)
    assert not np.array_equal(params[1], before[1])


def test_errors_that_only_the_core_finds_are_raised(monkeypatch):
    opt = fastopt.SGD([np.ones(2)], momentum=0.9)
    monkeypatch.setitem(RULES["sgd"].options, "nesterov", 1 << 20)
    with pytest.raises(RuntimeError, match=r"sgd: options of group 0: .* or its hyperparameters forbid it"):
        opt.nesterov = True
    monkeypatch.undo()
    assert not opt.nesterov
    assert repr(RULES["sgd"]).startswith("<rule sgd: states ('momentum_buffer',), hyperparameters ('step', ")
