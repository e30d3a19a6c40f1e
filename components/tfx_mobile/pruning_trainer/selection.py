"""Which layers and weights of a model are meant, in Keras 2 and Keras 3 alike.

Looks at layers by what they have, not by their classes, and imports neither Keras. What can be pruned of a
layer: what its own `get_prunable_weights()` says (tfmot's `PrunableLayer`), or else its kernels and
embeddings, those of cells and wrapped layers included.
"""

import dataclasses
import difflib
import fnmatch
from collections.abc import Iterator
from typing import Any

from tfx_mobile.common import user_code
from tfx_mobile.common.errors import ConfigError
from tfx_mobile.pruning_trainer.config import Layers

_KERNELS = ("kernel", "recurrent_kernel", "depthwise_kernel", "pointwise_kernel", "embeddings")
_LIBRARIES = ("keras", "tf_keras", "tensorflow_model_optimization")
_MAX_LISTED = 20


@dataclasses.dataclass(frozen=True)
class PrunableWeight:
    """One weight that can be pruned.

    Attributes:
      name: For example 'hidden_1/kernel'; unique in its model.
      layer: The layer of the model that has it.
      variable: The Keras variable.
    """

    name: str
    layer: Any
    variable: Any


def weight_name(variable: Any) -> str:
    """Returns a variable's name with its layer's, the same in Keras 2 and Keras 3."""
    return str(getattr(variable, "path", variable.name)).partition(":")[0]


def leaf_layers(model: Any) -> Iterator[Any]:
    """Yields the model's layers in order, those of models inside it in their place."""
    for layer in model.layers:
        if hasattr(layer, "layers") and hasattr(layer, "inputs"):  # a model inside the model
            yield from leaf_layers(layer)
        else:
            yield layer


def prunable_variables(layer: Any) -> list[Any]:
    """Returns what can be pruned of a layer: trainable kernels and embeddings, none twice."""
    if hasattr(layer, "get_prunable_weights"):
        return list(layer.get_prunable_weights())
    found: dict[int, Any] = {}
    for part in layer._flatten_layers():
        own = part.get_prunable_weights() if hasattr(part, "get_prunable_weights") else _kernels(part)
        found |= {id(variable): variable for variable in own}
    return list(found.values())


def select(model: Any, layers: Layers) -> list[PrunableWeight]:
    """Returns the weights that are meant, in the model's order.

    Raises:
      ConfigError: A pattern or type matches no layer (near misses are listed), a layer that was named
        cannot be pruned, nothing is left to prune, or weights have one name.
    """
    chosen = select_layers(model, layers)
    prunable = {id(layer): prunable_variables(layer) for layer in chosen}
    if layers.names != Layers.names:
        for layer in chosen:
            if layer.trainable_weights and not prunable[id(layer)]:
                raise ConfigError(
                    f"Layer {layer.name!r} ({type(layer).__name__}) cannot be pruned: it has no kernel. Take "
                    "it out of `names`, or give it a method get_prunable_weights(), as tfmot's PrunableLayer "
                    "has."
                )
    found: dict[int, PrunableWeight] = {}
    for layer in chosen:
        for variable in prunable[id(layer)]:
            if _size(variable) >= layers.min_weights:
                found.setdefault(id(variable), PrunableWeight(weight_name(variable), layer, variable))
    weights = _without_ends(list(found.values()), layers)
    if not weights:
        raise ConfigError(
            f"The model must have a layer to prune with at least {layers.min_weights} weights; got "
            f"{_listed([layer.name for layer in leaf_layers(model)])}. Lower min_weights, choose other "
            "layers, or ask for the dense model alone with sparsities=(0.0,)."
        )
    _check_names(model, weights)
    return weights


def every_weight(model: Any) -> list[PrunableWeight]:
    """Returns all kernels and embeddings of the model, however small.

    Raises:
      ConfigError: Weights have one name.
    """
    found = [
        PrunableWeight(weight_name(variable), layer, variable)
        for layer in leaf_layers(model)
        for variable in prunable_variables(layer)
    ]
    weights = list({id(weight.variable): weight for weight in found}.values())
    _check_names(model, weights)
    return weights


def own_classes(model: Any) -> dict[str, Any]:
    """Returns the classes by name that are not of Keras or tfmot: layers, wrapped ones, QuantizeConfigs."""
    parts = [model]
    for layer in leaf_layers(model):
        parts += [layer, getattr(layer, "layer", None), getattr(layer, "quantize_config", None)]
    return {
        type(part).__name__: type(part)
        for part in parts
        if part is not None and type(part).__module__.partition(".")[0] not in _LIBRARIES
    }


def select_layers(model: Any, layers: Layers) -> list[Any]:
    """Returns the layers that are meant by name, type and predicate, whether they can be pruned or not.

    Raises:
      ConfigError: A pattern or type matches no layer, or the predicate cannot be imported.
    """
    every = list(leaf_layers(model))
    names = [layer.name for layer in every]
    for pattern in (*layers.names, *layers.exclude):
        if not fnmatch.filter(names, pattern):
            raise ConfigError(f"Pattern {pattern!r} must match a layer; {_near(pattern, names)}.")
    classes = sorted({base.__name__ for layer in every for base in type(layer).__mro__})
    for wanted in layers.types:
        if wanted not in classes:
            raise ConfigError(
                f"Type {wanted!r} must be the class of a layer; "
                f"{_near(wanted, sorted({type(layer).__name__ for layer in every}))}."
            )
    predicate = user_code.load(layers.predicate, "predicate") if layers.predicate else None
    return [
        layer
        for layer in every
        if any(fnmatch.fnmatchcase(layer.name, pattern) for pattern in layers.names)
        and not any(fnmatch.fnmatchcase(layer.name, pattern) for pattern in layers.exclude)
        and (not layers.types or {base.__name__ for base in type(layer).__mro__} & set(layers.types))
        and (predicate is None or predicate(layer))
    ]


def _check_names(model: Any, weights: list[PrunableWeight]) -> None:
    """Refuses a weight that shares its name with another variable of the model, chosen or not."""
    named: dict[str, set[int]] = {}
    for variable in (*model.weights, *(weight.variable for weight in weights)):
        named.setdefault(weight_name(variable), set()).add(id(variable))
    for weight in weights:
        if len(named[weight.name]) > 1:
            raise ConfigError(
                "A weight to prune must have a name of its own, which masks and the ladder's tables go by; "
                f"{weight.name!r} (layer {weight.layer.name!r}) is the name of {len(named[weight.name])} "
                "weights. Give the layers different names, those of models inside the model included."
            )


def _without_ends(weights: list[PrunableWeight], layers: Layers) -> list[PrunableWeight]:
    order = list(dict.fromkeys(id(weight.layer) for weight in weights))
    left_out = set(order[:1] if layers.skip_first else []) | set(order[-1:] if layers.skip_last else [])
    return [weight for weight in weights if id(weight.layer) not in left_out]


def _kernels(layer: Any) -> list[Any]:
    values = [getattr(layer, name, None) for name in _KERNELS]
    trainable = {id(variable) for variable in layer.trainable_weights}
    return [value for value in values if id(value) in trainable]


def _size(variable: Any) -> int:
    size = 1
    for extent in variable.shape:
        size *= int(extent)
    return size


def _near(wanted: str, names: list[str]) -> str:
    near = difflib.get_close_matches(wanted.strip("*"), names, n=5, cutoff=0.5)
    return f"did you mean {', '.join(map(repr, near))}" if near else f"there are {_listed(names)}"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(names[:_MAX_LISTED]) + more
