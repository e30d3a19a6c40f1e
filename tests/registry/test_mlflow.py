"""MLflow as a registry, on real servers: what every adapter must do, and what is MLflow's own."""

import re
import secrets
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.registry.mlflow_servers import PASSWORD, USER, MlflowServer, mlflow_server

from tfx_mobile.common.errors import ConfigError, RegistryError
from tfx_mobile.registry import mlflow_backend
from tfx_mobile.registry.backend import Backend, open_backend
from tfx_mobile.registry.conformance import BackendConformance
from tfx_mobile.registry.mlflow_backend import MlflowBackend
from tfx_mobile.registry.targeting import Targeting


@pytest.fixture(scope="session")
def server() -> Iterator[MlflowServer]:
    with mlflow_server("sqlite") as started:
        yield started


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[MlflowServer]:
    with mlflow_server("postgresql") as started:
        yield started


class TestMlflow(BackendConformance):
    """What every adapter must do."""

    server: MlflowServer

    @pytest.fixture
    def backend(self, server: MlflowServer) -> Backend:
        self.server = server
        return open_backend(server.uri)

    def reopened(self, backend: Backend) -> Backend:
        return open_backend(self.server.uri)

    def damage(self, model: str, version: int) -> None:
        path = file_of(self.server, model, version)
        path.write_bytes(path.read_bytes().replace(b"o", b"0", 1))

    def test_a_damaged_record_is_refused(self, backend: Backend, model: str) -> None:
        backend.publish(model, b"one", metadata={"rmse_ppm": 1})
        path = file_of(self.server, model, 1).with_name("model.record.json")
        path.write_bytes(path.read_bytes().replace(b"1", b"2"))
        message = f"model.record.json of version 1 of '{model}' must have sha256 "
        with pytest.raises(RegistryError, match=re.escape(message)):
            backend.resolve(model)

    def test_what_is_published_is_what_mlflow_shows(self, backend: Backend, model: str) -> None:
        backend.publish(model, b"one", metadata={}, attachments={"evaluation.html": b"<p>"})
        published = backend.publish(model, b"two", metadata={}, channel="beta")
        assert published.uri == f"{self.server.url}/#/models/{model}/versions/2"
        shown = mlflow_client(self.server).get_registered_model(model)
        assert {name: int(version) for name, version in shown.aliases.items()} == {"stable": 1, "beta": 2}
        first = mlflow_client(self.server).get_model_version(model, "1")
        assert first.tags["tfx_mobile.size_bytes"] == "3"
        beside = file_of(self.server, model, 1).with_name("model.with.evaluation.html")
        assert beside.read_bytes() == b"<p>"

    def test_mlflow_numbers_versions_itself(self, backend: Backend, model: str) -> None:
        message = (
            f"Registry refused version 2 of '{model}': MLflow numbers versions itself, and the newest is 0"
        )
        with pytest.raises(RegistryError, match=re.escape(message)):
            backend.publish(model, b"one", version=2, metadata={})
        assert mlflow_client(self.server).search_registered_models(f"name='{model}'") == []
        assert backend.publish(model, b"one", version=1, metadata={}).version == 1

    def test_an_alias_that_was_moved_by_hand_is_followed_but_not_to_what_others_made(
        self, backend: Backend, model: str
    ) -> None:
        client = mlflow_client(self.server)
        for content in (b"one", b"two"):
            backend.publish(model, content, metadata={})
        client.set_registered_model_alias(model, "stable", "1")
        assert backend.resolve(model).content == b"one"
        backend.withdraw(model, 1, reason="of no use")
        client.set_registered_model_alias(model, "stable", "1")
        with pytest.raises(RegistryError, match=re.escape("must not offer what was withdrawn; its alias in")):
            backend.resolve(model)
        client.create_model_version(model, "s3://elsewhere/model", await_creation_for=0)
        client.set_registered_model_alias(model, "stable", "3")
        with pytest.raises(RegistryError, match=re.escape("It was not made by this registry's publisher.")):
            backend.resolve(model)
        assert backend.publish(model, b"four", metadata={}).channel_version == 4
        assert backend.resolve(model).content == b"four"


@pytest.mark.parametrize(
    "case",
    [
        BackendConformance.test_the_same_bytes_again_change_nothing_and_other_bytes_need_another_number,
        BackendConformance.test_a_channel_goes_back_to_what_it_offered_before,
        BackendConformance.test_what_is_withdrawn_is_never_offered_again,
        BackendConformance.test_publishers_at_once_lose_nothing,
    ],
)
def test_on_postgresql_too(
    postgresql_server: MlflowServer, case: Callable[[Any, Backend, str], None]
) -> None:
    """What asks the database for more than to keep a value."""
    adapter = TestMlflow()
    adapter.server = postgresql_server
    case(adapter, open_backend(postgresql_server.uri), f"taxi-{secrets.token_hex(6)}")


def test_an_upload_that_comes_back_changed_leaves_no_version(
    server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = MlflowBackend(server.uri)
    backend.publish("taxi-changed", b"one", metadata={})
    with monkeypatch.context() as patch:
        patch.setattr(mlflow_backend.Path, "read_bytes", lambda path: b"other")
        with pytest.raises(RegistryError, match=re.escape("It was changed: ")):
            backend.publish("taxi-changed", b"two", metadata={})
    assert backend.resolve("taxi-changed").content == b"one"
    assert [event.version for event in backend.history("taxi-changed")] == [1]
    assert len(mlflow_client(server).search_model_versions("name='taxi-changed'")) == 1


def test_a_clean_up_that_fails_hides_neither_why_it_was_needed_nor_what_is_left(
    server: MlflowServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    def refuse(client: Any, run: str) -> None:
        raise MlflowException(f"may not delete {run}")

    monkeypatch.setattr(MlflowClient, "delete_run", refuse)
    monkeypatch.setattr(mlflow_backend.Path, "read_bytes", lambda path: b"other")
    with pytest.raises(RegistryError, match=re.escape("It was changed: ")):
        MlflowBackend(server.uri).publish("taxi-left", b"one", metadata={})
    said = re.escape(f"of 'taxi-left' is left in {server.uri}, of no use; delete it: may not delete")
    assert re.search(rf"Run '(\w+)' {said} \1", caplog.text)


def test_a_channel_that_two_publishers_make_at_once_is_made(
    server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow lets one of them in and answers the other with its database's error."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    set_alias, calls = MlflowClient.set_registered_model_alias, []

    def second(client: Any, *args: str) -> None:
        calls.append(args)
        if len(calls) == 1:
            set_alias(client, *args[:2], "1")
            raise MlflowException(
                "(sqlite3.IntegrityError) UNIQUE constraint failed: registered_model_aliases"
            )
        set_alias(client, *args)

    backend = MlflowBackend(server.uri)
    backend.publish("taxi-at-once", b"one", metadata={})
    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", second)
    assert backend.publish("taxi-at-once", b"two", metadata={}).channel_version == 2
    assert len(calls) == 2
    assert backend.resolve("taxi-at-once").content == b"two"


def test_a_server_with_login_lets_in_who_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow.server

    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with mlflow_server("sqlite", with_login=True) as server:
        backend = open_backend(server.uri)
        unknown = re.escape(
            " on how to authenticate.'. Log in: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, "
            "or MLFLOW_TRACKING_TOKEN."
        )
        with pytest.raises(RegistryError, match=unknown):
            backend.publish("taxi", b"one", metadata={})
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "another password")
        with pytest.raises(RegistryError, match=unknown):
            backend.publish("taxi", b"one", metadata={})

        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
        backend.publish("taxi", b"one", metadata={})
        assert backend.resolve("taxi").content == b"one"
        users = mlflow.server.get_app_client("basic-auth", server.url)
        users.create_user("reader", "a phone's password")
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "reader")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a phone's password")
        assert backend.resolve("taxi").content == b"one"
        with pytest.raises(RegistryError, match=re.escape("'Permission denied'. Check the server")):
            backend.publish("taxi", b"two", metadata={})


def test_a_server_that_is_not_there_is_said_at_once() -> None:
    backend = open_backend("mlflow+http://127.0.0.1:1")
    for ask in (backend.resolve, backend.history):
        with pytest.raises(
            RegistryError, match=re.escape("must be reached; [Errno 111] Connection refused.")
        ):
            ask("taxi")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("mlflow+http://", "Registry must be mlflow+http://host:port or mlflow+https://host; got"),
        ("mlflow+ftp://host", "Registry must be mlflow+http://host:port or mlflow+https://host; got"),
        ("mlflow+http://ada:secret@host", "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        ("mlflow+http://host?token=secret", "must be an MLflow URI without user, password and query"),
    ],
)
def test_a_uri_that_is_no_servers_is_refused(uri: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        MlflowBackend(uri)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("channel", ["latest", "v1", "v20"])
def test_a_channel_that_mlflow_keeps_for_itself_is_refused(channel: str) -> None:
    message = (
        "Channel name must not match 'latest|v[0-9]+', which registry 'mlflow+http://127.0.0.1:1' keeps for "
        f"itself; got '{channel}'. Name another."
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        MlflowBackend("mlflow+http://127.0.0.1:1").publish("taxi", b"one", channel=channel, metadata={})


def change(action: str, version: int) -> Any:
    return mlflow_backend._Change(0, action, version)


@pytest.mark.parametrize(
    ("changes", "states"),
    [
        ([("publish", 1), ("publish", 2), ("rollback", 1)], [1, 2, 1]),
        ([("publish", 2), ("publish", 1)], [2, 2]),  # overtaken
        ([("publish", 1), ("publish", 2), ("withdraw", 2)], [1, 2, 1]),
        ([("publish", 1), ("withdraw", 1), ("publish", 2)], [1, 0, 2]),
        ([("publish", 1), ("publish", 2), ("withdraw", 1), ("withdraw", 2)], [1, 2, 2, 0]),
        ([("publish", 1), ("publish", 2), ("publish", 3), ("rollback", 2), ("withdraw", 2)], [1, 2, 3, 2, 1]),
        ([("publish", 2), ("publish", 3), ("rollback", 2), ("withdraw", 2)], [2, 3, 2, 0]),
        ([("publish", 1), ("withdraw", 1), ("publish", 1)], [1, 0, 0]),  # a publisher that was overtaken
    ],
)
def test_what_a_channel_offers_follows_from_its_changes(
    changes: list[tuple[str, int]], states: list[int]
) -> None:
    assert mlflow_backend._replayed([change(*one) for one in changes])[0] == [0, *states]


@given(
    st.lists(st.tuples(st.sampled_from(["publish", "withdraw"]), st.integers(1, 6)), max_size=12),
    st.integers(1, 6),
)
def test_no_order_of_changes_offers_what_was_withdrawn(changes: list[tuple[str, int]], last: int) -> None:
    given_changes = [change(*one) for one in changes]
    states, withdrawn = mlflow_backend._replayed([*given_changes, change("withdraw", last)])
    assert states[-1] not in withdrawn
    assert last in withdrawn
    published = [one.version for one in given_changes if one.action == "publish"]
    assert states[-1] in {0, *published}


@pytest.mark.pipeline
def test_a_pipeline_pushes_to_mlflow_and_takes_from_it(server: MlflowServer, tmp_path: Path) -> None:
    """RegistryModel -> RegistryPusher, as executors: nothing; not blessed; pushed; again; damaged."""
    from types import SimpleNamespace

    from tests.registry_pusher.test_executor import ONE, World
    from tfx.types import standard_artifacts

    from tfx_mobile.registry_model import executor as source
    from tfx_mobile.registry_model.config import RegistryModelConfig
    from tfx_mobile.registry_pusher import executor as sink
    from tfx_mobile.registry_pusher.config import PusherConfig

    name, world = f"taxi-{secrets.token_hex(6)}", World(tmp_path)
    settings = {"registry": server.uri, "model_name": name}

    def taken(place: str) -> Any:
        model = standard_artifacts.Model()
        model.uri = str(tmp_path / place)
        config = RegistryModelConfig(server.uri, name)
        source.Executor().Do({}, {"model": [model]}, {"config": config.to_json()})
        return model

    def driven() -> str:
        info: Any = SimpleNamespace(exec_properties={"config": PusherConfig(**settings).to_json()})
        handle: Any = None  # the driver asks ML Metadata nothing
        return str(sink.Driver(handle).run(info).exec_properties["current"].string_value)

    first = taken("first")
    assert first.get_int_custom_property("first_release") == 1
    assert driven() != driven()
    refused = world.push(world.model("no"), world.blessing(blessed=False, verdict="too large"), **settings)
    assert refused.get_string_custom_property("reason") == "too large"
    assert mlflow_client(server).search_registered_models(f"name='{name}'") == []

    pushed = world.push(world.model(), world.blessing(blessed=True), **settings)
    assert pushed.get_string_custom_property("pushed_version") == "1"
    assert pushed.get_string_custom_property("pushed_destination") == server.uri
    model = taken("second")
    assert (Path(model.uri) / "Format-Serving" / "tflite").read_bytes() == ONE
    assert model.get_int_custom_property("version") == 1
    assert '"gz_size_bytes":1234' in model.get_string_custom_property("figures")
    assert '"version":1' in model.get_string_custom_property("history")
    key = driven()
    world.push(world.model("again"), world.blessing(blessed=True), **settings)
    assert driven() == key
    with pytest.raises(ConfigError, match=re.escape("cannot ask anything of a device")):
        world.push(
            world.model("x"), world.blessing(blessed=True), targeting=Targeting(min_ram_mib=1), **settings
        )
    path = file_of(server, name, 1)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(RegistryError, match=re.escape("It was changed: withdraw the version")):
        taken("third")
    assert driven() != driven()


def file_of(server: MlflowServer, model: str, version: int) -> Path:
    """Returns where the server keeps the file of a version."""
    found = mlflow_client(server).get_model_version(model, str(version))
    return server.artifacts / urllib.parse.urlsplit(found.source).path.lstrip("/") / "model.tflite"


def mlflow_client(server: MlflowServer) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=server.url, registry_uri=server.url)
