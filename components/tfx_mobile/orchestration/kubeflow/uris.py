"""Where Kubeflow's launcher stages what a URI names, and what a URI says about the run. Strings only.

The rules are those of Kubeflow Pipelines 2.5 to 2.17: `LocalPathForURI` in backend/src/v2/component and
`provisionOutputs` in backend/src/v2/driver. Does not stage anything itself.
"""

import re
from dataclasses import dataclass

_FOLDERS = {"gs": "gcs", "s3": "s3", "minio": "minio"}
_UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
# <pipeline root>/<pipeline>/<run>/<task>/<salt>/<output>; servers before 2.5 have no salt.
_OUTPUT = re.compile(rf"(?P<pipeline>[^/]+)/(?P<run>{_UUID})/(?P<task>[^/]+)(?:/{_UUID})?/[^/]+$")


@dataclass(frozen=True)
class Place:
    """Which task of which run an output belongs to; all empty where its URI does not say.

    Attributes:
      pipeline: The pipeline's name.
      run: The run's id, a UUID.
      task: The task's name, which is the component's id.
    """

    pipeline: str = ""
    run: str = ""
    task: str = ""


def to_local(uri: str, root: str = "/") -> str:
    """Returns the path under which the launcher stages what the URI names.

    Args:
      uri: With the scheme gs, s3 or minio; anything else is returned as it is.
      root: The folder that holds `gcs`, `s3` and `minio`.

    >>> to_local("minio://bucket/run/model"), to_local("/data/trips")
    ('/minio/bucket/run/model', '/data/trips')
    """
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme not in _FOLDERS:
        return uri
    return f"{root.rstrip('/')}/{_FOLDERS[scheme]}/{rest}"


def to_uri(path: str, root: str = "/") -> str:
    """Returns the URI whose staged copy the path is: the inverse of `to_local`; other paths as they are.

    >>> to_uri("/gcs/bucket/run/model"), to_uri("/data/trips")
    ('gs://bucket/run/model', '/data/trips')
    """
    for scheme, folder in _FOLDERS.items():
        prefix = f"{root.rstrip('/')}/{folder}/"
        if path.startswith(prefix):
            return f"{scheme}://{path.removeprefix(prefix)}"
    return path


def place(output_uri: str) -> Place:
    """Returns what the URI of an output says about its run.

    >>> place("s3://b/root/taxi/0f0e0d0c-0000-4000-8000-00000000000a/Transform/transform_graph").task
    'Transform'
    """
    found = _OUTPUT.search(output_uri)
    return Place(**found.groupdict()) if found else Place()
