"""What an evaluation was made of; the fingerprint of the rows."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tfx_mobile.size_latency_evaluator.provenance import collect, files_sha256, publishable

pytestmark = pytest.mark.pipeline


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "a").write_bytes(b"one")
    (folder / "b").write_bytes(b"two")
    return folder


def test_the_fingerprint_is_as_worked_by_hand(rows: Path) -> None:
    lines = [
        f"{name}\0003\0{hashlib.sha256(text).hexdigest()}\n" for name, text in (("a", b"one"), ("b", b"two"))
    ]
    assert files_sha256([f"{rows}/*"]) == hashlib.sha256("".join(lines).encode()).hexdigest()


def move(rows: Path) -> Path:
    return rows.rename(rows.with_name("moved"))


def same(rows: Path) -> Path:
    return rows


@pytest.mark.parametrize("change", [same, move])
def test_a_copy_elsewhere_has_the_same_fingerprint(rows: Path, change: Callable[[Path], Path]) -> None:
    before = files_sha256([f"{rows}/*"])
    assert files_sha256([f"{change(rows)}/*"]) == before


def edit(rows: Path) -> None:
    (rows / "a").write_bytes(b"onf")


def shift(rows: Path) -> None:
    (rows / "a").write_bytes(b"onet")
    (rows / "b").write_bytes(b"wo")


def add(rows: Path) -> None:
    (rows / "c").write_bytes(b"")


def remove(rows: Path) -> None:
    (rows / "b").unlink()


def swap(rows: Path) -> None:
    (rows / "a").write_bytes(b"two")
    (rows / "b").write_bytes(b"one")


@pytest.mark.parametrize("change", [edit, shift, add, remove, swap])
def test_any_other_rows_have_another_fingerprint(rows: Path, change: Callable[[Path], None]) -> None:
    before = files_sha256([f"{rows}/*"])
    change(rows)
    assert files_sha256([f"{rows}/*"]) != before


def test_places_stay_in_the_pipeline(rows: Path) -> None:
    from tfx.types import standard_artifacts

    model = standard_artifacts.Model()
    model.uri, model.id = str(rows), 7
    found = collect(None, {"candidates": [model]}, {"code_fingerprint": "ab"}, [f"{rows}/*"], "pi")
    assert (found["candidates_uri"], found["candidates_id"]) == (str(rows), "7")
    assert (found["target"], found["code_fingerprint"]) == ("pi", "ab")
    assert "pipeline_run" not in found
    assert "runtime_version" not in found
    assert publishable(found) == {key: value for key, value in found.items() if key != "candidates_uri"}
    assert not any(str(rows) in value for value in publishable(found).values())
