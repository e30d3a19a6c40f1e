"""The commands of docs/registry.md run in their order; a push stands in for the pipeline."""

import re
import shlex
from pathlib import Path

import pytest

from tfx_mobile import cli
from tfx_mobile.registry.store import Registry

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "registry.md").read_text()


def test_the_commands_lead_from_nothing_to_a_phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    offered = []
    for line in example.splitlines():
        program, *arguments = shlex.split(line, comments=True)
        if program == "python":
            registry = Registry(Path("registry"))
            registry.publish("fares", b"first", metadata={})
            registry.publish("fares", b"better", channel="beta", metadata={})
        elif arguments[1] != "serve":  # which does not end by itself; see test_serving
            assert cli.main(arguments) == 0, line
            offered += (
                [
                    [(one.version, one.rollout_permille) for one in record.rollouts]
                    for record in (Registry(Path("registry")).channel_records("fares").get("stable"),)
                    if record
                ]
                if arguments[1] in ("promote", "rollout", "rollback")
                else []
            )
    assert offered == [[(2, 100), (1, 1000)], [(2, 1000)], [(1, 1000)]]


def test_every_page_that_it_leads_to_is_there() -> None:
    links = re.findall(r"\]\(([\w-]+\.md)\)", PAGE)
    assert len(links) >= 7
    assert not [link for link in links if not (DOCS / link).is_file()]
