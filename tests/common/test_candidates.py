"""A candidates folder is read whole or not at all."""

import gzip
import hashlib
import re
from pathlib import Path

import pytest

from tfx_mobile.common import candidates
from tfx_mobile.common.candidates import Candidate, CandidateSet
from tfx_mobile.common.errors import ConfigError, DataError

CONTENT = b"TFL3 of a kind" * 10


def write(folder: Path) -> CandidateSet:
    path = candidates.model_path(folder, "s0-float32")
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    good = Candidate("s0-float32", "s0", "float32", 0.0, sha256=hashlib.sha256(CONTENT).hexdigest())
    failed = Candidate("s75-int8", "s75", "int8", 0.75, failure="op Foo does not convert")
    found = CandidateSet((good, failed), "s0-float32", raw_inputs=True, calibration=None)
    found.write(folder)
    return found


def test_what_was_written_is_read(tmp_path: Path) -> None:
    found = write(tmp_path)
    assert candidates.read(tmp_path) == found


def test_failed_candidates_are_listed_but_not_usable(tmp_path: Path) -> None:
    found = write(tmp_path)
    assert [one.name for one in found.usable()] == ["s0-float32"]
    assert [one.name for one in candidates.read(tmp_path).candidates] == ["s0-float32", "s75-int8"]


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    path = candidates.model_path(tmp_path, "s0-float32")
    path.write_bytes(CONTENT[:-1] + b"!")
    message = (
        f"Candidate 's0-float32' must have sha256 {hashlib.sha256(CONTENT).hexdigest()[:12]}; "
        f"got {hashlib.sha256(path.read_bytes()).hexdigest()[:12]} at {path}."
    )
    with pytest.raises(DataError, match=re.escape(message)):
        candidates.read(tmp_path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    candidates.model_path(tmp_path, "s0-float32").unlink()
    with pytest.raises(DataError, match=re.escape("; got no file at ")):
        candidates.read(tmp_path)


def test_a_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    message = f"A candidates artifact must hold candidates.json; got none in {tmp_path}."
    with pytest.raises(DataError, match=re.escape(message)):
        candidates.read(tmp_path)


def test_a_manifest_with_a_stranger_in_it_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    manifest = tmp_path / "candidates.json"
    manifest.write_text(manifest.read_text().replace('"raw_inputs"', '"row_inputs"'))
    with pytest.raises(ConfigError, match=re.escape("CandidateSet has no setting 'row_inputs'; it has")):
        candidates.read(tmp_path)


def test_the_size_of_a_download_is_that_of_gzip_and_does_not_change_with_time() -> None:
    assert candidates.gz_size_bytes(CONTENT) == len(gzip.compress(CONTENT, 9, mtime=1_700_000_000))
    assert candidates.gz_size_bytes(b"a" * 10_000) < 100
