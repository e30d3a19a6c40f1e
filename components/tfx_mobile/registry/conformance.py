"""The tests that every adapter must pass, for pytest: what a pusher, a pipeline and a phone rely on.

Subclass `BackendConformance` in a test module, give it a registry, and pytest finds the tests. What the
backend says that it cannot do must be refused before anything is written; what it says that it can do must
work. Needs pytest, which the project itself does not.
"""

# ruff: noqa: D102 - the name of a test says what it is about

import concurrent.futures
import secrets
import time
from collections.abc import Callable
from typing import Any

import pytest

from tfx_mobile.common.errors import ConfigError, RegistryError
from tfx_mobile.registry.adapter import NothingReleased
from tfx_mobile.registry.backend import Backend, Event
from tfx_mobile.registry.targeting import Device, Targeting

BAD_NAMES: tuple[Any, ...] = (
    "",
    "Taxi",
    "a b",
    "../a",
    "a/b",
    "a_b",
    "-a",
    "a" * 64,
    "a\n",
    "\ud800",
    None,
    3,
)
BAD_VERSIONS: tuple[Any, ...] = (0, -1, True, "1", 1.0, 2.5)
METADATA = {
    "figures": {"rmse_ppm": 2_500_000, "latency_p50_ns": 7_100, "name": "s75-int8"},
    "flags": [True, None, -1, 2**53 - 1],
    "text": 'quote " slash \\ line \n é \u4e2d',
    "empty": {},
}
NUM_PUBLISHERS = 8
NUM_DEVICES = 40  # that half of them all are on one side has probability 2**-39


class BackendConformance:
    """What holds for every backend; a subclass gives `backend` and `damage`.

    ```
    class TestMine(BackendConformance):
        @pytest.fixture
        def backend(self, tmp_path):
            self.folder = tmp_path
            return open_backend(f"mine:{tmp_path}")

        def damage(self, model, version):
            (self.folder / model / str(version)).write_bytes(b"something else")
    ```
    """

    @pytest.fixture
    def backend(self) -> Backend:
        """An open registry; it may hold other models."""
        raise NotImplementedError("Give a fixture `backend`.")

    @pytest.fixture
    def model(self) -> str:
        """A name that the registry does not have."""
        return f"taxi-{secrets.token_hex(6)}"

    def damage(self, model: str, version: int) -> None:
        """Changes a byte of the file of a version, where the registry keeps it."""
        raise NotImplementedError("Say how to damage a file.")

    def reopened(self, backend: Backend) -> Backend:
        """Returns the same registry as another process would have opened it."""
        return backend

    def test_what_is_published_is_what_a_device_gets(self, backend: Backend, model: str) -> None:
        before = int(time.time())
        published = backend.publish(model, b"one", metadata=METADATA)
        assert (published.model, published.version, published.channel) == (model, 1, "stable")
        assert (published.variant, published.channel_version, published.created) == ("default", 1, True)
        assert published.size_bytes == 3
        assert published.sha256 == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
        assert published.uri
        again = self.reopened(backend)
        for device in (None, Device(), Device(id="phone", platform="android")):
            resolved = again.resolve(model, device=device)
            assert (resolved.version, resolved.variant, resolved.content) == (1, "default", b"one")
            assert resolved.sha256 == published.sha256
            assert resolved.metadata == METADATA
        (event,) = again.history(model)
        assert event == Event(event.unix_s, "publish", 1, 1000)
        assert before - 1 <= event.unix_s <= time.time() + 1

    def test_the_same_bytes_again_change_nothing_and_other_bytes_need_another_number(
        self, backend: Backend, model: str
    ) -> None:
        backend.publish(model, b"one", metadata={"a": 1})
        before = seen(backend, model)
        for version in (None, 1):
            again = backend.publish(model, b"one", version=version, metadata={"a": 2})
            assert (again.version, again.created, again.channel_version) == (1, False, 1)
        with pytest.raises(RegistryError):
            backend.publish(model, b"other", version=1, metadata={})
        assert seen(backend, model) == before
        assert backend.publish(model, b"two", version=2, metadata={}).channel_version == 2
        old = backend.publish(model, b"one", version=1, metadata={})
        assert (old.version, old.created, old.channel_version) == (1, False, 2)
        assert backend.publish(model, b"one", metadata={}).version == 3
        assert [event.version for event in backend.history(model)] == [1, 2, 3]

    def test_channels_are_apart(self, backend: Backend, model: str) -> None:
        backend.publish(model, b"one", metadata={})
        backend.publish(model, b"two", channel="beta", metadata={})
        assert backend.resolve(model).content == b"one"
        assert backend.resolve(model, "beta").content == b"two"
        assert [event.version for event in backend.history(model)] == [1]
        assert [event.version for event in backend.history(model, "beta")] == [2]
        moved = backend.publish(model, b"two", version=2, metadata={})
        assert (moved.created, moved.channel_version) == (False, 2)
        assert backend.resolve(model).content == b"two"

    def test_bytes_that_were_rolled_back_from_come_again_only_by_their_number(
        self, backend: Backend, model: str
    ) -> None:
        backend.publish(model, b"one", metadata={})
        backend.publish(model, b"two", metadata={})
        if not backend.capabilities.rollback:
            return
        backend.rollback(model, reason="why")
        before = seen(backend, model)
        with pytest.raises(RegistryError):
            backend.publish(model, b"two", metadata={})
        assert seen(backend, model) == before
        again = backend.publish(model, b"two", version=2, metadata={})
        assert (again.created, again.channel_version) == (False, 2)
        backend.publish(model, b"three", channel="beta", metadata={})
        taken = backend.publish(model, b"three", metadata={})
        assert (taken.version, taken.created, taken.channel_version) == (3, False, 3)

    def test_what_is_not_there_is_said(self, backend: Backend, model: str) -> None:
        # A pipeline goes on where nothing was released yet; the signed store's client finds that out itself.
        expected = RegistryError if backend.capabilities.signed else NothingReleased
        asked: list[Callable[[str], Any]] = [backend.resolve, backend.history]
        if backend.capabilities.rollback:
            asked.append(lambda name: backend.rollback(name, reason="why"))
        for ask in asked:
            with pytest.raises(expected):
                ask(model)
        if backend.capabilities.withdraw:
            with pytest.raises(RegistryError):
                backend.withdraw(model, 1, reason="why")
        backend.publish(model, b"one", channel="beta", metadata={})
        for ask in asked:
            with pytest.raises(expected):
                ask(model)

    def test_what_breaks_a_rule_is_refused_at_every_entrance(self, backend: Backend, model: str) -> None:
        can = backend.capabilities
        backend.publish(model, b"first", metadata={})
        before = seen(backend, model)
        for bad in BAD_NAMES:
            refuse(backend.publish, bad, b"one", metadata={})
            refuse(backend.publish, model, b"one", channel=bad, metadata={})
            refuse(backend.publish, model, b"one", variant=bad, metadata={})
            for ask in (backend.resolve, backend.history):
                refuse(ask, bad)
                refuse(ask, model, bad)
            if can.rollback:
                refuse(backend.rollback, bad, reason="why")
                refuse(backend.rollback, model, bad, reason="why")
            if can.withdraw:
                refuse(backend.withdraw, bad, 1, reason="why")
            if can.attachments:
                refuse(backend.publish, model, b"one", metadata={}, attachments={bad: b"x"})
        for bad in BAD_VERSIONS:
            refuse(backend.publish, model, b"one", version=bad, metadata={})
            if can.withdraw:
                refuse(backend.withdraw, model, bad, reason="why")
        for bad in (b"", "text", None):
            refuse(backend.publish, model, bad, metadata={})
        for bad in ({"rmse": 0.5}, {"a": [float("nan")]}, {"a": b"x"}, {3: 1}, [1], None):
            refuse(backend.publish, model, b"one", metadata=bad)
        for bad in (-1, 1001, 0.5, True):
            refuse(backend.publish, model, b"one", metadata={}, rollout_permille=bad)
        for bad in ("", " ", None):
            if can.rollback:
                refuse(backend.rollback, model, reason=bad)
            if can.withdraw:
                refuse(backend.withdraw, model, 1, reason=bad)
        assert seen(backend, model) == before

    def test_what_it_cannot_do_is_refused_before_anything_is_written(
        self, backend: Backend, model: str
    ) -> None:
        can = backend.capabilities
        wishes: dict[str, dict[str, Any]] = {
            "variants": {"variant": "gpu"},
            "rollout": {"rollout_permille": 999},
            "targeting": {"targeting": Targeting(min_ram_mib=1)},
            "attachments": {"attachments": {"evaluation.html": b"<p>"}},
        }
        for name, wish in wishes.items():
            if not getattr(can, name):
                refuse(backend.publish, model, b"one", metadata={}, **wish)
        with pytest.raises(RegistryError):
            backend.resolve(model)
        if not can.rollback:
            refuse(backend.rollback, model, reason="why")
        if not can.withdraw:
            refuse(backend.withdraw, model, 1, reason="why")

    def test_what_it_can_do_it_does(self, backend: Backend, model: str) -> None:
        can = backend.capabilities
        beside = {"evaluation.html": b"<p>", "evaluation.json": b"{}"} if can.attachments else None
        backend.publish(model, b"one", metadata={}, attachments=beside)
        assert backend.resolve(model).content == b"one"
        if can.variants:
            second = backend.publish(
                model,
                b"gpu",
                version=1,
                variant="gpu",
                metadata={"a": 1},
                targeting=Targeting(abis=("arm64-v8a",)) if can.targeting else Targeting(),
            )
            assert (second.version, second.variant, second.created) == (1, "gpu", True)
            if can.targeting:
                assert backend.resolve(model, device=Device(abi="arm64-v8a")).content == b"gpu"
                assert backend.resolve(model, device=Device(abi="x86")).content == b"one"
        if can.targeting:
            asks = Targeting(platforms=("android",), min_runtime_version="2.10", required_ops=("FlexSplit",))
            backend.publish(model, b"android", channel="targeted", metadata={})
            backend.publish(model, b"new", channel="targeted", metadata={}, targeting=asks)
            fits = Device(platform="android", runtime_version="2.10.0", ops=("FlexSplit", "Other"))
            assert backend.resolve(model, "targeted", device=fits).content == b"new"
            for unfit in (Device(), Device(platform="ios", runtime_version="2.10", ops=("FlexSplit",))):
                assert backend.resolve(model, "targeted", device=unfit).content == b"android"
        if can.rollout:
            backend.publish(model, b"all", channel="staged", metadata={})
            backend.publish(model, b"half", channel="staged", metadata={}, rollout_permille=500)
            given = [
                backend.resolve(model, "staged", device=Device(id=f"phone {number}")).content
                for number in range(NUM_DEVICES)
            ]
            assert set(given) == {b"all", b"half"}
            for number in (0, 1):
                device = Device(id=f"phone {number}")
                assert backend.resolve(model, "staged", device=device).content == given[number]
            for nobody in (None, Device()):
                assert backend.resolve(model, "staged", device=nobody).content == b"all"
            assert backend.history(model, "staged")[-1].rollout_permille == 500

    def test_a_channel_goes_back_to_what_it_offered_before(self, backend: Backend, model: str) -> None:
        if not backend.capabilities.rollback:
            return  # refused: see above
        backend.publish(model, b"one", metadata={"a": 1})
        backend.publish(model, b"two", metadata={"a": 2})
        event = backend.rollback(model, reason="crashes on Android 9")
        assert event == Event(event.unix_s, "rollback", 1, 1000, "crashes on Android 9")
        resolved = backend.resolve(model)
        assert (resolved.version, resolved.content, resolved.metadata) == (1, b"one", {"a": 1})
        before = seen(backend, model)
        with pytest.raises(RegistryError):
            backend.rollback(model, reason="further than there is")
        assert seen(backend, model) == before
        assert backend.publish(model, b"three", metadata={}).version == 3
        history = backend.history(model)
        assert [(one.action, one.version) for one in history] == [
            ("publish", 1),
            ("publish", 2),
            ("rollback", 1),
            ("publish", 3),
        ]
        assert [one.unix_s for one in history] == sorted(one.unix_s for one in history)
        assert backend.rollback(model, reason="once more").version == 1

    def test_what_is_withdrawn_is_never_offered_again(self, backend: Backend, model: str) -> None:
        if not backend.capabilities.withdraw:
            return  # refused: see above
        backend.publish(model, b"one", metadata={})
        for channel in ("stable", "beta"):
            backend.publish(model, b"two", channel=channel, version=2, metadata={})
        backend.withdraw(model, 2, reason="leaks a name")
        offered = [given(backend, model, channel) for channel in ("stable", "beta")]
        assert offered[0] in (1, 0)
        assert offered[1] == 0
        assert backend.history(model)[-1].action == "withdraw"
        assert backend.history(model)[-1].note == "leaks a name"
        for again in (None, 2):
            with pytest.raises(RegistryError):
                backend.publish(model, b"two", version=again, metadata={})
        with pytest.raises(RegistryError):
            backend.withdraw(model, 7, reason="there is none")
        assert [given(backend, model, channel) for channel in ("stable", "beta")] == offered
        assert backend.publish(model, b"three", metadata={}).version == 3
        assert given(backend, model, "stable") == 3
        if backend.capabilities.rollback:
            assert backend.rollback(model, reason="back over the withdrawn one").version == 1

    def test_a_damaged_file_is_refused(self, backend: Backend, model: str) -> None:
        backend.publish(model, b"one" * 100, metadata={})
        self.damage(model, 1)
        with pytest.raises(RegistryError):
            self.reopened(backend).resolve(model)
        backend.publish(model, b"two" * 100, metadata={})
        assert self.reopened(backend).resolve(model).content == b"two" * 100

    def test_publishers_at_once_lose_nothing(self, backend: Backend, model: str) -> None:
        contents = [f"content {number}".encode() for number in range(NUM_PUBLISHERS)]

        def publish(content: bytes) -> int:
            return self.reopened(backend).publish(model, content, metadata={}).version

        with concurrent.futures.ThreadPoolExecutor(NUM_PUBLISHERS) as pool:
            versions = list(pool.map(publish, contents))
        assert sorted(versions) == list(range(1, NUM_PUBLISHERS + 1))
        resolved = backend.resolve(model)
        assert resolved.version == NUM_PUBLISHERS
        assert resolved.content == contents[versions.index(NUM_PUBLISHERS)]
        for version, content in zip(versions, contents, strict=True):
            assert not backend.publish(model, content, version=version, metadata={}).created
        history = backend.history(model)
        assert history[-1].version == NUM_PUBLISHERS
        assert [event.version for event in history] == sorted(event.version for event in history)


def seen(backend: Backend, model: str) -> Any:
    """Returns what a phone and a person see of the channel 'stable'."""
    return backend.resolve(model), backend.history(model)


def given(backend: Backend, model: str, channel: str) -> int:
    """Returns the version that everyone gets; 0 when the channel offers none."""
    try:
        return backend.resolve(model, channel).version
    except RegistryError:
        return 0


def refuse(call: Callable[..., object], *args: Any, **settings: Any) -> None:
    """Checks that a call is refused as its author's mistake."""
    with pytest.raises(ConfigError) as caught:
        call(*args, **settings)
    assert str(caught.value)
