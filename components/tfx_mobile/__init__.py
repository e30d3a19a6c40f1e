"""TFX components that turn a pipeline's model into a small, fast, signed TFLite file.

Public names are loaded on first use (PEP 562), so `import tfx_mobile` costs milliseconds and imports
neither TFX nor TensorFlow.
"""

import importlib
from typing import Any

if __name__ != "tfx_mobile":
    raise ImportError(
        f"The package's import name is 'tfx_mobile'; got {__name__!r}. 'components' is a source root, "
        "not a package: install the project (pip install -e .) or put components/ on PYTHONPATH."
    )

__version__ = "0.1.0"

_NAMES = {
    "common.artifacts": ("ModelCandidates", "ModelLadder", "Reduction"),
    "common.embedding": ("embedding_size",),
    "common.errors": ("ConfigError", "DataError", "RegistryError", "TfxMobileError"),
    "blessing_with_model_id.component": ("BlessingWithModelId",),
    "dimensionality_reducer.component": ("DimensionalityReducer",),
    "dimensionality_reducer.config": (
        "LDA",
        "NMF",
        "PCA",
        "PLS",
        "ComponentRule",
        "CorrelationFilter",
        "FastICA",
        "GaussianRandomProjection",
        "KernelPCA",
        "LatentDirichletAllocation",
        "NotFinite",
        "OneHot",
        "Score",
        "SelectKBest",
        "SparsePCA",
        "SparseRandomProjection",
        "TruncatedSVD",
        "VarianceThreshold",
    ),
    "orchestration.local": ("PipelineFailed", "local_pipeline", "run"),
    "pruning_trainer.component": ("PruningTrainer",),
    "pruning_trainer.config": (
        "Allocation",
        "BlockPooling",
        "Blocks",
        "CentroidInitialization",
        "Clustering",
        "ConstantSparsity",
        "Criterion",
        "Layers",
        "MByN",
        "PolynomialDecay",
        "Pruning",
        "QuantizationAware",
        "Resources",
        "Rewinding",
        "Units",
        "Weights",
    ),
    "pruning_trainer.context": ("BuildContext",),
    "pruning_trainer.keras_export": ("load_model",),
    "quantizer.component": ("Quantizer",),
    "quantizer.config": ("Mode", "ModeSet", "Quantization", "Runtime"),
    "registry.client": ("Client",),
    "registry.store": ("Registry",),
    "registry.targeting": ("Device", "Targeting"),
    "registry_model.component": ("RegistryModel",),
    "registry_pusher.component": ("RegistryPusher",),
    "size_latency_evaluator.component": ("SizeLatencyEvaluator",),
    "size_latency_evaluator.config": (
        "FASTEST",
        "SMALLEST",
        "AccuracyGate",
        "AdbTarget",
        "KerasMetric",
        "LatencyConfig",
        "LatencyGate",
        "LocalTarget",
        "Metric",
        "Objective",
        "Override",
        "RelativeTo",
        "SizeGate",
        "Slice",
        "SshTarget",
    ),
}
_HOMES = {name: f"{__name__}.{module}" for module, names in _NAMES.items() for name in names}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    """Imports the module a public name lives in, the first time it is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'tfx_mobile' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
