"""`tfx-mobile registry` on a registry in a bucket: it says what it says of the same registry in a folder."""

import datetime
import re
from pathlib import Path

import pytest
from tests.registry.servers import web_address

from tfx_mobile import cli
from tfx_mobile.common.errors import RegistryError
from tfx_mobile.registry import site
from tfx_mobile.registry.storage import ObjectStorage
from tfx_mobile.registry.store import Registry


@pytest.fixture
def copied(registry: Registry, bucket: str) -> str:
    """The bucket, with what lies in the registry's folder."""
    registry.publish("taxi-fare", b"four", metadata={}, attachments={"evaluation.html": b"<h1>Rain</h1>"})
    registry.set_rollout("taxi-fare", "stable", 250)
    registry.withdraw("taxi-fare", 2, reason="wrong units")
    place = ObjectStorage(bucket)
    for path in (*registry.repository.glob("metadata/*"), *registry.repository.rglob("targets/*/**/*.*")):
        place.write(str(path.relative_to(registry.repository)), path.read_bytes())
    return bucket


def test_what_reads_says_the_same_of_a_bucket_as_of_a_folder(
    registry: Registry, copied: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for action in (
        ["list"],
        ["list", "--json"],
        ["show", "taxi-fare"],
        ["show", "taxi-fare", "--json"],
        ["history", "taxi-fare"],
        ["verify"],
    ):
        said = []
        for location in (copied, str(registry.repository)):
            command = ["registry", action[0], location, "--keys", str(registry.keys), *action[1:]]
            assert cli.main(command) == 0
            said.append(capsys.readouterr().out)
        assert said[0] == said[1]
        assert re.search("taxi-fare|rollout", said[0])
    assert cli.main(["registry", "list", copied]) == 2
    assert f"must be named, a local folder; got none for {copied}." in capsys.readouterr().err


def test_the_site_of_a_bucket_is_the_site_of_a_folder(
    registry: Registry, copied: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now, url, sites = datetime.datetime.now(datetime.timezone.utc), web_address(copied), []
    for location in (copied, str(registry.repository)):
        to = tmp_path / str(len(sites))
        count = site.write(location, registry.root_path, to, url=url, now=now)
        sites.append({path.relative_to(to): path.read_text() for path in to.rglob("*.html")})
        assert count == len(sites[-1])
    assert sites[0] == sites[1]
    assert "Rain" in sites[0][Path("taxi-fare/4/evaluation.html")]

    command = ["registry", "site", copied, "--to", str(tmp_path / "site")]
    assert cli.main(command) == 2
    assert f"--root must name the root to trust for {copied}; got none." in capsys.readouterr().err
    assert cli.main([*command, "--root", str(registry.root_path)]) == 0
    assert capsys.readouterr().out == f"{count} pages  {tmp_path}/site/index.html\n"

    place = ObjectStorage(copied)
    (path,) = [path for path in place.ages_s("targets") if path.endswith(".with.evaluation.html")]
    place.write(path, b"<h1>Sun </h1>")
    with pytest.raises(RegistryError, match=re.escape(f"were signed; {copied}/{path}: Observed")):
        site.write(copied, registry.root_path, tmp_path / "site")
    place.delete(path)
    with pytest.raises(RegistryError, match=re.escape(f"must be at {copied}/{path}; There is no such obj")):
        site.write(copied, registry.root_path, tmp_path / "site")


def test_what_writes_does_so_in_a_bucket(
    bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = tmp_path / "keys"

    def run(action: str, *more: str) -> str:
        assert cli.main(["registry", action, bucket, "--keys", str(keys), *more]) == 0
        return capsys.readouterr().out

    assert f"registry  {bucket}  (serve this folder)" in run("init")
    for content in (b"one", b"two"):
        Registry(bucket, keys).publish("m", content, channel="beta", metadata={})
    assert run("promote", "m", "--permille", "100") == "promote: stable offers version 2 to 100 permille\n"
    assert run("rollout", "m", "1000") == "rollout: stable offers version 2 to 1000 permille\n"
    rolled_back = run("rollback", "m", "--channel", "beta", "--reason", "x")
    assert rolled_back == "rollback: beta offers version 1 to 1000 permille\n"
    assert run("withdraw", "m", "1", "--reason", "y") == "withdrawn: version 1; beta -> 0, stable -> 2\n"
    assert "timestamp is signed with key" in run("rotate", "timestamp")
    assert run("refresh") == "signed timestamp\n"
    assert "deleted: metadata/1.snapshot.json\n" in run("gc", "--min-age-days", "0")
    assert " files are as they were signed." in run("verify")
    fetch = ["fetch", "m", "--from", web_address(bucket), "--root", str(keys / "root.json")]
    to = ["--cache", str(tmp_path / "cache"), "--to", str(tmp_path / "m.tflite")]
    assert cli.main(["registry", *fetch, *to]) == 0
    assert (tmp_path / "m.tflite").read_bytes() == b"two"
