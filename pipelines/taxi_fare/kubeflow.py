"""The taxi-fare pipeline with the settings of a cluster.

`tfx-mobile compile taxi_fare.kubeflow:create_pipeline --image IMAGE`. The same components as everywhere;
where things are is what differs. The claim `registry` is the folder that phones are served from, the claim
`registry-keys` its private keys (no secret, since publishing writes there: a key for each new model, the last
timestamp), and the secret `registry-root` has their root.json only, so that the component that reads the
registry sees no private key.
"""

from collections.abc import Sequence

from tfx import v1 as tfx

from taxi_fare import data, pipeline, rows
from tfx_mobile.orchestration.kubeflow.resources import (
    Resources,
    Secret,
    Volume,
    with_mounts,
    with_resources,
)
from tfx_mobile.orchestration.local import with_local_beam_defaults
from tfx_mobile.size_latency_evaluator.config import Gate

DATA_FOLDER = "/data/chicago"  # in the image: the rows that ship in the tfx package, see kubeflow/Dockerfile
REGISTRY = "/registry"
REGISTRY_KEYS = "/registry.keys"  # where the registry looks for them by itself

_READS = (Volume("registry", REGISTRY), Secret("registry-root", REGISTRY_KEYS))
_WRITES = (Volume("registry", REGISTRY), Volume("registry-keys", REGISTRY_KEYS))
_SMALL, _LARGE = Resources(cpu=1, memory="4Gi"), Resources(cpu=2, memory="8Gi")
_NEED_MORE = ("Transform", "PruningTrainer", "Quantizer", "SizeLatencyEvaluator")


def create_pipeline(
    *,
    gates: Sequence[Gate] = pipeline.DEFAULT_GATES,
    epochs: int = 40,
    beam_pipeline_args: Sequence[str] = (),
) -> tfx.dsl.Pipeline:
    """Returns the pipeline; a run may set the parameter `data_folder`, which has TFRecords of Chicago trips.

    Args:
      gates: As for `pipeline.create_pipeline`.
      epochs: Likewise.
      beam_pipeline_args: Likewise; without any, Beam runs in each component's own process.
    """
    folder = tfx.dsl.experimental.RuntimeParameter("data_folder", ptype=str, default=DATA_FOLDER)
    source = data.Data(
        folder=folder,  # becomes ExampleGen's input_base, which takes one
        splits=((data.TRAIN_SPLIT, "Split-train/*"), (data.EVAL_SPLIT, "Split-eval/*")),
        source=rows.CHICAGO_SOURCE,
        name="Chicago taxi trips (in the tfx package)",
    )
    made = pipeline.create_pipeline(
        source,
        registry=REGISTRY,
        pipeline_root="",  # the cluster's, or the run's
        gates=gates,
        epochs=epochs,
        beam_pipeline_args=with_local_beam_defaults(beam_pipeline_args),
    )
    for component in made.components:
        with_resources(component, _LARGE if component.id in _NEED_MORE else _SMALL)
        if component.id == "RegistryModel":
            with_mounts(component, *_READS)
        elif component.id == "RegistryPusher":
            with_mounts(component, *_WRITES)
    return made
