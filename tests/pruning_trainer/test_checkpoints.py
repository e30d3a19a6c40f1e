"""Checkpoints: what was saved is loaded, whatever dies when; keys, places, locks and leftovers."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from tfx_mobile.common.errors import ConfigError, DataError
from tfx_mobile.pruning_trainer import checkpoints
from tfx_mobile.pruning_trainer.checkpoints import Checkpoints

DAY = 86_400.0
KEY = checkpoints.key("one")
OTHER = checkpoints.key("other")
DTYPES = st_numpy.scalar_dtypes() | st_numpy.unicode_string_dtypes() | st_numpy.byte_string_dtypes()
ARRAYS = st_numpy.arrays(DTYPES, st_numpy.array_shapes(min_dims=0, min_side=0, max_dims=3, max_side=3))


def same(one: Any, other: Any) -> bool:
    return bool(one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes())


@given(
    st.lists(ARRAYS) | st.dictionaries(st.text(), ARRAYS),
    st.dictionaries(st.text(), st.integers() | st.floats() | st.none()),
)
def test_what_is_unpacked_is_what_was_packed(arrays: Any, state: dict[str, Any]) -> None:
    found = checkpoints._unpacked(checkpoints._packed(arrays, state))
    assert found
    assert type(found[0]) is type(arrays)
    names = list(arrays) if isinstance(arrays, dict) else range(len(arrays))
    assert list(found[0]) == names if isinstance(arrays, dict) else len(found[0]) == len(arrays)
    assert all(same(found[0][name], arrays[name]) for name in names)
    assert json.dumps(found[1]) == json.dumps(state)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float8_e4m3fn", "int64", "bool", ">f4"])
@pytest.mark.parametrize("shape", [(), (0,), (2, 3), (2, 0, 3)])
def test_every_dtype_and_shape_comes_back(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    import ml_dtypes

    dtype = np.dtype(getattr(ml_dtypes, name, name))
    array = np.asarray(np.arange(np.prod(shape, dtype=int)).reshape(shape) % 2).astype(dtype)
    store = Checkpoints(str(tmp_path))
    store.save("x", [array, array.T], {})
    found = store.load("x")
    assert found
    assert same(found[0][0], array)
    assert same(found[0][1], np.ascontiguousarray(array.T).reshape(array.T.shape))
    found[0][0][...] = 1  # it can be written to


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([{}]), "A checkpoint's arrays must not hold Python objects; got shape (1,)."),
        (np.zeros(2, [("a", "f4")]), "A checkpoint's arrays must hold numbers or text; got [('a', '<f4')]."),
    ],
)
def test_arrays_that_have_no_bytes_of_their_own_are_refused(array: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        Checkpoints(str(tmp_path)).save("x", [array], {})
    assert list(tmp_path.iterdir()) == []


def test_the_last_save_counts_and_names_are_listed(tmp_path: Path) -> None:
    store = Checkpoints(f"{tmp_path}/new/folder/")
    assert (store.names(), store.load("s0")) == ([], None)
    store.save("s50-qat", [], {"step": 1})
    store.save("s87.5", {"w": np.ones(2)}, {"step": 1})
    store.save("s87.5", {"w": np.zeros(3)}, {"step": 2, "best": float("inf")})
    assert store.names() == ["s50-qat", "s87.5"]
    found = store.load("s87.5")
    assert found
    assert found[0]["w"].tolist() == [0.0, 0.0, 0.0]
    assert found[1] == {"step": 2, "best": float("inf")}
    assert store.load("s50-qat") == ([], {"step": 1})


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b"])
def test_a_name_that_is_no_file_name_is_refused(name: str, tmp_path: Path) -> None:
    message = f"A checkpoint's name must be letters, digits, '_', '-' and '.'; got {name!r}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Checkpoints(str(tmp_path)).save(name, [], {})


def test_a_damaged_file_counts_as_none_wherever_it_is_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Checkpoints(str(tmp_path))
    store.save("x", [np.arange(5.0)], {"step": 3})
    path = tmp_path / "x.checkpoint"
    whole = path.read_bytes()
    damaged = [whole[:length] for length in range(len(whole))]
    damaged += [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in range(len(whole))]
    damaged += [whole + b"x", b"0" * len(whole)]
    for content in damaged:
        path.write_bytes(content)
        caplog.clear()
        assert store.load("x") is None
        assert caplog.messages == [
            f"Checkpoint {path} is damaged and does not count: this part is done again."
        ]
    path.write_bytes(whole)
    assert store.load("x") is not None


SAVE_FOR_EVER = """
import sys, numpy as np
from tfx_mobile.pruning_trainer.checkpoints import Checkpoints
store = Checkpoints(sys.argv[1])
with store.locked():
    found = store.load("x")
    step = found[1]["step"] if found else 0
    print("ready", flush=True)
    while True:
        step += 1
        store.save("x", [np.full(200_000, step), np.full((), step)], {"step": step})
        print(step, flush=True)
"""


def test_a_run_that_is_killed_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    store = Checkpoints(str(tmp_path / "place"))
    draw = np.random.default_rng(0)
    last = 0
    for _ in range(12):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVE_FOR_EVER, str(tmp_path / "place")], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        saved = [int(process.stdout.readline()) for _ in range(draw.integers(0, 5))]
        time.sleep(draw.uniform(0.0, 0.15))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        found = store.load("x")
        if found is None:
            assert not (tmp_path / "place" / "x.checkpoint").exists()
            continue
        (array, scalar), state = found
        assert state["step"] >= max([last, *saved])
        assert set(array.tolist()) == {state["step"]} == {int(scalar)}
        last = state["step"]
    assert last > 12
    with store.locked():  # what the killed ones left unfinished is gone
        assert {path.name for path in (tmp_path / "place").iterdir()} == {".lock", "x.checkpoint"}


def test_another_run_of_the_same_key_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    place = str(tmp_path / "place")
    process = subprocess.Popen(
        [sys.executable, "-c", SAVE_FOR_EVER, place], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        process.stdout.readline()
        message = (
            "The same training must not run twice at once (same settings, data and code); got another run, "
            f"process {process.pid}, at {place}. Wait for it, or end it."
        )
        with (
            pytest.raises(ConfigError, match=f"^{re.escape(message)}$"),
            Checkpoints(place).locked(wait_seconds=0.2),
        ):
            pass
        with Checkpoints(str(tmp_path / "other")).locked(wait_seconds=0.0):
            pass  # another key has its own
    finally:
        process.kill()
        process.communicate()
    with Checkpoints(place).locked(wait_seconds=5.0):
        pass
    with Checkpoints(place).locked(wait_seconds=0.0):
        pass


def test_a_lock_of_a_folder_that_was_cleared_keeps_nobody_out_and_lets_nobody_share(tmp_path: Path) -> None:
    store = Checkpoints(str(tmp_path / "place"))
    with store.locked():
        store.clear()
        with store.locked(wait_seconds=0.0):
            with pytest.raises(ConfigError), store.locked(wait_seconds=0.0):
                pass
            assert (tmp_path / "place" / ".lock").read_text() == str(os.getpid())


def test_keys_differ_when_a_part_differs_and_parts_do_not_run_together() -> None:
    found = [
        checkpoints.key(*parts)
        for parts in ([], [""], ["ab", "c"], ["a", "bc"], ["abc"], ["c", "ab"], ["ab", "c", ""], ["\udc80"])
    ]
    assert len(set(found)) == len(found)
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in found)
    assert checkpoints.key("ab", "c") == found[2] == "5d3417e0b6f7f76895f8e167d4904489"


def test_files_are_the_same_while_their_paths_sizes_and_times_are(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in "ab"]
    for path in paths:
        Path(path).write_bytes(b"12")
        os.utime(path, ns=(0, 10**18 + 1))
    first = checkpoints.files_identity(paths)
    assert checkpoints.files_identity(iter(paths[::-1])) == first
    os.utime(paths[0], ns=(0, 10**18 + 2))
    later = checkpoints.files_identity(paths)
    Path(paths[0]).write_bytes(b"123")
    os.utime(paths[0], ns=(0, 10**18 + 1))
    longer = checkpoints.files_identity(paths)
    os.rename(paths[1], f"{paths[1]}2")
    renamed = checkpoints.files_identity([paths[0], f"{paths[1]}2"])
    assert len({first, later, longer, renamed, checkpoints.files_identity(paths[:1])}) == 5
    with pytest.raises(DataError, match=f"^{re.escape(f'A file to train on must exist; got {paths[1]}.')}$"):
        checkpoints.files_identity(paths)


@pytest.mark.parametrize(
    ("uri", "root", "place"),
    [
        ("/w/root/Trainer/model_run/17", "", f"/w/root/Trainer/.checkpoints/{KEY}"),
        ("/w/root/Trainer/model_run/17/", "", f"/w/root/Trainer/.checkpoints/{KEY}"),
        ("gs://bucket/root/Trainer/model_run/17", "", f"gs://bucket/root/Trainer/.checkpoints/{KEY}"),
        ("anything", "/mine/", f"/mine/{KEY}"),
        ("anything", "gs://bucket/mine", f"gs://bucket/mine/{KEY}"),
    ],
)
def test_the_place_is_the_components_or_the_authors(uri: str, root: str, place: str) -> None:
    assert checkpoints.folder_for(uri, KEY, root) == place


@pytest.mark.parametrize("uri", ["", "17", "model_run/17", "/model_run/17", "gs://bucket", "gs://bucket/17"])
def test_an_output_without_a_component_above_it_is_no_place(uri: str) -> None:
    message = (
        "Checkpoints must have a place beside the outputs, "
        f"'<pipeline root>/<component>/<output>/<execution>'; got {uri!r}. Set checkpoint_folder."
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        checkpoints.folder_for(uri, KEY)


def test_clearing_leaves_nothing_of_the_key_and_everything_of_others(tmp_path: Path) -> None:
    place = tmp_path / "Trainer" / ".checkpoints"
    mine, other = Checkpoints(str(place / KEY)), Checkpoints(str(place / OTHER))
    mine.clear()  # nothing there yet
    mine.save("x", [], {})
    (place / KEY / "kept" / "s0").mkdir(parents=True)
    other.save("y", [], {})
    mine.clear()
    assert [path.name for path in place.iterdir()] == [OTHER]
    assert other.names() == ["y"]
    other.clear()
    assert list((tmp_path / "Trainer").iterdir()) == []


def test_clearing_does_not_remove_a_root_of_the_author(tmp_path: Path) -> None:
    store = Checkpoints(str(tmp_path / "root" / KEY))
    store.save("x", [], {})
    store.clear()
    assert list((tmp_path / "root").iterdir()) == []


def age(folder: Path, days: float) -> None:
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (time.time() - days * DAY,) * 2)


@pytest.mark.parametrize("parent", [".checkpoints", "root"])
def test_only_old_leftovers_of_keys_are_removed_and_only_from_the_components_folder(
    parent: str, tmp_path: Path
) -> None:
    place = tmp_path / parent
    old, young, half, strange = checkpoints.key("old"), checkpoints.key("young"), f"{OTHER}.removed", "mine"
    for name in (KEY, old, young, half, strange):
        Checkpoints(str(place / name)).save("x", [], {})
        age(place / name, 29.0 if name in (young, half) else 31.0)
    os.utime(place / young / "x.checkpoint", (time.time() - 31 * DAY,) * 2)  # the folder itself is younger
    with Checkpoints(str(place / KEY)).locked():
        pass
    left = {KEY, young, strange} if parent == ".checkpoints" else {KEY, old, young, half, strange}
    assert {path.name for path in place.iterdir()} == left
    assert Checkpoints(str(place / KEY)).names() == ["x"]  # its own are never too old


@pytest.mark.pipeline
def test_a_remote_folder_does_the_same(caplog: pytest.LogCaptureFixture) -> None:
    import tensorflow as tf

    root = f"ram://{uuid.uuid4().hex}"
    store = Checkpoints(f"{root}/{KEY}")
    assert (store.names(), store.load("x")) == ([], None)
    with store.locked():
        store.save("x", [np.ones(2)], {"step": 1})
        store.save("x", [np.zeros((), "float16")], {"step": 2})
    found = store.load("x")
    assert found
    assert same(found[0][0], np.zeros((), "float16"))
    assert found[1] == {"step": 2}
    assert store.names() == ["x"]
    path = f"{root}/{KEY}/x.checkpoint"
    first = checkpoints.files_identity([path])
    with tf.io.gfile.GFile(path, "ab") as stream:
        stream.write(b"x")
    assert store.load("x") is None
    assert checkpoints.files_identity([path]) != first
    store.clear()
    store.clear()
    assert (store.names(), store.load("x")) == ([], None)
    with pytest.raises(DataError, match=f"^{re.escape(f'A file to train on must exist; got {path}.')}$"):
        checkpoints.files_identity([path])
