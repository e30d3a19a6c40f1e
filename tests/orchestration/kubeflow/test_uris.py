"""URIs and the folders that stand for them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfx_mobile.orchestration.kubeflow import uris

RUN = "0f0e0d0c-0b0a-4908-8706-050403020100"
SALT = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("gs://bucket/run/model", "/gcs/bucket/run/model"),
        ("s3://bucket/run/model", "/s3/bucket/run/model"),
        ("minio://bucket/run/model", "/minio/bucket/run/model"),
    ],
)
def test_each_object_store_has_the_folder_that_the_launcher_gives_it(uri, path):
    assert uris.to_local(uri) == path
    assert uris.to_uri(path) == uri
    assert uris.to_local(uri, "/tmp/pod") == f"/tmp/pod{path}"
    assert uris.to_local(uri, "/tmp/pod/") == f"/tmp/pod{path}"


@pytest.mark.parametrize(
    "uri", ["/data/trips", "relative/trips", "hdfs://host/trips", "gs:/bucket", "minio", "", "xgs://bucket/a"]
)
def test_what_the_launcher_does_not_stage_keeps_its_name(uri):
    assert uris.to_local(uri) == uri
    assert uris.to_uri(uri) == uri


def test_a_folder_whose_name_only_begins_like_a_staged_one_is_not_staged():
    assert uris.to_uri("/minio-backup/bucket/model") == "/minio-backup/bucket/model"
    assert uris.to_uri("/home/minio/bucket/model") == "/home/minio/bucket/model"
    assert uris.to_uri("/minio/bucket/model", "/tmp/pod") == "/minio/bucket/model"


@given(
    st.sampled_from(["gs", "s3", "minio"]),
    st.text(st.characters(exclude_characters="\0")),
    st.sampled_from(["/", "/tmp/pod", "/gcs"]),
)
def test_a_uri_comes_back_from_its_folder_as_it_was(scheme, rest, root):
    uri = f"{scheme}://{rest}"
    assert uris.to_uri(uris.to_local(uri, root), root) == uri


@pytest.mark.parametrize(
    "uri",
    [
        f"minio://mlpipeline/v2/artifacts/taxi-fare/{RUN}/Transform/{SALT}/transform_graph",
        f"s3://bucket/taxi-fare/{RUN}/Transform/transform_graph",
        f"gs://bucket/{SALT}/taxi-fare/{RUN}/Transform/{SALT}/transform_graph",
    ],
)
def test_the_uri_of_an_output_tells_pipeline_run_and_task(uri):
    assert uris.place(uri) == uris.Place("taxi-fare", RUN, "Transform")


@pytest.mark.parametrize("uri", ["", "gs://bucket/model", f"gs://bucket/{RUN}", "/minio/b/p/not-a-uuid/t/k"])
def test_a_uri_that_does_not_tell_it_tells_nothing(uri):
    assert uris.place(uri) == uris.Place()
