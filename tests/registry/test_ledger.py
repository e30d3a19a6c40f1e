"""What a mirror knows: laws that hold whatever publishers do, and channels worked by hand."""

import contextlib
import hashlib
import itertools
import re
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

from tfx_mobile.common.errors import ConfigError, RegistryError
from tfx_mobile.registry.adapter import NothingReleased
from tfx_mobile.registry.ledger import Ledger
from tfx_mobile.registry.targeting import Device, Targeting

ARM = Targeting(abis=("arm64-v8a",))
CHANNELS = st.sampled_from(["stable", "beta"])
SHARES = st.sampled_from([0, 1, 500, 1000])


def published(ledger: Ledger, content: bytes, **more: Any) -> Ledger:
    wishes: dict[str, Any] = {
        "version": None,
        "variant": "default",
        "channel": "stable",
        "metadata": {},
        "rollout_permille": 1000,
        "targeting": Targeting(),
        "attachments": None,
    }
    return ledger.publish(content, **{**wishes, **more})[0]


def offers(ledger: Ledger, channel: str = "stable") -> list[tuple[int, str, int]]:
    rollouts = ledger.past(channel)[-1].rollouts
    return [(one.version, one.variant, one.rollout_permille) for one in rollouts]


publish = st.builds(
    lambda content, **more: lambda ledger: published(ledger, content, **more),
    st.binary(min_size=1, max_size=1),
    version=st.none() | st.integers(1, 4),
    variant=st.sampled_from(["default", "arm"]),
    channel=CHANNELS,
    rollout_permille=SHARES,
    targeting=st.sampled_from([Targeting(), ARM]),
)
others = st.one_of(
    st.builds(lambda channel: lambda ledger: ledger.roll_back(channel, reason="r"), CHANNELS),
    st.builds(lambda version: lambda ledger: ledger.withdraw(version, reason="r"), st.integers(1, 4)),
    st.builds(
        lambda channel, share: lambda ledger: ledger.set_rollout(channel, share, version=None, note=""),
        CHANNELS,
        SHARES,
    ),
    st.builds(
        lambda share: lambda ledger: ledger.promote("beta", "stable", rollout_permille=share, note=""), SHARES
    ),
)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(st.lists(publish | others, min_size=3, max_size=15))
def test_whatever_is_done_files_stay_and_what_is_withdrawn_is_not_offered(changes: list[Any]) -> None:
    ledger = Ledger("m")
    for change in changes:
        before = ledger
        with contextlib.suppress(RegistryError):
            ledger = change(ledger)
        kept = {file.key: file.sha256 for file in ledger.files}
        assert {file.key: file.sha256 for file in before.files}.items() <= kept.items()
        for file in before.files:
            assert not file.withdrawn or ledger.file(*file.key).withdrawn == file.withdrawn
        for channel, past in ledger.channels.items():
            assert past[: len(before.channels.get(channel, ()))] == before.channels.get(channel, ())
            for older, newer in itertools.pairwise(past):
                assert newer.previous_sha256 == hashlib.sha256(older.to_json().encode()).hexdigest()
            for device in (None, Device(), Device(id="a", abi="arm64-v8a")):
                with contextlib.suppress(RegistryError):
                    assert not ledger.choose(channel, device).withdrawn
        assert Ledger.from_json(ledger.to_json()) == ledger


def test_a_channel_by_hand() -> None:
    ledger = published(Ledger("m"), b"1")
    assert published(ledger, b"1") is ledger
    ledger = published(ledger, b"2", rollout_permille=100)
    assert offers(ledger) == [(2, "default", 100), (1, "default", 1000)]
    ledger = published(ledger, b"2 arm", version=2, variant="arm", targeting=ARM)
    assert offers(ledger) == [(2, "arm", 1000), (2, "default", 100), (1, "default", 1000)]
    assert offers(ledger.set_rollout("stable", 1000, version=None, note="")) == [
        (2, "arm", 1000),
        (2, "default", 1000),
    ]
    assert offers(ledger.roll_back("stable", reason="r")) == [(1, "default", 1000)]
    assert offers(ledger.withdraw(1, reason="r")) == [(2, "arm", 1000), (2, "default", 100)]
    assert offers(ledger.withdraw(2, reason="r")) == [(1, "default", 1000)]
    ledger = ledger.withdraw(2, reason="r")
    gone, taken = "version 2 was withdrawn: r.", "2 already holds sha256:"
    for content, version, message in ((b"2", None, gone), (b"2", 2, gone), (b"other", 2, taken)):
        with pytest.raises(RegistryError, match=re.escape(message)):
            published(ledger, content, version=version)
    assert published(ledger, b"3").files[-1].version == 3
    with pytest.raises(NothingReleased, match=re.escape("must have channel 'beta'; it has stable")):
        ledger.past("beta")
    with pytest.raises(ConfigError, match=re.escape("must have at most")):
        published(ledger, b"4", attachments={"a.html": bytes((64 << 20) + 1)})


def test_going_back_passes_over_what_was_withdrawn() -> None:
    ledger = Ledger("m")
    for content in (b"1", b"2", b"3"):
        ledger = published(ledger, content)
    ledger = ledger.withdraw(2, reason="r")
    assert offers(ledger) == [(3, "default", 1000)]
    assert offers(ledger.roll_back("stable", reason="r")) == [(1, "default", 1000)]
    narrowed = ledger.set_rollout("stable", 10, version=None, note="")
    assert offers(narrowed) == [(3, "default", 10), (1, "default", 1000)]


def test_a_share_that_is_taken_back_leaves_nobody_without_a_file() -> None:
    ledger = published(published(Ledger("m"), b"1"), b"2")
    assert offers(ledger) == [(2, "default", 1000)]
    ledger = ledger.set_rollout("stable", 10, version=None, note="")
    assert offers(ledger) == [(2, "default", 10), (1, "default", 1000)]


def test_a_promotion_to_a_smaller_share_leaves_nobody_without_a_file() -> None:
    ledger = published(published(Ledger("m"), b"1"), b"2", channel="beta")
    ledger = ledger.promote("beta", "stable", rollout_permille=1000, note="")
    assert offers(ledger) == [(2, "default", 1000)]
    ledger = ledger.promote("beta", "stable", rollout_permille=10, note="")
    assert offers(ledger) == [(2, "default", 10), (1, "default", 1000)]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"size_bytes":1', '"size_bytes":0', "size_bytes must be at least 1; got 0"),
        ('"sha256":"6', '"sha256":"G', "sha256 must be 64 hex digits"),
        ('"attachments":{}', '"attachments":{"../x":"a"}', "Attachment must be"),
        (
            '"variant":"default","version":1,"withdrawn"',
            '"variant":"../x","version":1,"withdrawn"',
            "Variant name",
        ),
        ('"withdrawn":""', '"withdrawn":"r"', "must offer files that are there; got version 1 (default)"),
        ('"sequence":1', '"sequence":2', "records of channel 'stable' in order"),
        ('{"stable":', '{"beta":', "records of channel 'beta' in order"),
    ],
)
def test_a_ledger_that_breaks_a_rule_is_not_read(old: str, new: str, message: str) -> None:
    text = published(Ledger("m"), b"1").to_json()
    assert old in text
    with pytest.raises(ConfigError, match=re.escape(message)):
        Ledger.from_json(text.replace(old, new, 1))


def test_bytes_that_a_mirror_was_rolled_back_from_come_again_only_by_their_number() -> None:
    ledger = published(published(Ledger("m"), b"1"), b"2").roll_back("stable", reason="r")
    with pytest.raises(RegistryError, match=re.escape("they are version 2, from which it was rolled back.")):
        published(ledger, b"2")
    assert offers(published(ledger, b"2", version=2)) == [(2, "default", 1000)]
