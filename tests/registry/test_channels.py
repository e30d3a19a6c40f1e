"""What a channel offers after each operation, and what is refused."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfx_mobile.common.errors import ConfigError, RegistryError
from tfx_mobile.registry import releases
from tfx_mobile.registry.client import Client
from tfx_mobile.registry.records import ChannelRecord, Rollout
from tfx_mobile.registry.store import Registry
from tfx_mobile.registry.targeting import Device, Targeting, bucket_permille

Tree = Callable[..., dict[str, bytes]]


def _offers(registry: Registry, channel: str = "stable") -> list[tuple[int, int]]:
    record = registry.channel_records("taxi-fare")[channel]
    return [(one.version, one.rollout_permille) for one in record.rollouts]


def test_a_release_goes_from_beta_to_a_share_to_everyone_and_back(registry: Registry, phone: Client) -> None:
    registry.publish("taxi-fare", b"four", channel="beta", metadata={})
    event = registry.promote("taxi-fare", rollout_permille=50, note="first phones")
    assert (event.action, event.version, event.rollout_permille) == ("promote", 4, 50)
    assert _offers(registry) == [(4, 50), (3, 1000)]
    assert phone.fetch("taxi-fare").version == 3
    registry.set_rollout("taxi-fare", "stable", 1000)
    assert _offers(registry) == [(4, 1000)]
    assert phone.fetch("taxi-fare").version == 4
    registry.set_rollout("taxi-fare", "stable", 10)
    assert _offers(registry) == [(4, 10), (3, 1000)]
    registry.rollback("taxi-fare", reason="fares too high")
    assert _offers(registry) == [(3, 1000)]
    assert _offers(registry, "beta") == [(4, 1000)]
    history = registry.history("taxi-fare")
    assert [event.action for event in history] == ["publish"] * 3 + ["promote"] + ["rollout"] * 2 + [
        "rollback"
    ]
    assert [event.version for event in history] == [1, 2, 3, 4, 4, 4, 3]
    assert (history[3].note, history[-1].note) == ("first phones", "fares too high")
    registry.verify()


def test_a_share_that_grows_only_adds_devices(registry: Registry) -> None:
    registry.publish("taxi-fare", b"four", rollout_permille=200, metadata={})
    salt = registry.channel_records("taxi-fare")["stable"].rollouts[0].salt
    few = {f"d{i}" for i in range(300) if bucket_permille(salt, f"d{i}") < 200}
    registry.set_rollout("taxi-fare", "stable", 500)
    record = registry.channel_records("taxi-fare")["stable"]
    more = {f"d{i}" for i in range(300) if record.choose(Device(id=f"d{i}")).version == 4}
    assert few < more
    assert registry.resolve("taxi-fare", device=Device(id=min(more))).content == b"four"
    assert registry.resolve("taxi-fare").version == 3


def test_two_steps_back_are_two_versions_back_and_never_forward(registry: Registry) -> None:
    registry.rollback("taxi-fare", reason="a")
    assert _offers(registry) == [(2, 1000)]
    registry.rollback("taxi-fare", reason="b")
    assert _offers(registry) == [(1, 1000)]
    message = "Channel 'stable' of 'taxi-fare' must have offered something before version 1 to go back to; it"
    with pytest.raises(RegistryError, match=re.escape(message)):
        registry.rollback("taxi-fare", reason="c")
    registry.publish("taxi-fare", b"four", metadata={})
    registry.rollback("taxi-fare", reason="d")
    assert _offers(registry) == [(1, 1000)]  # what it offered before 4 came, not what it went back from


def test_a_withdrawn_version_leaves_every_channel_at_once_and_never_comes_back(
    registry: Registry, phone: Client, contents: dict[int, bytes]
) -> None:
    registry.publish("taxi-fare", contents[3], version=3, channel="beta", metadata={})
    registry.publish("taxi-fare", contents[2], version=2, channel="older", metadata={})
    commits = len(list(registry.repository.glob("metadata/*.snapshot.json")))
    registry.withdraw("taxi-fare", 3, reason="wrong units")
    assert len(list(registry.repository.glob("metadata/*.snapshot.json"))) == commits + 1
    assert registry.channels("taxi-fare") == {"beta": 0, "older": 2, "stable": 2}
    assert phone.fetch("taxi-fare").version == 2
    assert [record.withdrawn for record in registry.versions("taxi-fare")] == ["", "", "wrong units"]
    for version in (None, 3, 4):
        with pytest.raises(RegistryError, match=re.escape("version 3 was withdrawn: wrong units. What is")):
            registry.publish("taxi-fare", contents[3], version=version, metadata={})
    with pytest.raises(RegistryError, match=re.escape("version 3 was withdrawn: wrong units.")):
        registry.publish("taxi-fare", b"other bytes", version=3, variant="small", metadata={})
    assert registry.publish("taxi-fare", b"four", metadata={}).version == 4
    registry.rollback("taxi-fare", reason="x")
    assert registry.channels("taxi-fare")["stable"] == 2
    registry.withdraw("taxi-fare", 2, reason="too")
    assert registry.channels("taxi-fare") == {"beta": 0, "older": 0, "stable": 1}
    registry.withdraw("taxi-fare", 1, reason="all")
    assert registry.channels("taxi-fare") == {"beta": 0, "older": 0, "stable": 0}
    with pytest.raises(
        RegistryError, match=re.escape("must offer a file that fits this device; it offers none")
    ):
        registry.resolve("taxi-fare")
    registry.verify()


def test_withdrawing_what_everyone_else_has_goes_back_for_them_alone(registry: Registry) -> None:
    registry.publish("taxi-fare", b"four", rollout_permille=100, metadata={})
    registry.withdraw("taxi-fare", 3, reason="x")
    assert _offers(registry) == [(4, 100), (2, 1000)]


def test_a_channel_offers_variants_of_one_version_to_devices_that_fit(registry: Registry) -> None:
    arm = Targeting(abis=("arm64-v8a",))
    registry.publish("taxi-fare", b"four", metadata={})
    small = registry.publish(
        "taxi-fare", b"four small", version=4, variant="small", targeting=arm, metadata={}
    )
    assert (small.version, small.variant, small.created) == (4, "small", True)
    for device, content in (
        (Device(abi="arm64-v8a"), b"four small"),
        (Device(abi="x86_64"), b"four"),
        (Device(), b"four"),
    ):
        assert registry.resolve("taxi-fare", device=device).content == content
    assert registry.publish("taxi-fare", b"four small", variant="small", metadata={}).created is False
    registry.publish("taxi-fare", b"five", channel="beta", metadata={})
    registry.publish(
        "taxi-fare", b"five s", version=5, variant="small", channel="beta", targeting=arm, metadata={}
    )
    registry.promote("taxi-fare", rollout_permille=500)
    record = registry.channel_records("taxi-fare")["stable"]
    assert [(one.version, one.variant) for one in record.rollouts] == [
        (5, "small"),
        (5, "default"),
        (4, "small"),
        (4, "default"),
    ]
    assert [one.targeting for one in record.rollouts] == [arm, Targeting(), arm, Targeting()]
    registry.withdraw("taxi-fare", 5, reason="both variants")
    assert {one.version for one in registry.channel_records("taxi-fare")["stable"].rollouts} == {4}
    with pytest.raises(RegistryError, match=re.escape("the newest is 5, and versions only grow; push 6")):
        registry.publish("taxi-fare", b"x", version=4, variant="tiny", metadata={})
    registry.verify()


def test_attachments_are_signed_beside_the_file_and_read_back_by_name(registry: Registry) -> None:
    files = {"evaluation.html": b"<p>", "report.json": b"{}"}
    registry.publish("taxi-fare", b"four", attachments=files, metadata={})
    assert registry.attachments("taxi-fare", 4) == files
    assert registry.attachments("taxi-fare", 3) == {}
    path = next(registry.repository.glob("targets/taxi-fare/4/*.model.with.report.json"))
    path.write_bytes(b"[]")
    with pytest.raises(
        RegistryError, match=re.escape("'taxi-fare/4/model.with.report.json' must have the len")
    ):
        registry.attachments("taxi-fare", 4)
    with pytest.raises(
        RegistryError, match=re.escape("must hold version 9 (default) of 'taxi-fare'; it has 1,")
    ):
        registry.attachments("taxi-fare", 9)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda r: r.promote("taxi-fare"),
            RegistryError,
            "There must be a channel 'beta' of 'taxi-fare'; there",
        ),
        (lambda r: r.promote("other"), RegistryError, "There must be a model 'other'"),
        (
            lambda r: r.promote("taxi-fare", "stable", "stable"),
            RegistryError,
            "must not have version 3 at 1000",
        ),
        (lambda r: r.promote("taxi-fare", "stable", "A"), ConfigError, "Channel name must be"),
        (
            lambda r: r.promote("taxi-fare", rollout_permille=1001),
            ConfigError,
            "0 to 1000 permille; got 1001",
        ),
        (lambda r: r.promote("taxi-fare", note="x" * 501), ConfigError, "text of at most 500 characters"),
        (
            lambda r: r.set_rollout("taxi-fare", "stable", 1000),
            RegistryError,
            "3 at 1000 permille yet; it has",
        ),
        (
            lambda r: r.set_rollout("taxi-fare", "stable", 5, version=2),
            RegistryError,
            "must offer version 2; it",
        ),
        (lambda r: r.set_rollout("taxi-fare", "stable", True), ConfigError, "0 to 1000 permille; got True"),
        (
            lambda r: r.withdraw("taxi-fare", 4, reason="x"),
            RegistryError,
            "must hold version 4 of 'taxi-fare' to",
        ),
        (lambda r: r.withdraw("taxi-fare", 3, reason=" "), ConfigError, "Reason must be said"),
        (
            lambda r: r.withdraw("taxi-fare", 0, reason="x"),
            ConfigError,
            "Version must be an integer of at least",
        ),
        (lambda r: r.rollback("taxi-fare", reason=""), ConfigError, "Reason must be said"),
        (
            lambda r: r.rollback("taxi-fare", "beta", reason="x"),
            RegistryError,
            "There must be a channel 'beta'",
        ),
        (lambda r: r.history("taxi-fare", "beta"), RegistryError, "There must be a channel 'beta'"),
        (lambda r: r.resolve("taxi-fare", "beta"), RegistryError, "There must be a channel 'beta'"),
        (
            lambda r: r.rotate_key("model-x"),
            ConfigError,
            "Role must be one of root, targets, snapshot, timestamp",
        ),
        (
            lambda r: r.rotate_key("root-1"),
            ConfigError,
            "Role must be one of root, targets, snapshot, timestamp",
        ),
        (
            lambda r: r.collect_garbage(keep_versions=0),
            ConfigError,
            "keep_versions must be an integer of at le",
        ),
    ],
)
def test_an_operation_that_is_refused_changes_nothing(
    registry: Registry, call: Callable[[Registry], Any], error: type[Exception], message: str, tree: Tree
) -> None:
    before = tree(registry.repository, registry.keys)
    with pytest.raises(error, match=re.escape(message)):
        call(registry)
    assert tree(registry.repository, registry.keys) == before


def test_a_promotion_to_a_smaller_share_leaves_nobody_without_a_file(registry: Registry) -> None:
    registry.publish("taxi-fare", b"four", channel="beta", metadata={})
    registry.promote("taxi-fare")
    assert _offers(registry) == [(4, 1000)]
    registry.promote("taxi-fare", rollout_permille=100)
    assert _offers(registry) == [(4, 100), (3, 1000)]


def test_each_channel_has_a_delta_to_a_new_version_from_what_it_gives_everyone(registry: Registry) -> None:
    files = [bytes(range(256)) * 64 + f"version {number}".encode() for number in range(4)]
    registry.publish("net", files[0], metadata={})
    for content in files[1:]:
        registry.publish("net", content, channel="beta", metadata={})
    deltas = registry.repository.glob("targets/net/*/*.bsdiff")
    found = sorted((int(path.parent.name), path.name.split(".", 1)[1]) for path in deltas)
    assert found == [
        (2, "model.from-1.bsdiff"),
        (3, "model.from-1.bsdiff"),
        (3, "model.from-2.bsdiff"),
        (4, "model.from-1.bsdiff"),
        (4, "model.from-3.bsdiff"),
    ]


def test_a_promotion_only_goes_up(registry: Registry, contents: dict[int, bytes]) -> None:
    registry.publish("taxi-fare", contents[2], version=2, channel="beta", metadata={})
    message = (
        "Registry refused version 2 of 'taxi-fare' for channel 'stable', which offers 3: a promotion only"
    )
    with pytest.raises(RegistryError, match=re.escape(message)):
        registry.promote("taxi-fare")
    registry.withdraw("taxi-fare", 2, reason="x")
    with pytest.raises(
        RegistryError, match=re.escape("Channel 'beta' of 'taxi-fare' must offer a version to p")
    ):
        registry.promote("taxi-fare")


def test_a_version_is_withdrawn_once(registry: Registry) -> None:
    registry.withdraw("taxi-fare", 1, reason="first")
    with pytest.raises(
        RegistryError, match=re.escape("Version 1 of 'taxi-fare' is withdrawn already: first.")
    ):
        registry.withdraw("taxi-fare", 1, reason="second")


def test_a_history_that_was_changed_or_lost_is_refused(registry: Registry) -> None:
    files = {p: p.read_bytes() for p in registry.repository.glob("targets/taxi-fare/channels/*.stable.json")}
    (second,) = [path for path, content in files.items() if b'"sequence":2' in content]
    second.write_bytes(files[second].replace(b'"version":2', b'"version":1'))
    with pytest.raises(
        RegistryError, match=re.escape("must have the sha256 that the next record names; it has")
    ):
        registry.history("taxi-fare")
    with pytest.raises(RegistryError, match=re.escape("must have the sha256 that the next record names")):
        registry.verify()
    second.unlink()
    for read in (
        registry.history,
        lambda model: registry.rollback(model, reason="x"),
        lambda model: registry.verify(),
    ):
        with pytest.raises(
            RegistryError, match=re.escape("Record 2 of channel 'stable' of 'taxi-fare' must be")
        ):
            read("taxi-fare")


def test_an_old_registry_gets_todays_paths_when_it_is_next_published_to(
    registry: Registry, forger: Any, phone: Client
) -> None:
    def as_it_was(targets: Any) -> None:
        targets.delegations.roles["model-taxi-fare"].paths = [
            "taxi-fare/*/model.*",
            "taxi-fare/channels/*.json",
        ]
        targets.version += 1

    forger.edit("targets", as_it_was)
    registry.publish("taxi-fare", b"four", attachments={"evaluation.html": b"<p>"}, metadata={})
    registry.publish("taxi-fare", b"small", version=4, variant="small", metadata={})
    registry.verify()
    assert phone.fetch("taxi-fare").version == 4


CHANGES = st.lists(
    st.tuples(st.sampled_from(["publish", "withdraw", "rollback", "share"]), st.integers(0, 1000)),
    max_size=14,
)


@given(CHANGES)
def test_nothing_withdrawn_and_nothing_out_of_reach_is_ever_offered(
    changes: list[tuple[str, int]],
) -> None:
    """The rules alone, against a plain account of what is there."""
    earlier: list[ChannelRecord] = []
    held: set[tuple[int, str]] = set()
    withdrawn: set[tuple[int, str]] = set()
    for action, number in changes:
        rollouts = earlier[0].rollouts if earlier else ()
        offerable = held - withdrawn
        newest = max((version for version, _ in held), default=0)
        if action == "publish":
            held.add((newest + 1, "default"))
            rollouts = releases.with_file(rollouts, (newest + 1, "default"), number, Targeting())
        elif not rollouts:
            continue
        elif action == "withdraw":
            withdrawn.add((rollouts[number % len(rollouts)].version, "default"))
            lowest = min(one.version for one in rollouts)
            rollouts = releases.filled(rollouts, lowest, earlier, held - withdrawn)
        elif action == "rollback":
            found = releases.before(rollouts[0].version, earlier, offerable)
            if not found:
                continue
            assert found[0].version < rollouts[0].version
            rollouts = releases.filled(found, min(one.version for one in found), earlier, offerable)
        else:
            one = rollouts[0]
            rollouts = releases.with_file(rollouts, (one.version, one.variant), number, one.targeting)
            rollouts = releases.filled(rollouts, min(x.version for x in rollouts), earlier, offerable)
        previous = earlier[0] if earlier else None
        record = releases.next_record("m", "stable", previous, "", rollouts, action=action)
        assert not {(one.version, one.variant) for one in record.rollouts} & withdrawn
        assert not any(map(releases.is_for_everyone, record.rollouts[:-1]))
        earlier.insert(0, record)


ARM = Targeting(abis=("arm64-v8a",))


def _record(*rollouts: Rollout) -> ChannelRecord:
    return ChannelRecord("m", "stable", 1, rollouts, 0, "publish")


def test_a_channel_goes_back_step_by_step_until_everyone_gets_a_file() -> None:
    share, five, four, asks = (
        Rollout(6, "default", 100),
        Rollout(5, "default", 500),
        Rollout(4),
        Rollout(3, targeting=ARM),
    )
    few = dataclasses.replace(four, rollout_permille=200)
    earlier = [_record(five, few), _record(four), _record(asks), _record(Rollout(2)), _record(Rollout(1))]
    there = {(version, "default") for version in range(1, 7)}
    found = releases.filled([Rollout(7), share], 6, earlier, there)
    assert found == (share, five, few, asks, Rollout(2))


def test_a_variant_that_asks_something_comes_first_and_a_later_one_before_an_earlier() -> None:
    rollouts: tuple[Rollout, ...] = (Rollout(1),)
    for variant, asked in (("default", Targeting()), ("arm", ARM), ("small", Targeting()), ("tiny", ARM)):
        rollouts = releases.with_file(rollouts, (2, variant), 1000, asked)
    order = [(2, "tiny"), (2, "arm"), (2, "small"), (2, "default"), (1, "default")]
    assert [(one.version, one.variant) for one in rollouts] == order
    assert len({one.salt for one in rollouts}) == 5  # so that not the same phones are always the first
    changed = releases.with_file(rollouts, (2, "arm"), 500, ARM)  # which stays where it stands
    assert [(one.version, one.variant) for one in changed] == order


def test_a_file_whose_devices_all_get_a_newer_one_is_left_out() -> None:
    wide, narrow = Rollout(3, targeting=Targeting(abis=(*ARM.abis, "x86"))), Rollout(2, targeting=ARM)
    assert releases.reachable([narrow, wide]) == (wide,)
    there = {(version, "default") for version in (1, 2, 3)}
    found = releases.filled([wide], 3, [_record(narrow, Rollout(1))], there)
    assert found == (wide, Rollout(1))


def test_a_promotion_takes_the_newest_version_alone() -> None:
    source = dataclasses.replace(_record(Rollout(5, targeting=ARM), Rollout(4)), channel="beta")
    found = releases.promoted("m", source, _record(Rollout(3)), 1000)
    assert [(one.version, one.targeting) for one in found] == [(5, ARM), (3, Targeting())]
    assert [one.version for one in releases.promoted("m", source, None, 1000)] == [5]


def test_the_share_of_a_version_is_changed_for_each_of_its_variants() -> None:
    record = _record(Rollout(2, "arm", 10, "a", ARM), Rollout(2, "default", 10, "b"), Rollout(1, "small"))
    changed = releases.with_share(record, 2, 20)
    assert changed == (
        Rollout(2, "arm", 20, "a", ARM),
        Rollout(2, "default", 20, "b"),
        Rollout(1, "small"),
    )


def test_a_channel_that_offers_nothing_says_so_when_a_share_is_to_change() -> None:
    message = "Channel 'stable' of 'm' must offer version 2; it offers none."
    with pytest.raises(RegistryError, match=re.escape(message)):
        releases.with_share(_record(), 2, 5)


def test_the_history_is_not_read_where_no_newer_version_holds_the_bytes() -> None:
    earlier = iter([5, 4])
    releases.check_not_rolled_back("m", "stable", 5, {5, 4}, earlier)
    assert list(earlier) == [5, 4]


def test_bytes_that_a_channel_was_rolled_back_from_come_again_only_by_their_number(
    registry: Registry,
) -> None:
    registry.publish("taxi-fare", b"four", metadata={})
    registry.rollback("taxi-fare", reason="too high in the rain")
    refusal = (
        "channel 'stable' of 'taxi-fare': they are version 4, from which it was rolled back. Publish another"
    )
    with pytest.raises(RegistryError, match=re.escape(refusal)):
        registry.publish("taxi-fare", b"four", metadata={})
    assert registry.channels("taxi-fare") == {"stable": 3}
    again = registry.publish("taxi-fare", b"four", version=4, metadata={})
    assert (again.version, again.channel_version, again.created) == (4, 4, False)


def test_bytes_of_another_channel_s_newer_version_are_offered_as_that_version(registry: Registry) -> None:
    registry.publish("taxi-fare", b"four", channel="beta", metadata={})
    published = registry.publish("taxi-fare", b"four", metadata={})
    assert (published.version, published.created) == (4, False)
    assert registry.channels("taxi-fare") == {"beta": 4, "stable": 4}


def test_releases_that_ask_the_same_do_not_pile_up(registry: Registry) -> None:
    asks = Targeting(min_runtime_version="2.14")
    for number in range(3):
        registry.publish("other", b"%d" % number, metadata={}, targeting=asks)
    registry.publish("other", b"staged", metadata={}, targeting=asks, rollout_permille=100)
    registry.publish("other", b"arm", metadata={}, targeting=Targeting(abis=("arm64-v8a",)))
    (record,) = registry.channel_records("other").values()
    assert [one.version for one in record.rollouts] == [5, 4, 3]
