"""Checkpoint files: training continues with the same bits, a kill leaves a whole file, and bad files are refused."""

import contextlib
import hashlib
import io
import json
import os
import random
import signal
import threading
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from common import CLASSES, LAYOUTS, assert_same_bits, laid

import fastopt
from fastopt import _checkpoint

# Every class, with the options that change what a checkpoint contains.
MAKERS = {
    "SGD": {},
    "SGD with momentum": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "Momentum": {},
    "NAG": {},
    "NAG at the look-ahead point": {"at_lookahead": True},
    "Adagrad": {"lr_decay": 0.1, "initial_accumulator_value": 0.1},
    "Adadelta": {},
    "RMSprop": {},
    "RMSprop centered": {"centered": True, "momentum": 0.5, "eps_inside_sqrt": True},
    "Adam": {},
    "Adam with AMSGrad": {"amsgrad": True, "betas": (0.8, 0.99), "maximize": True},
    "AdamW": {"lr": 0.1},
}
MAKERS |= {cls.__name__: {} for cls in CLASSES if cls.__name__ not in MAKERS}


def make(name, params):
    return getattr(fastopt, name.split()[0])(params, **MAKERS[name])


def arrays(seed=0):
    """A model of both types, with a 0-d and an empty tensor."""
    rng = np.random.default_rng(seed)
    shapes = {"w": ((7, 5), np.float32), "b": ((), np.float64), "none": ((0, 3), np.float32), "v": ((33,), np.float64)}
    return {name: np.asarray(rng.normal(size=shape), dtype=dtype) for name, (shape, dtype) in shapes.items()}


def train(opt, params, steps):
    for step in steps:
        opt.step({name: grad for name, grad in arrays(100 + step).items() if name in params})


def everything(opt):
    """Everything that a checkpoint contains, as bytes."""
    state = [(key, name, np.asarray(value).tobytes()) for key, s in opt.state.items() for name, value in s.items()]
    groups = [{key: value for key, value in group.items() if key != "params"} for group in opt.param_groups]
    return [param.tobytes() for param in opt.params], state, groups


@pytest.fixture
def trained(tmp_path):
    """An optimizer that has taken steps, the file it saved with its parameters, and another one for the same shapes."""
    opt = fastopt.Adam(arrays(), amsgrad=True, lr=0.1)
    train(opt, arrays(), range(3))
    opt.save(tmp_path / "checkpoint.npz", params=True)
    other = fastopt.Adam(arrays(1), lr=0.5)
    train(other, arrays(), range(7))
    return opt, tmp_path / "checkpoint.npz", other


# ---- What a checkpoint contains. ----


def test_the_cases_cover_every_class():
    classes = {name for name in fastopt.__all__ if isinstance(getattr(fastopt, name), type)}
    assert {name.split()[0] for name in MAKERS} == classes - {"Optimizer", "ParamGroup"}


@pytest.mark.parametrize("name", MAKERS)
def test_training_goes_on_as_if_it_had_never_stopped(name, tmp_path):
    params = arrays()
    opt = make(name, params)
    train(opt, params, range(3))
    opt.lr = 0.03
    opt.save(tmp_path / "x.npz", params=True)
    train(opt, params, range(3, 6))
    again = arrays(9)
    resumed = make(name, again)
    train(resumed, again, range(20, 22))
    resumed.load(tmp_path / "x.npz", params=True)
    train(resumed, again, range(3, 6))
    assert everything(resumed) == everything(opt)
    assert all(np.abs(opt.params[i]).sum() > 0 for i in (0, 1, 3))


@pytest.mark.parametrize("name", MAKERS)
def test_the_file_does_not_depend_on_the_layout_in_memory(name, tmp_path):
    """The members are the same for any layout, and training continues with the parameters in another."""
    params = {"m": np.ones((2, 3, 4)), "s": np.full((5, 6), 0.5, np.float32), **arrays()}
    layouts = [*LAYOUTS]
    plain = make(name, {key: p.copy() for key, p in params.items()})
    rng = np.random.default_rng(3)
    steps = [{key: np.array(rng.normal(size=p.shape), p.dtype) for key, p in params.items()} for _ in range(4)]
    for grads in steps[:2]:
        plain.step(grads)
    plain.save(tmp_path / "plain.npz", params=True)
    after = make(name, {key: p.copy() for key, p in params.items()})
    after.load(tmp_path / "plain.npz", params=True)
    for grads in steps[2:]:
        after.step(grads)
    for k in range(len(layouts)):
        path = tmp_path / f"{k}.npz"
        placed = {key: laid(p, layouts[(k + i) % len(layouts)]) for i, (key, p) in enumerate(params.items())}
        opt = make(name, placed)
        for grads in steps[:2]:
            opt.step(grads)
        opt.save(path, params=True)
        with zipfile.ZipFile(path) as found, zipfile.ZipFile(tmp_path / "plain.npz") as wanted:
            assert found.namelist() == wanted.namelist()
            assert all(found.read(member) == wanted.read(member) for member in found.namelist())
        others = {
            key: laid(p - p, layouts[(2 * k + 3 * i) % len(layouts)]) for i, (key, p) in enumerate(params.items())
        }
        other = make(name, others)
        other.load(path, params=True)
        for grads in steps[2:]:
            other.step(grads)
        assert everything(other) == everything(after)


def test_a_checkpoint_without_parameters_leaves_them_alone(trained, tmp_path):
    opt, path, other = trained
    before = [param.copy() for param in other.params]
    opt.save(tmp_path / "state.npz")
    for file in (path, tmp_path / "state.npz"):
        other.load(file)
        assert everything(other)[1:] == everything(opt)[1:]
        for found, was in zip(other.params, before, strict=True):
            assert_same_bits(found, was)
    with pytest.raises(ValueError, match=r"state\.npz cannot be loaded: it has no params/0\.npy: it was saved without"):
        other.load(tmp_path / "state.npz", params=True)


def test_groups_and_tensors_with_their_own_step_counts(tmp_path):
    def two():
        return fastopt.SGD([{"params": np.ones(3), "lr": 0.5}, {"params": [np.ones(2), np.ones(4)]}], momentum=0.9)

    opt, other = two(), two()
    opt.step([{"params": np.ones(3)}, {"params": [np.ones(2), np.ones(4)]}])
    opt.param_groups[1]["momentum"] = 0.0
    opt.param_groups[1]["momentum"] = 0.5
    opt.save(tmp_path / "x.npz", params=True)
    other.load(tmp_path / "x.npz", params=True)
    assert everything(other) == everything(opt)


@pytest.mark.parametrize("keys", [("a", "b"), (1, 2), (("a", 1), ("b", 2)), ("x" * 5000, "y")])
def test_keys_are_compared_where_they_can_be_kept(keys, tmp_path):
    opt = fastopt.SGD({key: np.ones(2) for key in keys})
    opt.save(tmp_path / "x.npz")
    opt.load(tmp_path / "x.npz")
    other = fastopt.SGD({"other": np.ones(2), "names": np.ones(2)})
    if all(_checkpoint.is_kept(key) for key in keys):
        with pytest.raises(ValueError, match="was saved for"):
            other.load(tmp_path / "x.npz")
    else:
        other.load(tmp_path / "x.npz")


# ---- The format, as documented. ----


def test_numpy_reads_a_checkpoint_without_pickles(trained):
    opt, path, _ = trained
    with np.load(path, allow_pickle=False) as file:
        for i, (param, state) in enumerate(zip(opt.params, opt.state.values(), strict=True)):
            assert_same_bits(file[f"params/{i}"], param)
            for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
                assert_same_bits(file[f"state/{i}/{name}"], state[name])
        header = json.loads(file["fastopt.json"])
    assert header["format"] == "fastopt checkpoint 1"
    assert header["rule"] == "adam"
    assert header["steps"] == [3, 3, 3, 3]
    (group,) = header["param_groups"]
    assert group["params"] == [0, 1, 2, 3]
    assert group["param_names"] == ["w", "b", "none", "v"]
    assert (group["lr"], group["betas"], group["amsgrad"]) == (0.1, [0.9, 0.999], True)


def test_the_zip_comment_is_the_digest_of_the_rest(trained):
    _, path, _ = trained
    data = path.read_bytes()
    assert data[-71:].decode() == "sha256:" + hashlib.sha256(data[:-71]).hexdigest()
    with zipfile.ZipFile(path) as archive:
        assert archive.comment == data[-71:]
        assert archive.testzip() is None


# ---- Damage. ----


def refused(other, path, match, **options):
    """Loading this file raises a ValueError that matches, and changes nothing."""
    before = everything(other)
    with pytest.raises(ValueError, match=match) as error:
        other.load(path, **options)
    assert str(path) in str(error.value)
    assert everything(other) == before


def test_a_file_that_was_cut_short(trained, tmp_path, tried):
    _, path, other = trained
    data, cut = path.read_bytes(), tmp_path / "cut.npz"
    sizes = {*range(200), *range(200, len(data), 97), *range(len(data) - 200, len(data))}
    for size in sizes:
        cut.write_bytes(data[:size])
        refused(other, cut, "is not a checkpoint of fastopt, or its end is missing|is damaged", params=True)
    tried(len(sizes), "damaged checkpoints refused")


def test_a_file_in_which_a_bit_is_flipped(trained, tmp_path, tried):
    _, path, other = trained
    data, flipped, rng = bytearray(path.read_bytes()), tmp_path / "flipped.npz", random.Random(0)
    for i in range(len(data)):
        bit = 1 << rng.randrange(8)
        data[i] ^= bit
        flipped.write_bytes(data)
        with pytest.raises(ValueError, match=r"is not a checkpoint of fastopt|is damaged"):
            other.load(flipped, params=True)
        data[i] ^= bit
    before = everything(other)
    other.load(path, params=True)
    assert everything(other) != before  # the file itself was good
    tried(len(data), "damaged checkpoints refused")


@pytest.mark.parametrize("junk", [b"", b"x", b"PK\x05\x06" + bytes(18), os.urandom(5000), b"sha256:" + b"0" * 64])
def test_foreign_files(junk, trained, tmp_path):
    (tmp_path / "junk").write_bytes(junk)
    refused(trained[2], tmp_path / "junk", "is not a checkpoint of fastopt, or its end is missing|is damaged")


def test_npz_files_of_others(trained, tmp_path):
    np.savez(tmp_path / "other.npz", w=np.ones(3))
    refused(trained[2], tmp_path / "other.npz", "is not a checkpoint of fastopt")


def test_missing_files_folders_and_pipes(trained, tmp_path):
    _, _, other = trained
    with pytest.raises(FileNotFoundError, match="missing"):
        other.load(tmp_path / "missing.npz")
    refused(other, tmp_path, "is not a regular file")
    os.mkfifo(tmp_path / "pipe")
    refused(other, tmp_path / "pipe", "is not a regular file")


# ---- Forged files, whose digest is right. ----


def sign(path):
    data = path.read_bytes()[:-71]
    path.write_bytes(data + b"sha256:" + hashlib.sha256(data).hexdigest().encode())


def npy(array, **changes):
    """The bytes of an array as a .npy file, with some entries of the header changed."""
    file = io.BytesIO()
    header = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(file, {**header, **changes})
    return file.getvalue() + array.tobytes()


W = np.ones((7, 5), np.float32)
MEMBERS = {
    "a huge shape": (
        "params/0.npy",
        npy(W, shape=(10**12, 10**6)),
        r"shape \(1000000000000, 1000000\), but the parameter",
    ),
    "a negative shape": ("params/0.npy", npy(W, shape=(-7, 5)), r"shape \(-7, 5\), but the parameter"),
    "another type": ("params/0.npy", npy(W.astype(np.float64)), "with float64 and shape"),
    "whole numbers": ("state/0/exp_avg.npy", npy(W.astype(np.int32)), "with int32 and shape"),
    "objects": ("params/0.npy", npy(W, descr="|O"), "with object and shape"),
    "Fortran order": ("params/0.npy", npy(W, fortran_order=True), "in Fortran order, but the parameter"),
    "too few bytes": ("params/0.npy", npy(W)[:-1], "with 139 bytes or more, but 140 are needed"),
    "too many bytes": ("params/0.npy", npy(W) + b"x", "with 141 bytes or more, but 140 are needed"),
    "no .npy": ("params/0.npy", b"nonsense", "has params/0.npy that is not a .npy file"),
    "an expression": (
        "params/0.npy",
        b"\x93NUMPY\x01\x00\x20\x00{'shape': __import__('os').abort()}",
        "is not a .npy file",
    ),
    "a name that climbs out": (
        "../../outside.npy",
        npy(W),
        r"has '\.\./\.\./outside\.npy', which this optimizer does not have",
    ),
    "an absolute name": ("/tmp/outside.npy", npy(W), "has '/tmp/outside.npy', which this optimizer does not have"),
    "one parameter more": ("params/4.npy", npy(W), "has 'params/4.npy', which this optimizer does not have"),
    "another buffer": ("state/0/momentum_buffer.npy", npy(W), "buffer.npy', which this optimizer does not have"),
    "no JSON": ("fastopt.json", b"{", "fastopt.json that is not JSON"),
    "JSON without end": ("fastopt.json", b"[" * 50_000, "fastopt.json that is not JSON"),
    "JSON that is a list": ("fastopt.json", b"[]", "has another format than 'fastopt checkpoint 1'"),
    "too much JSON": ("fastopt.json", b" " * 82_000, "no fastopt.json, or too large a one|has [0-9]+ bytes, but"),
    "a huge number": ("fastopt.json", b"9" * 5000, "fastopt.json that is not JSON"),
}
HEADERS = {
    "a later format": ({"format": "fastopt checkpoint 2"}, "it may be of a later fastopt"),
    "another rule": ({"rule": "adamw"}, "is of the rule 'adamw', but the optimizer is of 'adam'"),
    "another entry": ({"more": 1}, "has other entries in fastopt.json"),
    "steps of fewer": ({"steps": [1, 2]}, "has no list of 4 steps"),
    "steps in words": ({"steps": ["x"] * 4}, "must be a number, got 'x'"),
    "negative steps": ({"steps": [-1] * 4}, "must be a whole number >= 0, got -1"),
    "too many steps": ({"steps": [2**60] * 4}, "must be a whole number >= 0"),
    "absurdly many steps": ({"steps": [10**400] * 4}, "cannot be loaded"),
    "no groups": ({"param_groups": []}, "has 0 groups, but the optimizer has 1"),
    "groups that are none": ({"param_groups": [1]}, "must be a mapping, got int"),
}
GROUPS = {
    "not a number": ({"lr": float("nan")}, "lr must be a finite number >= 0, got nan"),
    "an absurd number": ({"lr": 10**400}, "cannot be loaded"),
    "a word": ({"eps": "x"}, "eps must be a number, got 'x'"),
    "one beta": ({"betas": [0.9]}, "betas must be a pair"),
    "a switch that is none": ({"amsgrad": 1}, "amsgrad must be True or False"),
    "parameters twice": ({"params": [0, 0, 1, 2]}, "names a parameter twice"),
    "parameters that are lists": ({"params": [[0], [1], [2], [3]]}, "cannot be loaded"),
    "names that are none": ({"param_names": 3}, "cannot be loaded"),
    "another hyperparameter": ({"momentum": 0.9}, "unknown 'momentum'"),
}


def forged_by(path, changes):
    """A copy of the checkpoint with some members replaced and the digest made right."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members.update(changes(members))
    forged = path.with_name("forged.npz")
    with zipfile.ZipFile(forged, "w") as archive:
        archive.comment = bytes(71)
        for name, data in members.items():
            archive.writestr(name, data)
    sign(forged)
    return forged


def with_header(change):
    """Changes for `forged_by`: the header becomes what `change` returns of it."""
    return lambda members: {"fastopt.json": json.dumps(change(json.loads(members["fastopt.json"]))).encode()}


@pytest.mark.parametrize("case", MEMBERS)
def test_a_member_that_does_not_fit(case, trained):
    name, data, match = MEMBERS[case]
    refused(trained[2], forged_by(trained[1], lambda members: {name: data}), match, params=True)


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_that_does_not_fit(case, trained):
    entries, match = HEADERS[case]
    refused(trained[2], forged_by(trained[1], with_header(lambda header: {**header, **entries})), match, params=True)


@pytest.mark.parametrize("case", GROUPS)
def test_hyperparameters_that_do_not_fit(case, trained):
    entries, match = GROUPS[case]

    def change(header):
        return {**header, "param_groups": [{**header["param_groups"][0], **entries}]}

    refused(trained[2], forged_by(trained[1], with_header(change)), match, params=True)


@pytest.mark.parametrize("name", ["fastopt.json", "state/1/exp_avg.npy", "params/3.npy"])
def test_a_member_that_is_missing(name, trained):
    forged = forged_by(trained[1], lambda members: (members.pop(name), {})[1])
    refused(trained[2], forged, f"{name}, or too large|has no 'exp_avg'|has no params/3.npy", params=True)


def test_members_compressed_or_twice(trained):
    _, path, other = trained
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    forged = path.with_name("forged.npz")
    for compression, names in ((zipfile.ZIP_DEFLATED, [*members]), (zipfile.ZIP_STORED, [*members, "params/0.npy"])):
        twice = len(names) > len(members)
        with (
            pytest.warns(UserWarning, match="Duplicate") if twice else contextlib.nullcontext(),
            zipfile.ZipFile(forged, "w", compression) as archive,
        ):
            archive.comment = bytes(71)
            for name in names:
                archive.writestr(name, members[name])
        sign(forged)
        refused(other, forged, "compressed or encrypted|two members of one name")


def test_a_bomb_takes_no_memory(trained):
    """A member of a gigabyte in a megabyte, a shape of a terabyte, and a file as large as the disk pretends."""
    _, path, other = trained
    bomb, sparse = path.with_name("bomb.npz"), path.with_name("sparse.npz")
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = bytes(71)
        with archive.open("params/0.npy", "w", force_zip64=True) as member:
            for _ in range(64):
                member.write(bytes(1 << 20))
    sign(bomb)
    sparse.touch()
    os.truncate(sparse, 1 << 40)
    shape = forged_by(path, lambda members: {"params/0.npy": MEMBERS["a huge shape"][1]})
    tracemalloc.start()
    try:
        for file in (bomb, shape, sparse):
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            with pytest.raises(ValueError, match="cannot be loaded"):
                other.load(file, params=True)
            assert tracemalloc.get_traced_memory()[1] - before < 4 << 20
    finally:
        tracemalloc.stop()


def test_arrays_of_the_other_byte_order_are_read(trained):
    """Such arrays come from machines of the other byte order."""
    opt, path, other = trained

    def swapped(members):
        arrays = {name: np.load(io.BytesIO(data)) for name, data in members.items() if name.endswith(".npy")}
        return {name: npy(array.astype(array.dtype.newbyteorder())) for name, array in arrays.items()}

    other.load(forged_by(path, swapped), params=True)
    assert everything(other) == everything(opt)


def test_a_checkpoint_of_another_model(trained, tmp_path):
    _, path, _ = trained
    for params, match in (
        ({"w": np.ones((7, 5), np.float32)}, "has no list of 1 steps"),
        ({**arrays(), "v": np.ones(34)}, r"v?.*shape \(33,\), but the parameter has float64 and \(34,\)"),
        ({**arrays(), "v": np.ones(33, np.float32)}, "with float64 and shape"),
    ):
        refused(fastopt.Adam(params), path, match)
    refused(fastopt.AdamW(arrays()), path, "is of the rule 'adam', but the optimizer is of 'adamw'")


# ---- Saving leaves the old file or the new one. ----


def test_an_error_leaves_the_old_file(trained, monkeypatch, tmp_path):
    opt, path, _ = trained
    before = path.read_bytes()

    def fail(*arguments, **options):
        raise OSError(28, "No space left on device")

    for owner, name in ((os, "fsync"), (os, "replace"), (np.lib.format, "write_array"), (json, "dumps")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fail)
            with pytest.raises(OSError, match="No space left"):
                opt.save(path, params=True)
        assert path.read_bytes() == before
        assert os.listdir(path.parent) == [path.name]
    with pytest.raises(FileNotFoundError):
        opt.save(tmp_path / "no folder" / "x.npz")
    with pytest.raises(IsADirectoryError):
        opt.save(tmp_path)


def test_permissions_and_links_of_a_saved_file(trained, tmp_path):
    """The permissions follow the umask, and a symbolic link to the file still leads to it."""
    opt, _, _ = trained
    before = os.umask(0o027)
    try:
        (tmp_path / "link.npz").symlink_to(tmp_path / "target.npz")
        opt.save(str(tmp_path / "link.npz"))
    finally:
        os.umask(before)
    assert (tmp_path / "link.npz").is_symlink()
    assert (tmp_path / "target.npz").stat().st_mode & 0o777 == 0o640
    opt.load(tmp_path / "link.npz")


KILLS = 500


@pytest.mark.slow
def test_kill_at_any_moment_leaves_the_old_file_or_the_new_one(tmp_path, tried):
    """A child saves one of two states after the other; it is killed hundreds of times."""
    path, rng = tmp_path / "x.npz", random.Random(0)
    states = []
    for value in (1.0, 2.0):
        opt = fastopt.Adam({"w": np.full(2000, value), "b": np.full(3, value, np.float32)}, lr=value)
        for _ in range(int(value)):
            opt.step({"w": np.full(2000, value), "b": np.full(3, value, np.float32)})
        states.append(opt)
    expected = [everything(opt) for opt in states]
    states[0].save(path, params=True)
    found = set()
    for number in range(KILLS):
        ready, told = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(told, b"x")
            while True:
                for opt in states[:: 1 if number % 2 else -1]:
                    opt.save(path, params=True)
        os.read(ready, 1)
        time.sleep(rng.uniform(0.0, 0.006))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(told)
        other = fastopt.Adam({"w": np.zeros(2000), "b": np.zeros(3, np.float32)})
        other.load(path, params=True)
        found.add(expected.index(everything(other)))
    assert found == {0, 1}
    assert len(list(tmp_path.glob(".x.npz.*.tmp"))) > KILLS / 10  # how many were killed while they wrote
    tried(KILLS, "kills of a process that saves")


# ---- Saving and loading at a bad time. ----


def test_no_saving_or_loading_during_a_step_of_another_thread(trained, tmp_path):
    """While another thread takes long steps, saving and loading are errors or happen between two steps."""
    _, path, _ = trained
    p = np.ones(4_000_000)
    opt = fastopt.Adam(p, threads=1)
    grad, answers = np.ones_like(p), []
    opt.save(tmp_path / "large.npz")
    stepping, before = threading.Event(), (tmp_path / "large.npz").read_bytes()[-71:]

    def steps():
        stepping.set()
        for _ in range(30):
            opt.step(grad)

    thread = threading.Thread(target=steps)
    thread.start()
    stepping.wait()
    while thread.is_alive():
        for call in (lambda: opt.save(tmp_path / "meanwhile.npz"), lambda: opt.load(path), opt.state_dict):
            try:
                call()
            except RuntimeError as error:
                answers.append(str(error))
            except ValueError:
                pass  # loading, between two steps: the file is of another model
    thread.join()
    assert any("this optimizer is already in use" in answer for answer in answers)
    assert (tmp_path / "large.npz").read_bytes()[-71:] == before
    if (tmp_path / "meanwhile.npz").exists():  # between two steps
        opt.load(tmp_path / "meanwhile.npz")


def test_no_saving_or_loading_inside_a_lookahead_block(tmp_path):
    opt = fastopt.NAG(np.ones(3))
    opt.save(tmp_path / "x.npz")
    with opt.lookahead():
        for call in (opt.save, opt.load):
            with pytest.raises(RuntimeError, match="belong after the lookahead"):
                call(tmp_path / "x.npz")


def test_a_parameter_that_became_read_only(trained):
    _, path, other = trained
    other.params[3].flags.writeable = False
    refused(other, path, r"params\['v'\] is read-only", params=True)
    other.load(path)


def test_a_parameter_that_has_another_shape_by_now(tmp_path):
    """It is saved and loaded in the shape with which it was bound, which is that of its state."""
    p = np.ones((3, 4))
    opt = fastopt.Adam(p)
    opt.step(np.full((3, 4), 0.5))
    saved = p.copy()
    p.shape = (12,)
    opt.save(tmp_path / "checkpoint.npz", params=True)
    opt.step(np.full(12, 0.5))
    other = fastopt.Adam(np.zeros((3, 4)))
    for each in (opt, other):
        each.load(tmp_path / "checkpoint.npz", params=True)
        assert_same_bits(each.params[0].reshape(3, 4), saved)
        assert each.state[0]["exp_avg"].shape == (3, 4)


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(IsADirectoryError, match="a checkpoint is a file, and this is a folder"):
        fastopt.SGD(np.ones(2)).save(tmp_path)
    assert not [*tmp_path.parent.glob("*.tmp"), *tmp_path.parent.glob(".*.tmp")]


def test_no_file_stays_open(trained):
    opt, path, other = trained
    folder = Path("/proc/self/fd")
    if not folder.exists():
        pytest.skip("looks at /proc/self/fd, which this system has not: run it on Linux")
    before = len(list(folder.iterdir()))
    opt.save(path, params=True)
    other.load(path, params=True)
    refused(other, forged_by(path, with_header(lambda header: {})), "has another format")
    assert len(list(folder.iterdir())) == before
