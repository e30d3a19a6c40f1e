"""What can be asked for, and what no cluster could give."""

import re
from types import SimpleNamespace

import pytest

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.orchestration.kubeflow.resources import (
    Resources,
    Secret,
    Volume,
    mounts_of,
    resources_of,
    with_mounts,
    with_resources,
)


@pytest.mark.parametrize(
    ("memory", "num_bytes"),
    [
        ("8Gi", 8_589_934_592),
        ("500M", 500_000_000),
        ("1.5Gi", 1_610_612_736),
        ("1048576", 1_048_576),
        ("0.0015G", 1_500_000),
        ("1048.5771k", 1_048_578),  # a part of a byte is a byte
    ],
)
def test_memory_is_read_as_kubernetes_reads_it(memory, num_bytes):
    assert Resources(memory=memory).memory_bytes == num_bytes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "Resources must ask for cpu, memory or an accelerator; got none."),
        ({"cpu": 0}, "cpu must be a number of cores of at least 0.001; got 0."),
        ({"cpu": float("nan")}, "cpu must be a number of cores of at least 0.001; got nan."),
        ({"cpu": float("inf")}, "cpu must be a number of cores of at least 0.001; got inf."),
        ({"cpu": True}, "cpu must be a number of cores of at least 0.001; got True."),
        ({"cpu": "2"}, "cpu must be a number of cores of at least 0.001; got '2'."),
        ({"memory": "8"}, "memory must be at least 1Mi; got '8', which is 8 bytes."),
        ({"memory": "500m"}, "one of the units Ki, Mi, Gi, Ti, k, M, G, T; got '500m'."),
        ({"memory": "8GB"}, "one of the units Ki, Mi, Gi, Ti, k, M, G, T; got '8GB'."),
        ({"memory": "-8Gi"}, "one of the units Ki, Mi, Gi, Ti, k, M, G, T; got '-8Gi'."),
        ({"memory": ""}, "one of the units Ki, Mi, Gi, Ti, k, M, G, T; got ''."),
        ({"memory": 8}, "one of the units Ki, Mi, Gi, Ti, k, M, G, T; got 8."),
        ({"accelerator": "nvidia.com/gpu"}, "the count from 1 on; got 'nvidia.com/gpu' and 0."),
        ({"accelerator_count": 1}, "the count from 1 on; got '' and 1."),
        ({"accelerator": "x", "accelerator_count": -1}, "the count from 1 on; got 'x' and -1."),
        ({"accelerator": "x", "accelerator_count": 0.5}, "the count from 1 on; got 'x' and 0.5."),
        ({"accelerator": "x", "accelerator_count": True}, "the count from 1 on; got 'x' and True."),
    ],
)
def test_resources_that_no_cluster_could_give_are_refused(settings, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        Resources(**settings)


@pytest.mark.parametrize("name", ["", "A", "a_b", "-a", "a-", "a.b", "a" * 64])
@pytest.mark.parametrize(("make", "what"), [(Volume, "A volume's claim"), (Secret, "A secret's name")])
def test_a_name_that_cannot_be_a_volume_s_is_refused(make, what, name):
    with pytest.raises(ConfigError, match=re.escape(f"{what} must be 1 to 63 of a-z, 0-9 and '-', without")):
        make(name, "/folder")


@pytest.mark.parametrize("path", ["", "/", "folder", "/a/", "/a:b", "/a/../b", "/a//b", "/."])
def test_a_path_where_nothing_can_be_mounted_is_refused(path):
    with pytest.raises(ConfigError, match=re.escape(f"at the end; got {path!r} for 'name'.")):
        Volume("name", path)


def test_what_is_attached_is_found_again_and_mounts_add_up():
    component = SimpleNamespace(id="Trainer")
    assert resources_of(component) is None
    assert mounts_of(component) == ()
    assert with_resources(component, Resources(cpu=1)) is component
    with_resources(component, Resources(cpu=2))
    assert with_mounts(component, Volume("a", "/a")) is component
    with_mounts(component, Secret("b", "/b"))
    assert resources_of(component) == Resources(cpu=2)
    assert mounts_of(component) == (Volume("a", "/a"), Secret("b", "/b"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (Secret("a", "/b"), "a name of its own, as Kubernetes wants it; got 'a' twice for 'Trainer'."),
        (Secret("b", "/a"), "a path of its own, as Kubernetes wants it; got '/a' twice for 'Trainer'."),
    ],
)
def test_mounts_that_share_a_name_or_a_path_are_refused_and_change_nothing(more, message):
    component = with_mounts(SimpleNamespace(id="Trainer"), Volume("a", "/a"))
    with pytest.raises(ConfigError, match=re.escape(f"Each mount of a component must have {message}")):
        with_mounts(component, more)
    assert mounts_of(component) == (Volume("a", "/a"),)
