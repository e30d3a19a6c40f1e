"""`tfx-mobile bench`: strangers' files, with signatures or without, from the shell."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.common.tflite_files import ALL_STRANGERS, packed, stranger, table_file

from tfx_mobile import cli
from tfx_mobile.common.errors import DataError
from tfx_mobile.size_latency_evaluator import bench, runner
from tfx_mobile.size_latency_evaluator.bench import Bench, Comparison
from tfx_mobile.size_latency_evaluator.evaluation import Interval, LatencyResult

QUICK = ("--processes", "2", "--seconds", "0.05")


def without_signature() -> bytes:
    model = table_file()
    model.signatureDefs = None
    return packed(model)


def run(*arguments: object) -> int:
    return cli.main(["bench", *map(str, arguments)])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bench")
    contents = {
        "named": packed(table_file()),
        "plain": without_signature(),
        "alexa": stranger("alexa"),
        "noise": b"\xff\xff\xff\x7fTFL3" + bytes(100),
    }
    for name, content in contents.items():
        (folder / f"{name}.tflite").write_bytes(content)
    return {name: folder / f"{name}.tflite" for name in contents}


def test_strangers_files_are_compared_with_and_without_signatures(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(files["named"], files["plain"], files["alexa"], *QUICK, "--json") == 0

    found = Comparison.from_dict(json.loads(capsys.readouterr().out))

    assert [one.name for one in found.files] == ["named.tflite", "plain.tflite", "alexa.tflite"]
    for one, path in zip(found.files, files.values(), strict=False):
        assert one.failure == ""
        assert one.size_bytes == path.stat().st_size
        assert one.latency is not None
        assert len(one.latency.ratios_by_process) == 2
        assert one.latency.heap_bytes is not None
    assert len(found.sentences) == 2
    assert "alexa.tflite" in found.sentences[1]
    assert "over 2 processes." in found.sentences[1]
    assert found.machine.processes == 2


def test_the_table_ends_with_one_sentence_and_rows_may_be_given(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("fare,company,miles\n3.5,Flash,1.5\n4,Nobody,2\n")
    twin = tmp_path / "twin.tflite"
    twin.write_bytes(files["named"].read_bytes())

    assert run(files["named"], twin, *QUICK, "--rows", rows) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["FILE", "P50", "US"]
    assert [line.split()[0] for line in lines[1:3]] == ["named.tflite", "twin.tflite"]
    assert lines[-2].startswith("machine  local; ")
    assert re.search(r"twin\.tflite.* named\.tflite.*\(95 %: .* to .* %\), over 2 processes\.$", lines[-1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{noise}"], "The file is cut or damaged."),
        (["/no/such.tflite"], "FILE must be a file that can be read; /no/such.tflite: No such file"),
        (["{named}", "--rows", "/no/such.csv"], "--rows must be a CSV file that can be read; /no/such.csv"),
        (["{named}", "--processes", "1"], "LatencyConfig.processes must be rising counts from 2 on"),
        (
            ["{named}", "--target", "phone"],
            "The target must be 'local' or 'ssh:[user@]host[:port]'; got 'phone'.",
        ),
    ],
)
def test_an_error_is_one_line_and_status_two(
    files: dict[str, Path], arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    named = {name: str(path) for name, path in files.items()}

    assert run(*(argument.format(**named) for argument in arguments)) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tfx-mobile: error: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_file_that_cannot_be_run_is_named_beside_those_that_can(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = table_file()
    model.operatorCodes[1].builtinCode = model.operatorCodes[1].deprecatedBuiltinCode = 32  # CUSTOM
    model.operatorCodes[1].customCode = b"NobodyHasThis"
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(packed(model))

    assert run(files["named"], broken, *QUICK) == 2

    out, err = capsys.readouterr()
    assert "named.tflite" in out
    assert "broken.tflite cannot be compared with named.tflite: " in out
    assert "NobodyHasThis" in err


@pytest.mark.parametrize("name", ALL_STRANGERS)
def test_made_up_rows_fit_every_stranger(name: str, tmp_path: Path) -> None:
    content = stranger(name)
    path = tmp_path / "a.tflite"
    path.write_bytes(content)

    rows = runner.encode(path, bench.random_columns(content, 2))

    assert len(rows) == 2
    interpreter = runner.load(path)
    interpreter.allocate_tensors()
    runner.set_row(interpreter, rows[1])
    interpreter.invoke()


def test_made_up_rows_are_the_same_each_time_and_know_the_files_words() -> None:
    content = packed(table_file([b"Flash", b"Sun"]))

    first, second = (bench.random_columns(content, 50) for _ in range(2))

    assert {name: column.tolist() for name, column in first.items()} == {
        name: column.tolist() for name, column in second.items()
    }
    assert set(first["company"].ravel()) == {b"Flash", b"Sun"}
    assert first["miles"].dtype == np.float32
    assert np.isfinite(first["miles"]).all()


def test_made_up_numbers_of_a_quantised_input_use_its_whole_range() -> None:
    ((_, tensor),) = bench.inputs_of(stranger("alexa")).items()
    assert tensor.quantization is not None

    (column,) = bench.random_columns(stranger("alexa"), 40).values()
    steps = np.rint(column / tensor.quantization.scale) + tensor.quantization.zero_point

    assert (steps.min(), steps.max()) == (-128, 127)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("miles\n1\n", "--rows must have a cell for input 'company' in each row; "),
        ("company,miles\n", "--rows must have at least one row below its heading; got none in "),
        ("company,miles\nFlash\n", "--rows must have a cell for input 'miles' in each row; "),
        ("company,miles\nFlash,far\n", "Input 'miles' takes 1 numbers in each row; "),
        ("company,miles\nFlash,1 2\n", "Input 'miles' takes 1 numbers in each row; "),
    ],
)
def test_rows_that_do_not_fit_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text)

    with pytest.raises(DataError, match=re.escape(message)):
        bench.csv_columns(packed(table_file()), path)


def of(name: str, ratio: Interval | None, *, failure: str = "") -> Bench:
    latency = LatencyResult(1.0, 1.0, 1.0, 1.0, 9, (1.0,), (1.0,) * 5, ratio)
    return Bench(name, name, 1, 1, None if failure else latency, failure)


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (
            Interval(1.098, 1.081, 1.116),
            "B is 9.8 % slower than A (95 %: 8.1 to 11.6 %), over 5 processes.",
        ),
        (
            Interval(0.75, 0.7, 0.8),
            "B takes 25.0 % less time than A (95 %: 20.0 to 30.0 %), over 5 processes.",
        ),
        (
            Interval(1.004, 0.99, 1.02),
            "No difference is shown between B and A: +0.4 % (95 %: -1.0 to +2.0 %), over 5 processes.",
        ),
        (None, "B cannot be compared with A: too few processes measured both."),
    ],
)
def test_the_sentence_says_what_the_interval_says(ratio: Interval | None, words: str) -> None:
    assert bench.sentence(of("A", Interval(1.0, 1.0, 1.0)), of("B", ratio)) == words


def test_a_file_that_failed_has_no_comparison() -> None:
    good, bad = of("A", None), of("B", None, failure="It died.")

    assert bench.sentence(good, bad) == "B cannot be compared with A: It died."
    assert bench.sentence(bad, good) == "A cannot be compared with B: It died."


def test_files_of_one_name_are_shown_with_their_path() -> None:
    files = tuple(dataclasses.replace(of("x", None), name=name) for name in ("a/m.tflite", "b/m.tflite"))
    comparison: Any = Comparison(files, (), None)  # type: ignore[arg-type]

    assert [line[0] for line in bench.table(comparison)] == ["FILE", "a/m.tflite", "b/m.tflite"]
