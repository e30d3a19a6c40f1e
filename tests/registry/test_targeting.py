"""Which phone gets which release: laws, a second writing of the rules, and cases by hand."""

import collections
import dataclasses
import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version

from tfx_mobile.common.errors import ConfigError, RegistryError
from tfx_mobile.registry import releases
from tfx_mobile.registry.records import ChannelRecord, Rollout
from tfx_mobile.registry.targeting import Device, Targeting, bucket_permille, check_permille

DOTTED = st.lists(st.integers(0, 12), min_size=1, max_size=4).map(lambda parts: ".".join(map(str, parts)))
WORDS = st.sampled_from(["a", "b", "c"])
TARGETINGS = st.builds(
    Targeting,
    platforms=st.lists(WORDS, max_size=2).map(tuple),
    abis=st.lists(WORDS, max_size=2).map(tuple),
    min_app_version=st.just("") | DOTTED,
    min_ram_mib=st.integers(0, 3),
    min_runtime_version=st.just("") | DOTTED,
    required_ops=st.lists(WORDS, max_size=2).map(tuple),
)
DEVICES = st.builds(
    Device,
    id=st.text("abc", max_size=3),
    platform=st.just("") | WORDS,
    abi=st.just("") | WORDS,
    app_version=st.just("") | DOTTED,
    ram_mib=st.none() | st.integers(0, 3),
    runtime_version=st.just("") | DOTTED,
    ops=st.lists(WORDS, max_size=3).map(tuple),
)


@st.composite
def channels(draw: Any) -> ChannelRecord:
    versions = sorted(draw(st.sets(st.integers(1, 6), max_size=4)), reverse=True)
    rollouts = tuple(
        Rollout(
            version,
            rollout_permille=draw(st.sampled_from([0, 300, 700, 1000])),
            salt=draw(st.text("xy", max_size=2)),
            targeting=draw(TARGETINGS),
        )
        for version in versions
    )
    return ChannelRecord("m", "stable", 1, rollouts, 0, "publish")


def fits(rollout: Rollout, device: Device) -> bool:
    """The rules once more, as sets and by `packaging.version`."""
    asked = rollout.targeting
    digest = int(hashlib.sha256(f"{rollout.salt}:{device.id}".encode()).hexdigest()[:16], 16)
    return all(
        [
            {device.platform} <= set(asked.platforms) or not asked.platforms,
            {device.abi} <= set(asked.abis) or not asked.abis,
            not asked.min_app_version
            or (device.app_version != "" and Version(device.app_version) >= Version(asked.min_app_version)),
            not asked.min_runtime_version
            or (
                device.runtime_version != ""
                and Version(device.runtime_version) >= Version(asked.min_runtime_version)
            ),
            asked.min_ram_mib == 0 or (device.ram_mib or -1) >= asked.min_ram_mib,
            set(asked.required_ops) <= set(device.ops),
            rollout.rollout_permille == 1000
            or (device.id != "" and digest % 1000 < rollout.rollout_permille),
        ]
    )


@settings(max_examples=120, deadline=None)
@given(channels(), DEVICES)
def test_a_device_gets_the_newest_that_fits_by_a_second_writing_of_the_rules(
    record: ChannelRecord, device: Device
) -> None:
    fitting = [rollout for rollout in record.rollouts if fits(rollout, device)]
    if fitting:
        assert record.choose(device) == max(fitting, key=lambda rollout: rollout.version)
    else:
        with pytest.raises(RegistryError, match=re.escape("Channel 'stable' of 'm' must offer a file that")):
            record.choose(device)


@settings(max_examples=50, deadline=None)
@given(channels())
def test_without_a_device_it_is_the_newest_that_all_get_whatever_it_asks(record: ChannelRecord) -> None:
    to_all = [rollout.version for rollout in record.rollouts if rollout.rollout_permille == 1000]
    if to_all:
        assert record.choose(None).version == max(to_all)
    else:
        with pytest.raises(RegistryError, match=re.escape("must offer a file that fits this device")):
            record.choose(None)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=4), st.text(min_size=1, max_size=8), st.integers(0, 1000), st.integers(0, 1000))
def test_a_share_that_grows_only_adds_devices(salt: str, device: str, one: int, other: int) -> None:
    try:
        known = Device(id=device)
    except ConfigError:
        return  # a lone surrogate
    low, high = sorted((one, other))
    if not Rollout(1, rollout_permille=low, salt=salt).misfit(known):
        assert not Rollout(1, rollout_permille=high, salt=salt).misfit(known)


def test_devices_are_spread_evenly_and_otherwise_for_each_salt() -> None:
    buckets = [[bucket_permille(salt, f"device-{i}") for i in range(10_000)] for salt in ("one", "two")]
    for found in buckets:
        counts = collections.Counter(found)
        assert (
            scipy.stats.chisquare([counts[bucket] for bucket in range(1000)]).pvalue > 0.001
        )  # fixed: the ids are, and so is the outcome
    first = [int(bucket < 100) for bucket in buckets[0]]
    second = [int(bucket < 100) for bucket in buckets[1]]
    table = [
        [sum(a == i and b == j for a, b in zip(first, second, strict=True)) for j in (0, 1)] for i in (0, 1)
    ]
    assert scipy.stats.chi2_contingency(table).pvalue > 0.001


@settings(max_examples=60, deadline=None)
@given(DOTTED, DOTTED)
def test_versions_are_ordered_as_packaging_orders_them(least: str, got: str) -> None:
    fitting = not Targeting(min_app_version=least).misfit(Device(app_version=got))
    assert fitting == (Version(got) >= Version(least))
    fitting = not Targeting(max_app_version=least).misfit(Device(app_version=got))
    assert fitting == (Version(got) <= Version(least))
    fitting = not Targeting(min_runtime_version=least).misfit(Device(runtime_version=got))
    assert fitting == (Version(got) >= Version(least))


@pytest.mark.parametrize(
    ("targeting", "device", "why"),
    [
        ({}, {}, ""),
        ({"platforms": ("ios",)}, {"platform": "ios"}, ""),
        ({"platforms": ("ios",)}, {}, "platform must be ios; the device has not said"),
        ({"platforms": ("ios",)}, {"platform": "iOS"}, "platform must be ios; the device has iOS"),
        (
            {"abis": ("x86", "arm64-v8a")},
            {"abi": "riscv"},
            "ABI must be x86 or arm64-v8a; the device has riscv",
        ),
        ({"min_app_version": "2.10"}, {"app_version": "2.9.9"}, "app version must be 2.10 or later; the"),
        ({"min_app_version": "2.10"}, {"app_version": "2.10"}, ""),
        ({"min_app_version": "0"}, {}, "app version must be 0 or later; the device has not said"),
        ({"max_app_version": "2.1"}, {"app_version": "2.1.0.0"}, ""),
        ({"max_app_version": "2.1"}, {"app_version": "2.1.1"}, "app version must be 2.1 or earlier; the"),
        ({"max_app_version": "2.1"}, {}, "app version must be 2.1 or earlier; the device has not said"),
        ({"min_ram_mib": 1024}, {"ram_mib": 1024}, ""),
        ({"min_ram_mib": 1024}, {"ram_mib": 0}, "memory must be 1024 MiB or more; the device has 0 MiB"),
        ({"required_ops": tuple("fbdace")}, {"ops": ("c",)}, "operators a, b, d, e, f must be in the app;"),
        (
            {"min_ram_mib": 1024},
            {"ram_mib": 1023},
            "memory must be 1024 MiB or more; the device has 1023 MiB",
        ),
        ({"min_ram_mib": 1}, {}, "memory must be 1 MiB or more; the device has not said"),
        ({"min_runtime_version": "2.16"}, {}, "runtime version must be 2.16 or later; the device has not"),
        ({"required_ops": ("FlexErf", "A")}, {"ops": ("A",)}, "operators FlexErf must be in the app; the"),
    ],
)
def test_what_a_release_asks_and_a_device_does_not_say_is_no_fit(
    targeting: dict[str, Any], device: dict[str, Any], why: str
) -> None:
    found = Targeting(**targeting).misfit(Device(**device))
    assert found.startswith(why) if why else found == ""


@pytest.mark.parametrize(
    ("share", "device", "why"),
    [
        (1000, Device(), ""),
        (999, Device(), "it is rolled out to 999 permille of the devices; this one has no id"),
        (0, Device(id="x"), "it is rolled out to 0 permille of the devices; this one is number"),
        (999, None, "it is rolled out to 999 permille of the devices; this one has no id"),
    ],
)
def test_a_share_needs_a_device_with_an_id(share: int, device: Device | None, why: str) -> None:
    assert Rollout(1, rollout_permille=share, salt="s").misfit(device).startswith(why)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Device(app_version="1.2.3.4.5"), "device.app_version must be one to four numbers with dots"),
        (lambda: Device(app_version="1.02"), "device.app_version must be one to four numbers with dots"),
        (lambda: Device(app_version="1.2-beta"), "such as 2.10.1; got '1.2-beta'."),
        (
            lambda: Device(app_version="1234567890"),
            "device.app_version must be one to four numbers with dots",
        ),
        (lambda: Device(app_version="1.1234567890"), "device.app_version must be one to four numbers with"),
        (lambda: Device(app_version=2), "device.app_version must be one to four numbers with dots"),
        (lambda: Device(runtime_version="v2"), "device.runtime_version must be one to four numbers"),
        (lambda: Device(platform="an droid"), "device.platform must be 1 to 63 of letters, digits"),
        (lambda: Device(abi="../x"), "device.abi must be 1 to 63 of letters, digits"),
        (lambda: Device(ops=("<b>",)), "device.ops must be 1 to 63 of letters, digits"),
        (lambda: Device(ops="Flex"), "device.ops must be a tuple of names; got str 'Flex'."),
        (lambda: Device(ram_mib=-1), "device.ram_mib must be an integer from 0 on; got -1."),
        (lambda: Device(ram_mib=1.5), "device.ram_mib must be an integer from 0 on; got 1.5."),
        (lambda: Device(ram_mib=float("nan")), "device.ram_mib must be an integer from 0 on; got nan."),
        (lambda: Device(id="\ud800"), "device.id must be text that UTF-8 can hold; got '\\ud800'."),
        (lambda: Device(id=7), "device.id must be text; got int."),
        (lambda: Device(ram_mib=2**53), "device.ram_mib must be an integer from 0 on; got 9007199254740992."),
        (lambda: Device(platform="a" * 64), "device.platform must be 1 to 63 of letters, digits"),
        (lambda: Device(platform=".android"), "and start with a letter or digit; got '.android'."),
        (lambda: Targeting(abis=(86,)), "abis must be 1 to 63 of letters, digits"),
        (lambda: Targeting(abis=("a b",)), "abis must be 1 to 63 of letters, digits"),
        (lambda: Targeting(required_ops=("a b",)), "required_ops must be 1 to 63 of letters, digits"),
        (lambda: Targeting(min_app_version="v"), "min_app_version must be one to four numbers with dots"),
        (lambda: Targeting(max_app_version="v"), "max_app_version must be one to four numbers with dots"),
        (lambda: Targeting(min_runtime_version="v"), "min_runtime_version must be one to four numbers"),
        (lambda: Targeting(platforms=["ios"]), "platforms must be a tuple of names; got list ['ios']."),
        (lambda: Targeting(min_ram_mib=True), "min_ram_mib must be an integer from 0 on; got True."),
        (
            lambda: Targeting(min_app_version="2.10", max_app_version="2.9"),
            "min_app_version must not be after max_app_version; got 2.10 and 2.9: no app fits.",
        ),
        (lambda: Rollout(1, targeting=None), "targeting must be a Targeting; got NoneType. Leave it out"),
        (lambda: check_permille(1001), "Rollout share must be an integer from 0 to 1000 permille; got 1001."),
        (lambda: check_permille(-1), "Rollout share must be an integer from 0 to 1000 permille; got -1."),
        (lambda: check_permille(True), "Rollout share must be an integer from 0 to 1000 permille; got True."),
        (lambda: check_permille(0.5), "Rollout share must be an integer from 0 to 1000 permille; got 0.5."),
    ],
)
def test_a_value_that_breaks_its_rule_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        make()


def test_a_targeting_is_the_same_after_json() -> None:
    asked = Targeting(("ios",), ("arm64",), "1.2", "3", 2048, "2.16", ("FlexErf",))
    assert Targeting.from_json(asked.to_json()) == asked
    assert dataclasses.asdict(Targeting.from_json(Targeting().to_json())) == dataclasses.asdict(Targeting())


def test_a_value_at_the_edge_of_its_rule_is_taken() -> None:
    assert (check_permille(0), check_permille(1000)) == (0, 1000)
    assert Device(platform="a" * 63, ram_mib=2**53 - 1, app_version="1.2.3.4").platform == "a" * 63
    assert Targeting(min_app_version="2.1", max_app_version="2.1.0").misfit(Device(app_version="2.1")) == ""


def test_a_device_is_in_a_share_from_its_bucket_on() -> None:
    bucket = bucket_permille("s", "x")
    assert 0 < bucket < 999
    assert Rollout(1, rollout_permille=bucket + 1, salt="s").misfit(Device(id="x")) == ""
    assert Rollout(1, rollout_permille=bucket, salt="s").misfit(Device(id="x")).endswith(f"number {bucket}")


def test_the_buckets_of_the_guide_are_the_ones_computed() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "registry-client.md").read_text()
    rows = re.findall(r"^\| `(.*?)` \| `(.*?)` \| `([0-9a-f]{16})` \| (\d+) \|$", guide, re.MULTILINE)
    assert len(rows) >= 5
    for salt, device, head, bucket in rows:
        assert hashlib.sha256(f"{salt}:{device}".encode()).hexdigest()[:16] == head
        assert bucket_permille(salt, device) == int(bucket)


@st.composite
def _between(draw: Any) -> Targeting:
    asked = draw(TARGETINGS)
    most = draw(st.just("") | DOTTED)
    low = asked.min_app_version
    return dataclasses.replace(
        asked, max_app_version=most if not low or Version(most or "99") >= Version(low) else ""
    )


@settings(max_examples=150)
@given(_between(), _between(), st.lists(DEVICES, min_size=1, max_size=8))
def test_what_covers_another_fits_every_device_that_fits_the_other(
    wide: Targeting, narrow: Targeting, devices: list[Device]
) -> None:
    assert Targeting().covers(narrow)
    assert narrow.covers(narrow)
    if wide.covers(narrow):
        assert not [device for device in devices if not narrow.misfit(device) and wide.misfit(device)]


@pytest.mark.parametrize(
    "narrow",
    [
        Targeting(platforms=("a",)),
        Targeting(abis=("a",)),
        Targeting(min_app_version="2"),
        Targeting(max_app_version="2"),
        Targeting(min_ram_mib=1),
        Targeting(min_runtime_version="2"),
        Targeting(required_ops=("a",)),
    ],
)
def test_what_asks_something_covers_nothing_that_does_not_ask_it(narrow: Targeting) -> None:
    assert not narrow.covers(Targeting())


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        ({"platforms": ("a", "b")}, {"platforms": ("a",)}),
        ({"abis": ("a", "b")}, {"abis": ("a",)}),
        ({"min_app_version": "2.9"}, {"min_app_version": "2.10"}),
        ({"max_app_version": "2.10"}, {"max_app_version": "2.9"}),
        ({"min_ram_mib": 1}, {"min_ram_mib": 2}),
        ({"min_runtime_version": "2.9"}, {"min_runtime_version": "2.10"}),
        ({"required_ops": ("a",)}, {"required_ops": ("a", "b")}),
    ],
)
def test_what_asks_less_covers_what_asks_more_and_not_the_other_way(
    wide: dict[str, Any], narrow: dict[str, Any]
) -> None:
    assert Targeting(**wide).covers(Targeting(**narrow))
    assert not Targeting(**narrow).covers(Targeting(**wide))
    assert Targeting(**wide).covers(Targeting(**wide))


@given(channels(), DEVICES)
def test_leaving_out_what_nobody_gets_any_more_changes_nothing_for_a_device(
    record: ChannelRecord, device: Device
) -> None:
    left = dataclasses.replace(record, rollouts=releases.reachable(record.rollouts))
    assert _chosen(left, device) == _chosen(record, device)
    assert releases.reachable(left.rollouts) == left.rollouts


def _chosen(record: ChannelRecord, device: Device) -> Rollout | None:
    try:
        return record.choose(device)
    except RegistryError:
        return None


def test_what_most_devices_get_is_the_newest_of_the_largest_shares() -> None:
    shares = {5: 0, 4: 100, 3: 300, 2: 300, 1: 200}
    rollouts = tuple(Rollout(version, rollout_permille=share) for version, share in shares.items())
    record = ChannelRecord("m", "stable", 1, rollouts, 0, "publish")
    assert record.widest() == rollouts[2]
    assert dataclasses.replace(record, rollouts=rollouts[:1]).widest() is None
