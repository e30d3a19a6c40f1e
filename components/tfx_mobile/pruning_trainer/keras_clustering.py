"""Weight clustering: kernels that hold few distinct values, by tfmot, for Keras 2.

`cluster` wraps, the trainer fits, `strip` unwraps, `check_clusters` counts. Source: Han, Mao and Dally
(2016), Deep Compression, section 3, with the gradients of tfmot.

What tfmot does not say: it clusters the layers it is given in place (so a copy goes in), its k-means++ fails
on fewer values than clusters, its wrapper loses masks of padding and turns off a layer's own dropout
(`LSTM(dropout=...)`) while fine-tuning, and its `strip_clustering` loses the names of weights.
"""

import dataclasses
import glob
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow_model_optimization as tfmot
import tf_keras
from absl import logging
from tensorflow_model_optimization.python.core.clustering.keras.experimental import cluster as experimental

from tfx_mobile.common.errors import ConfigError, DataError
from tfx_mobile.pruning_trainer import keras_line, selection
from tfx_mobile.pruning_trainer.config import CentroidInitialization, Clustering, Layers
from tfx_mobile.pruning_trainer.selection import PrunableWeight


@dataclasses.dataclass(frozen=True)
class Clusters:
    """What one kernel holds.

    Attributes:
      weight: For example 'hidden_1/kernel'.
      num_values: Distinct values in it.
      num_weights: Its size.
      num_zeros: How many weights are exactly 0.
      num_lost_zeros: How many were 0 before the clustering and are not now.
    """

    weight: str
    num_values: int
    num_weights: int
    num_zeros: int
    num_lost_zeros: int


def cluster(model: tf_keras.Model, config: Clustering, *, seed: int) -> tf_keras.Model:
    """Returns a copy of the model whose chosen kernels are clustered while it trains.

    Zeros that are preserved are so in all layers, clustered or not. Layers that tfmot cannot cluster
    (depthwise kernels, TimeDistributed, MultiHeadAttention, custom layers that are no `ClusterableLayer`)
    are left as they are, with a line in the log, unless they were named.

    Args:
      model: Sequential or functional, Keras 2; not changed.
      config: How.
      seed: Of RANDOM centroids. The same model, config and seed give the same weights, in the same order.

    Returns:
      Uncompiled; for `strip` when it is trained. Layers, inputs and outputs keep their names.

    Raises:
      ConfigError: The model is no Keras 2 graph of layers, no layer can be clustered, or one that was named
        cannot.
    """
    require_keras_2_graph(model, "Weight clustering")
    start = keras_line.clone(model)
    wanted, left_out = _clusterable(start, config.layers)
    if left_out:
        logging.info("Not clustered, for tfmot cannot: %s.", ", ".join(left_out))
    wrapped = {
        id(layer): _wrap(layer, weights, config)
        for layer, weights in wanted
        if any(_num_free(weight, config) > config.number_of_clusters for weight in weights)
    }

    def clone(layer: Any) -> Any:
        if isinstance(layer, tf_keras.Model):
            return tf_keras.models.clone_model(layer, clone_function=clone)
        return wrapped.get(id(layer), layer)

    kept = [weight for weight in selection.every_weight(start) if id(weight.layer) not in wrapped]
    tf_keras.utils.set_random_seed(seed)  # tfmot draws RANDOM centroids when layers are built, which is now
    clustered = tf_keras.models.clone_model(start, clone_function=clone)
    if config.preserve_sparsity:
        for weight in kept:
            mask = weight.variable.numpy() != 0
            if not mask.all():
                keras_line.set_constraint(weight.variable, mask.astype(weight.variable.dtype.as_numpy_dtype))
    return clustered


def by_name(model: tf_keras.Model, config: Clustering) -> Clustering:
    """Returns the config with the layers that are clustered in this model by name, however small they become.

    Args:
      model: As for `cluster`.
      config: As for `cluster`.

    Raises:
      ConfigError: As for `cluster`.
    """
    wanted, _ = _clusterable(keras_line.clone(model), config.layers)
    names = tuple(glob.escape(layer.name) for layer, _ in wanted)
    return dataclasses.replace(config, layers=Layers(names=names, min_weights=1))


def strip(model: tf_keras.Model) -> tf_keras.Model:
    """Returns a trained model of `cluster` without the wrappers: the layers and weight names it had before.

    Returns:
      Uncompiled; shares nothing with the model given.
    """
    return keras_line.clone(tfmot.clustering.keras.strip_clustering(model))  # cloning names weights again


def count_clusters(model: tf_keras.Model, before: tf_keras.Model, config: Clustering) -> tuple[Clusters, ...]:
    """Counts the distinct values of each kernel that is meant, in the model's order.

    Args:
      model: From `strip`.
      before: The model that was given to `cluster`.
      config: As it was given to `cluster`.
    """
    names = {
        weight.name
        for _, weights in _clusterable(keras_line.clone(before), config.layers)[0]
        for weight in weights
    }
    old = _arrays(before)
    return tuple(
        Clusters(
            weight=name,
            num_values=len(np.unique(array)),
            num_weights=array.size,
            num_zeros=int(np.count_nonzero(array == 0)),
            num_lost_zeros=int(np.count_nonzero((old[name] == 0) & (array != 0))),
        )
        for name, array in _arrays(model).items()
        if name in names
    )


def check_clusters(model: tf_keras.Model, before: tf_keras.Model, config: Clustering) -> tuple[Clusters, ...]:
    """Counts as `count_clusters` does, and refuses what is not what was asked for.

    Raises:
      DataError: A kernel has more distinct values than clusters, or a zero was lost that was to be
        preserved; the message is the table of all kernels.
    """
    counts = count_clusters(model, before, config)
    if all(_is_kept(count, config) for count in counts):
        return counts
    zeros = ", with the zeros they had" if config.preserve_sparsity else ""
    width = max(len(count.weight) for count in counts)
    lines = [
        f"  {count.weight:{width}}  {count.num_values} values, {count.num_zeros} zeros of "
        f"{count.num_weights}, {count.num_lost_zeros} zeros lost"
        + ("" if _is_kept(count, config) else "  <- not kept")
        for count in counts
    ]
    raise DataError(
        f"Clustered kernels must hold at most {config.number_of_clusters} distinct values{zeros}; got\n"
        + "\n".join(lines)
        + "\nA callback or constraint of the model writes to its kernels; leave these layers out of `layers`."
    )


def require_keras_2_graph(model: Any, what: str) -> None:
    """Refuses models that tfmot cannot work on.

    Args:
      model: Any Keras model.
      what: What is wanted of it, for the message.

    Raises:
      ConfigError: It is of Keras 3, or has no graph of layers.
    """
    if not keras_line.is_keras_2(model):
        raise ConfigError(
            f"{what} must have a Keras 2 model (tf_keras), for tfmot takes no other; got "
            f"{type(model).__module__}.{type(model).__name__}. Build the model with "
            "`import tf_keras`, or leave this setting out."
        )
    if not isinstance(model, tf_keras.Sequential) and not getattr(model, "_is_graph_network", False):
        raise ConfigError(
            f"{what} must have a Sequential or functional model, whose layers can be wrapped; got the "
            f"subclassed {type(model).__name__}. Build it as tf_keras.Model(inputs, outputs), or leave "
            "this setting out."
        )


def _is_kept(count: Clusters, config: Clustering) -> bool:
    return count.num_values <= config.number_of_clusters and not (
        config.preserve_sparsity and count.num_lost_zeros
    )


def _clusterable(
    model: tf_keras.Model, layers: Layers
) -> tuple[list[tuple[Any, list[PrunableWeight]]], list[str]]:
    """Returns the chosen layers with the kernels that tfmot clusters in them, and what it cannot take."""
    by_layer: dict[int, list[PrunableWeight]] = {}
    for weight in selection.select(model, layers):
        by_layer.setdefault(id(weight.layer), []).append(weight)
    wanted, left_out = [], []
    for weights in by_layer.values():
        layer = weights[0].layer
        variables = {id(variable) for variable in _tfmot_variables(layer)}
        if variables:
            wanted.append((layer, [weight for weight in weights if id(weight.variable) in variables]))
        else:
            left_out.append(f"{layer.name} ({type(layer).__name__})")
    if not wanted or (left_out and layers.names != Layers.names):
        raise ConfigError(
            f"tfmot must be able to cluster a layer; it cannot cluster {', '.join(left_out)}. Take it out of "
            "`layers`, or make it a tfmot.clustering.keras.ClusterableLayer."
        )
    return [(layer, weights) for layer, weights in wanted if weights], left_out


def _tfmot_variables(layer: Any) -> list[Any]:
    """Returns what tfmot would cluster of a layer."""
    if isinstance(layer, tf_keras.layers.MultiHeadAttention):
        return []  # wrapped, it cannot be unwrapped into a layer that can be saved
    try:
        wrapper = tfmot.clustering.keras.cluster_weights(layer, 3)
    except ValueError:  # its way to say that it does not know the layer
        return []
    if wrapper is layer:  # a Conv2D with fewer weights than clusters
        return [layer.kernel]
    return [variable for _, variable in wrapper.layer.get_clusterable_weights()]


def _num_free(weight: PrunableWeight, config: Clustering) -> int:
    """Returns how many distinct values the kernel could come to hold."""
    array = weight.variable.numpy()
    num_zeros = int(np.count_nonzero(array == 0))
    return array.size - num_zeros + 1 if config.preserve_sparsity and num_zeros else int(array.size)


def _wrap(layer: Any, weights: list[PrunableWeight], config: Clustering) -> Any:
    has_zeros = any((weight.variable.numpy() == 0).any() for weight in weights)
    initialization = config.initialization
    if any(_num_free(weight, config) <= config.number_of_clusters for weight in weights):
        initialization = CentroidInitialization.LINEAR  # the only one that takes fewer values than clusters
    wrapper = experimental.cluster_weights(  # the only one that preserves sparsity
        layer,
        config.number_of_clusters,
        tfmot.clustering.keras.CentroidInitialization[initialization.value],
        preserve_sparsity=config.preserve_sparsity and has_zeros,
        name=layer.name,
    )
    wrapper.supports_masking = layer.supports_masking
    wrapper.compute_mask = layer.compute_mask
    return wrapper


def _arrays(model: tf_keras.Model) -> Mapping[str, npt.NDArray[Any]]:
    return {weight.name: weight.variable.numpy() for weight in selection.every_weight(model)}
