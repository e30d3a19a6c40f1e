"""Every page: its links lead somewhere, and its `tfx-mobile` commands are ones that there are."""

import re
import shlex
from pathlib import Path

import pytest

from tfx_mobile import cli

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "kubeflow").rglob("*.md")],
)
FENCE = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings: lower case, dashes for spaces, no punctuation."""
    heads = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


def commands(text: str) -> list[list[str]]:
    """The arguments of each command line in the text's blocks; `...` stands for what is left out."""
    lines = "\n".join(FENCE.findall(text)).replace("\\\n", " ").splitlines()
    parts = [part.strip() for line in lines for part in re.split(r"&&", line)]
    found = [re.match(r"(?:\.venv/bin/)?tfx-mobile (.*)", part) for part in parts]
    return [shlex.split(one[1].rstrip("&"), comments=True) for one in found if one]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_page_or_a_heading_leads_there(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text()))
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    for link in links:
        name, _, anchor = link.partition("#")
        place = (page.parent / name).resolve() if name else page
        assert place.exists(), link
        assert not anchor or anchor in anchors(place), link


def test_every_command_line_of_the_pages_is_one_that_the_program_takes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = [(page, line) for page in PAGES for line in commands(page.read_text())]
    assert len(lines) > 30
    for page, line in lines:
        try:
            cli._parser().parse_args(line)
        except SystemExit:
            pytest.fail(f"{page.relative_to(ROOT)}: {shlex.join(line)}\n{capsys.readouterr().err}")
