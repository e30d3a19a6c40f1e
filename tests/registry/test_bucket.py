"""Buckets: a folder, S3 as moto serves it and Cloud Storage as fake-gcs-server does, by the same tests."""

import concurrent.futures
import contextlib
import http.client
import http.server
import json
import re
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.registry import servers

from tfx_mobile.common.errors import ConfigError, RegistryError
from tfx_mobile.registry.backend import Backend, Event, open_backend
from tfx_mobile.registry.bucket_backend import BucketBackend, file_path
from tfx_mobile.registry.conformance import BackendConformance
from tfx_mobile.registry.targeting import Device, Targeting, bucket_permille

ARM = Targeting(abis=("arm64-v8a",), min_app_version="2.1")
Opener = Callable[[], BucketBackend]


@pytest.fixture(scope="module")
def s3(s3_environment: dict[str, str]) -> Iterator[str]:
    """The address of the S3 server, which the environment names."""
    with _named(s3_environment, "s3"):
        yield s3_environment["AWS_ENDPOINT_URL"].removeprefix("http://")


@pytest.fixture(scope="module")
def gs(gs_environment: dict[str, str]) -> Iterator[None]:
    """The Cloud Storage server, which the environment names."""
    with _named(gs_environment, "gs"):
        yield


@contextlib.contextmanager
def _named(environment: dict[str, str], scheme: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        servers.make_bucket(scheme, "models")
        yield


@pytest.fixture(params=["file", "s3", "gs"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    """Opens the registry of one test, in each kind of bucket; every call is another publisher."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name)
    if request.param == "file":
        return lambda: BucketBackend(f"bucket+file://{tmp_path}/registry")
    request.getfixturevalue(request.param)
    if request.param == "s3":
        shared = {"skip_instance_cache": False}  # making one takes botocore half a second
        return lambda: BucketBackend(f"bucket+s3://models/{name}", storage_options=shared)
    return lambda: BucketBackend(f"bucket+gs://models/{name}", storage_options={"token": "anon"})


def change(bucket: BucketBackend, path: str, content: bytes | None) -> None:
    """Somebody with write access replaces an object, or takes it away."""
    objects: Any = bucket._objects
    if hasattr(objects, "_folder"):
        place = objects._folder / path
        place.write_bytes(content) if content is not None else place.unlink()
    else:
        root = objects._root if hasattr(objects, "_root") else f"{objects._bucket}/{objects._prefix}"
        files = objects._files
        files.pipe_file(f"{root}/{path}", content) if content is not None else files.rm_file(f"{root}/{path}")


def shares(events: list[Event]) -> list[tuple[str, int, int]]:
    return [(event.action, event.version, event.rollout_permille) for event in events]


def test_a_release_lives_from_its_first_share_to_its_withdrawal(opened: Opener) -> None:
    publisher, reader = opened(), opened()
    assert isinstance(publisher, Backend)
    first = publisher.publish("taxi-fare", b"one", metadata={"rmse_ppm": 7})
    assert (first.version, first.variant, first.created, first.channel_version) == (1, "default", True, 1)
    again = publisher.publish("taxi-fare", b"one", metadata={"rmse_ppm": 8})
    assert (again.version, again.created) == (1, False)
    publisher.publish(
        "taxi-fare", b"two", metadata={}, rollout_permille=250, attachments={"evaluation.html": b"<p>"}
    )
    publisher.publish("taxi-fare", b"two for arm", version=2, variant="arm", metadata={}, targeting=ARM)

    # A device gets what fits it; a pipeline, what everybody gets.
    salt = next(
        rollout.salt
        for rollout in reader.channel_records("taxi-fare")["stable"].rollouts
        if rollout.rollout_permille == 250
    )
    inside = next(str(i) for i in range(1000) if bucket_permille(salt, str(i)) < 250)
    outside = next(str(i) for i in range(1000) if bucket_permille(salt, str(i)) >= 250)
    assert reader.resolve("taxi-fare", device=Device(id=inside)).content == b"two"
    assert reader.resolve("taxi-fare", device=Device(id=outside)).content == b"one"
    on_arm = Device(id=outside, abi="arm64-v8a", app_version="2.1.0")
    assert reader.resolve("taxi-fare", device=on_arm).content == b"two for arm"
    found = reader.resolve("taxi-fare", device=Device())
    assert (found.version, found.content, found.metadata) == (1, b"one", {"rmse_ppm": 7})
    assert reader.attachments("taxi-fare", 2) == {"evaluation.html": b"<p>"}

    assert publisher.set_rollout("taxi-fare", "stable", 1000, version=2).action == "rollout"
    assert reader.resolve("taxi-fare", device=Device(id=outside)).content == b"two"
    assert publisher.rollback("taxi-fare", reason="worse in the rain").version == 1
    assert reader.resolve("taxi-fare").content == b"one"
    publisher.publish("taxi-fare", b"three", channel="beta", metadata={})
    publisher.promote("taxi-fare", rollout_permille=500)
    publisher.withdraw("taxi-fare", 3, reason="leaks")
    assert reader.resolve("taxi-fare").content == b"one"
    assert [record.withdrawn for record in reader.versions("taxi-fare")] == ["", "", "", "leaks"]
    history = reader.history("taxi-fare")
    assert shares(history) == [
        ("publish", 1, 1000),
        ("publish", 2, 250),
        ("publish", 2, 1000),  # the variant, to all on ARM
        ("rollout", 2, 1000),
        ("rollback", 1, 1000),
        ("promote", 3, 500),
        ("withdraw", 1, 1000),
    ]
    assert history[4].note == "worse in the rain"
    with pytest.raises(RegistryError, match=re.escape("it offers none")):
        reader.resolve("taxi-fare", "beta")


def test_a_publisher_that_is_overtaken_goes_on_from_what_the_other_left(opened: Opener) -> None:
    slow, fast = opened(), opened()
    fast.publish("taxi-fare", b"one", metadata={})
    seen = []

    def and_meanwhile(ledger: Any) -> Any:
        seen.append(len(ledger.files))
        if len(seen) < 3:
            fast.publish("taxi-fare", b"more" * len(seen), metadata={})
        return ledger.roll_back("stable", reason="slow")

    fast.publish("taxi-fare", b"two", metadata={})
    slow._change("taxi-fare", and_meanwhile)
    assert seen == [2, 3, 4]
    assert shares(fast.history("taxi-fare"))[-2:] == [("publish", 4, 1000), ("rollback", 3, 1000)]
    assert [record.version for record in fast.versions("taxi-fare")] == [1, 2, 3, 4]


def test_two_first_publishers_of_a_model_both_get_in(opened: Opener) -> None:
    slow, fast = opened(), opened()
    calls = []

    def and_meanwhile(ledger: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            fast.publish("taxi-fare", b"fast", metadata={})
        return ledger.publish(
            b"slow",
            version=None,
            variant="default",
            channel="stable",
            metadata={},
            rollout_permille=1000,
            targeting=Targeting(),
            attachments={},
        )[0]

    slow._change("taxi-fare", and_meanwhile, makes=True)
    assert [record.version for record in fast.versions("taxi-fare")] == [1, 2]


def test_twelve_publishers_at_once_lose_nothing(opened: Opener) -> None:
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        made = list(
            pool.map(lambda i: opened().publish("m", f"content {i}".encode(), metadata={}), range(12))
        )
    assert sorted(one.version for one in made) == list(range(1, 13))
    ledger = opened().ledger("m")
    assert [file.version for file in ledger.files] == list(range(1, 13))
    assert len(ledger.past("stable")) == 12


def test_a_file_that_was_changed_or_taken_away_is_refused(opened: Opener) -> None:
    bucket = opened()
    made = bucket.publish("taxi-fare", b"content", metadata={}, attachments={"notes.txt": b"kept"})
    path = f"taxi-fare/1/{made.sha256}.default.tflite"
    for bad in (b"Content", b"conten", b"content and more", b""):
        change(bucket, path, bad)
        with pytest.raises(RegistryError, match=re.escape("must have the sha256 in its name")):
            bucket.resolve("taxi-fare")
    change(bucket, path, None)
    with pytest.raises(RegistryError, match=re.escape(f"{made.sha256}.default.tflite is missing")):
        bucket.resolve("taxi-fare")
    (digest,) = bucket.ledger("taxi-fare").file(1).attachments.values()
    change(bucket, f"taxi-fare/1/{digest}.default.with.notes.txt", b"other")
    with pytest.raises(RegistryError, match=re.escape("must have the sha256 in its name")):
        bucket.attachments("taxi-fare", 1)


def edited(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda manifest: {**manifest, **changes}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (edited(model="other"), "in order"),
        (edited(model="other", channels={}), "must be about 'taxi-fare'; got 'other'"),
        (edited(files=[]), "must offer files that are there; got version 1 (default)"),
        (edited(format=2), "Ledger format must be 1; got 2"),
        (edited(extra=1), "has no setting 'extra'"),
        (lambda manifest: edited(files=manifest["files"] * 2)(manifest), "one stands twice"),
        (lambda manifest: edited(channels={"stable": []})(manifest), "in order"),
    ],
)
def test_a_manifest_that_was_changed_is_refused(
    tmp_path: Path, edit: Callable[[dict[str, Any]], dict[str, Any]], message: str
) -> None:
    bucket = BucketBackend(f"bucket+file://{tmp_path}")
    bucket.publish("taxi-fare", b"one", metadata={})
    place = tmp_path / "taxi-fare" / "manifest.json"
    place.write_text(json.dumps(edit(json.loads(place.read_bytes()))))
    before = place.read_bytes()
    with pytest.raises(RegistryError, match=re.escape(message)):
        bucket.resolve("taxi-fare")
    with pytest.raises(RegistryError, match=re.escape(message)):
        bucket.publish("taxi-fare", b"two", metadata={})
    assert place.read_bytes() == before


def test_what_is_refused_leaves_the_bucket_as_it_was(opened: Opener, tmp_path: Path) -> None:
    bucket = opened()
    bucket.publish("taxi-fare", b"one", version=3, metadata={})
    before, share = bucket.ledger("taxi-fare"), bucket.set_rollout

    def publish(
        model: str, content: bytes, metadata: Any = types.MappingProxyType({}), **more: Any
    ) -> object:
        return bucket.publish(model, content, metadata=metadata, **more)

    calls: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (RegistryError, "3 already holds", lambda: publish("taxi-fare", b"2", version=3)),
        (RegistryError, "versions only grow", lambda: publish("taxi-fare", b"2", version=2)),
        (ConfigError, "must be bytes, at least one", lambda: publish("taxi-fare", b"")),
        (ConfigError, "must not be a float", lambda: publish("taxi-fare", b"2", metadata={"a": 0.5})),
        (ConfigError, "Model name must be", lambda: publish("../x", b"2")),
        (ConfigError, "Channel name must be", lambda: publish("m", b"2", channel="/")),
        (ConfigError, "Attachment must be", lambda: publish("m", b"2", attachments={"../x.html": b""})),
        (
            ConfigError,
            "must be bytes, at least one",
            lambda: publish("m", b"2", attachments={"x.html": "text"}),
        ),
        (RegistryError, "must hold model 'm'", lambda: bucket.resolve("m")),
        (RegistryError, "have channel 'beta'; it has stable", lambda: bucket.history("taxi-fare", "beta")),
        (
            RegistryError,
            "offered something before version 3",
            lambda: bucket.rollback("taxi-fare", reason="r"),
        ),
        (RegistryError, "must hold model 'm'", lambda: bucket.rollback("m", reason="r")),
        (RegistryError, "must have version 1", lambda: bucket.withdraw("taxi-fare", 1, reason="r")),
        (ConfigError, "reason must say why", lambda: bucket.withdraw("taxi-fare", 3, reason="")),
        (RegistryError, "must offer version 9", lambda: share("taxi-fare", "stable", 5, version=9)),
        (RegistryError, "must not have version 3", lambda: bucket.promote("taxi-fare", "stable", "stable")),
    ]
    for error, message, call in calls:
        with pytest.raises(error, match=re.escape(message)):
            call()
    assert bucket.ledger("taxi-fare") == before


def test_a_server_that_forgets_conditions_is_not_published_to(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forgetful(http.server.BaseHTTPRequestHandler):
        """Hands requests on to the S3 server without their If-None-Match and If-Match."""

        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            kept = {k: v for k, v in self.headers.items() if not k.lower().startswith("if-")}
            to = http.client.HTTPConnection(s3)
            to.request(self.command, self.path, body, kept)
            answer = to.getresponse()
            content = answer.read()
            self.send_response(answer.status)
            for key, value in answer.getheaders():
                if key.lower() not in ("transfer-encoding", "connection", "server", "date"):
                    self.send_header(key, value)
            self.end_headers()
            self.wfile.write(content)
            to.close()

        do_GET = do_PUT = do_HEAD = do_POST = handle_any  # noqa: N815 - http.server's names

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Forgetful)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    try:
        bucket = BucketBackend("bucket+s3://models/forgetful")
        with pytest.raises(RegistryError, match=re.escape("must refuse to make an object that is there")):
            bucket.publish("m", b"one", metadata={})
        with pytest.raises(RegistryError, match=re.escape("must hold model 'm'")):
            bucket.resolve("m")
    finally:
        server.shutdown()
        server.server_close()


def test_a_bucket_that_is_not_there_is_one_clear_error(opened: Opener, tmp_path: Path) -> None:
    bucket = opened()
    if bucket.uri.startswith("bucket+file"):
        (tmp_path / "plain").write_bytes(b"")
        bucket = BucketBackend(f"bucket+file://{tmp_path}/plain")
    else:
        options = {"token": "anon"} if bucket.uri.startswith("bucket+gs") else None
        bucket = BucketBackend(bucket.uri.replace("//models/", "//nobodys/"), storage_options=options)
    with pytest.raises(RegistryError, match=re.escape("must be reached and writable")):
        bucket.publish("m", b"one", metadata={})


@pytest.mark.parametrize(
    "uri",
    [
        "bucket+file://relative/folder",
        "bucket+file:///",
        "bucket+file:///a/../b",
        "bucket+file:///a?b",
        "bucket+s3://",
        "bucket+s3://user:secret@models/x",
        "bucket+s3://models/../x",
        "bucket+s3://models/a//b",
        "bucket+s3://Models/a",
        "bucket+gs://models/a#1",
        "bucket+ftp://models/a",
    ],
)
def test_a_uri_that_is_none_of_a_bucket_is_refused_and_shows_no_secret(uri: str) -> None:
    with pytest.raises(
        ConfigError, match=re.escape("Bucket registry must be bucket+file:///folder")
    ) as error:
        BucketBackend(uri)
    assert "secret" not in str(error.value)


def test_the_scheme_opens_it_and_it_says_what_it_can(tmp_path: Path) -> None:
    backend = open_backend(f"bucket+file://{tmp_path}")
    assert isinstance(backend, BucketBackend)
    able = backend.capabilities
    assert not able.signed
    assert all((able.variants, able.rollout, able.targeting, able.rollback, able.withdraw, able.attachments))


@pytest.mark.parametrize("opened", ["file", "gs"], indirect=True)
class TestConformance(BackendConformance):
    """A folder and Cloud Storage pass what every adapter must pass.

    S3 does too. It takes a minute, for rules that are the ledger's and not the bucket's; what is the
    bucket's is tested above on all three.
    """

    @pytest.fixture
    def backend(self, opened: Opener) -> Backend:
        self.opened = opened
        return opened()

    def reopened(self, backend: Backend) -> Backend:
        return self.opened()

    def damage(self, model: str, version: int) -> None:
        bucket = self.opened()
        change(bucket, file_path(model, bucket.ledger(model).file(version)), b"something else")
