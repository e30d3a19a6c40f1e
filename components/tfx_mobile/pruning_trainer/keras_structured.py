"""Removing neurons and filters from a Keras model: a smaller model of the same layers, Keras 2 and 3 alike.

What units there are, and through which layers they can be followed, is found out in keras_units.py; which of
them stay is chosen in structured.py. Trains nothing.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.pruning_trainer.config import Layers
from tfx_mobile.pruning_trainer.keras_line import keras_of
from tfx_mobile.pruning_trainer.keras_units import GATES, Trace, calls, follow, is_built_in, is_graph, maker
from tfx_mobile.pruning_trainer.selection import select, select_layers, weight_name
from tfx_mobile.pruning_trainer.structured import Members, UnitGroup, check_keep
from tfx_mobile.pruning_trainer.structured import (
    choose_units as choose_units,
)  # the rest of what a trainer calls


def unit_groups(model: Any, layers: Layers) -> tuple[UnitGroup, ...]:
    """Returns the groups of units that are meant and safe to remove from.

    A group is meant if all layers that make its units are selected by name, type and predicate, and one of
    them has a weight of `min_weights` or more. Layers that `skip_first` and `skip_last` leave out are not.

    Args:
      model: Sequential or functional, built, of Keras 2 or Keras 3; models may be nested.
      layers: Which ones.

    Raises:
      ConfigError: The model is of another kind; a pattern matches nothing; a layer that was named (by other
        `names` than the default) must keep its units, with the layer that stands in the way; or no group
        is left.
    """
    trace = follow(model)
    chosen = [part.layer.name for part in select(model, layers)]
    every = select(model, dataclasses.replace(layers, skip_first=False, skip_last=False))
    skipped = {part.layer.name for part in every} - set(chosen)
    allowed = {layer.name for layer in select_layers(model, layers)} - skipped
    consumers = trace.consumers()
    groups = [
        UnitGroup(name, members.layers, len(members.units), consumers[name])
        for name, members in trace.groups.items()
        if set(members.layers) <= allowed and set(members.layers) & set(chosen)
    ]
    standing = {name: trace.why_not(name, allowed) for name in dict.fromkeys(chosen)}
    refused = {name: why for name, why in standing.items() if why}
    if layers.names != Layers.names and refused:
        name, why = next(iter(refused.items()))
        raise ConfigError(f"Layer {name!r} must keep all its units: {why}. Take it out of `names`.")
    if not groups:
        reasons = "; ".join(f"{name!r}: {why}" for name, why in refused.items())
        raise ConfigError(
            f"The model must have a layer whose units can be removed; got none ({reasons}). Choose other "
            "layers, or another structure than units."
        )
    return tuple(groups)


def unit_scores(
    model: Any, groups: Iterable[UnitGroup], saliency: Mapping[str, npt.NDArray[Any]]
) -> dict[str, npt.NDArray[np.float64]]:
    """Returns what each unit counts: the saliency of the weights that make it, summed.

    These are the columns of kernels and, where saliency has them, the biases, of all layers of the group;
    of a recurrent layer, the columns of all gates. Weights behind the unit do not count.

    Args:
      model: The one that `groups` are of, or one shrunk from it.
      groups: From `unit_groups`.
      saliency: By weight name (`selection.weight_name`), in the weight's shape; >= 0.

    Returns:
      By group name, shape (units that the model has now,).

    Raises:
      ConfigError: No weight of a group has saliency, or its shape is not the weight's.
    """
    trace = follow(model)
    found = trace.groups
    scores = {}
    for group in groups:
        members = _members(found, group.name)
        by_unit = np.zeros(len(trace.couplings))
        known = False
        for part in (part for name in members.layers for part in trace.plans[name].weights):
            values = saliency.get(weight_name(part.variable))
            if part.score_axis is None or values is None:
                continue
            if tuple(values.shape) != tuple(part.variable.shape):
                raise ConfigError(
                    f"Saliency of {weight_name(part.variable)!r} must have its shape "
                    f"{tuple(part.variable.shape)}; got {tuple(values.shape)}."
                )
            known = True
            axis = part.score_axis % values.ndim
            others = tuple(a for a in range(values.ndim) if a != axis)
            units = trace.same[part.axes[part.score_axis]]
            np.add.at(by_unit, units, values.sum(axis=others, dtype=np.float64))
        if not known:
            raise ConfigError(
                f"Saliency must have a weight of {', '.join(map(repr, members.layers))}; got "
                f"{', '.join(map(repr, saliency)) or 'none'}."
            )
        scores[group.name] = by_unit[members.units]
    return scores


def shrink(model: Any, keep: Mapping[str, Sequence[int]]) -> Any:
    """Returns a model with fewer units, and leaves the one given as it is.

    Args:
      model: Sequential or functional, built.
      keep: By group name, ascending positions of the units that stay; groups that are not there keep all.

    Returns:
      A model of the same class and Keras line, with the same names, inputs, outputs and layer settings
      (constraints and regularisers included), not compiled. It shares no layer with the model given.

    Raises:
      ConfigError: The model is of another kind or cannot be made from its configuration, a group is
        unknown, or units to keep are not ascending positions of its units.
    """
    trace = follow(model)
    groups = trace.groups
    check_keep(keep, {name: len(members.units) for name, members in groups.items()})
    stays = np.ones(len(trace.couplings), dtype=bool)
    for name, positions in keep.items():
        stays[np.delete(groups[name].units, positions)] = False
    copies: dict[int, tuple[Any, Any]] = {}
    smaller = _rebuild(model, trace, stays, copies)
    for layer, copy in copies.values():
        if getattr(layer, "weights", None) and not is_graph(layer):
            copy.set_weights(trace.sliced_weights(layer, stays))
    return smaller


def num_macs(model: Any) -> dict[str, int]:
    """Returns multiply-accumulates of one row, by layer with a kernel; biases and activations are left out.

    A layer that is called twice counts twice; a dimension of unknown extent (time) counts as 1. Dense,
    convolution and recurrent layers are counted, other layers are not.

    Raises:
      ConfigError: The model is neither Sequential nor functional.
    """
    macs: dict[str, int] = {}
    for call in calls(model, recursive=True):
        name = type(call.layer).__name__
        if not is_built_in(call.layer) or not (name == "Dense" or "Conv" in name or name in GATES):
            continue
        shape = call.input_shapes[0] if "Transpose" in name or name in GATES else call.output_shapes[0]
        positions = int(np.prod([extent or 1 for extent in shape[1:-1]]))
        for variable in call.layer.weights:
            if weight_name(variable).endswith("kernel"):
                macs[call.layer.name] = macs.get(call.layer.name, 0) + positions * int(
                    np.prod(variable.shape)
                )
    return macs


def _members(found: Mapping[str, Members], name: str) -> Members:
    check_keep({name: [0]}, {known: len(members.units) for known, members in found.items()})
    return found[name]


def _rebuild(
    model: Any, trace: Trace, stays: npt.NDArray[np.bool_], copies: dict[int, tuple[Any, Any]]
) -> Any:
    """Returns a copy with smaller layers and fresh weights; `copies` takes layer and copy by id."""

    def copied(layer: Any) -> Any:
        if id(layer) not in copies:
            made = (
                _rebuild(layer, trace, stays, copies)
                if is_graph(layer)
                else _copy(layer, trace.sizes(layer, stays))
            )
            copies[id(layer)] = (layer, made)
        return copies[id(layer)][1]

    keras = keras_of(model)
    sizes = trace.input_sizes(model, stays)
    inputs = [_copy_input(maker(tensor), size) for tensor, size in zip(model.inputs, sizes, strict=True)]
    try:
        if isinstance(model, keras.Sequential):
            parts = [copied(layer) for layer in model.layers]
            smaller = type(model)([*inputs, *parts], name=model.name)
        else:
            if keras.__name__ == "keras":  # would compile the clone of a compiled model
                model = type(model)(model.input, model.output, name=model.name)
            tensors = tf.nest.pack_sequence_as(model.input, [layer.output for layer in inputs])
            smaller = keras.models.clone_model(model, input_tensors=tensors, clone_function=copied)
        if type(smaller) is not type(model):
            raise TypeError(f"{type(smaller).__name__} was made instead")
    except TypeError as error:
        raise ConfigError(
            f"Model {model.name!r} ({type(model).__name__}) must be one that can be made from its inputs and "
            f"outputs, or its layers; got: {error}. Use keras.Model or keras.Sequential itself."
        ) from error
    return smaller


def _copy_input(layer: Any, size: int) -> Any:
    settings = layer.get_config()
    key = "batch_shape" if "batch_shape" in settings else "batch_input_shape"
    if size:
        settings[key] = (*settings[key][:-1], size)
    return type(layer).from_config(settings)


def _unbuilt(settings: Any) -> Any:
    """Leaves out the shapes by which Keras 3 would build wrapped layers early, under other names."""
    if isinstance(settings, Mapping):
        return {key: _unbuilt(value) for key, value in settings.items() if key != "build_config"}
    return settings


def _copy(layer: Any, sizes: Mapping[str, int]) -> Any:
    """Returns a layer with the same settings, but for the number of its units, and no weights yet."""
    kind = type(layer)
    # Keras 3 distrusts the code of a Lambda, but this one is in the process already.
    trust = {"safe_mode": False} if kind.__name__ == "Lambda" and kind.__module__.startswith("keras.") else {}
    try:
        settings = _unbuilt(layer.get_config())
        for key, size in sizes.items():
            settings[key] = [*settings[key][:-1], size] if key == "target_shape" else size
        copy = kind.from_config(settings, **trust)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ConfigError(
            f"Layer {layer.name!r} ({kind.__name__}) must be one that can be made from its settings; got: "
            f"{error} Give it a get_config(), and register functions with register_keras_serializable."
        ) from error
    if hasattr(layer, "get_vocabulary"):  # a lookup table is no weight
        copy.set_vocabulary(layer.get_vocabulary())
    return copy
