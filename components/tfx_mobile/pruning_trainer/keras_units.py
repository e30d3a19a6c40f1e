"""Following the units of a Keras model through its graph, layer by layer, Keras 2 and 3 alike.

There is a rule for each layer that is known to treat units one by one, or to make new ones. What has no rule
keeps all units of its inputs and outputs. Changes nothing (keras_structured.py).
"""

import dataclasses
import functools
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.pruning_trainer.keras_line import keras_of
from tfx_mobile.pruning_trainer.structured import Couplings, IntArray, Members, gather

_KERAS = ("tf_keras", "keras")
GATES = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}
_ELEMENTWISE = (
    "linear,relu,relu6,leaky_relu,elu,selu,celu,gelu,silu,swish,mish,sigmoid,hard_sigmoid,log_sigmoid,tanh,hard_tanh,"
    "hard_silu,hard_swish,softplus,softsign,exponential,squareplus,soft_shrink,hard_shrink,tanh_shrink"
)


@dataclasses.dataclass(frozen=True)
class _Sliced:
    """A weight with the units along its axes; `score_axis` is the one whose units it makes."""

    variable: Any
    axes: Mapping[int, IntArray]
    score_axis: int | None = None


@dataclasses.dataclass
class _Plan:
    """How one layer shrinks: its weights, and the settings that count units."""

    layer: Any
    weights: list[_Sliced] = dataclasses.field(default_factory=list)
    sizes: dict[str, IntArray] = dataclasses.field(default_factory=dict)

    def labels(self) -> list[IntArray]:
        return [labels for part in self.weights for labels in part.axes.values()] + list(self.sizes.values())


@dataclasses.dataclass(frozen=True)
class _Call:
    """One call of a layer (or of a Keras 3 operation) in a graph."""

    layer: Any
    inputs: list[Any]
    outputs: list[Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]

    @property
    def input_shapes(self) -> list[tuple[int | None, ...]]:
        return [tuple(tensor.shape) for tensor in self.inputs]

    @property
    def output_shapes(self) -> list[tuple[int | None, ...]]:
        return [tuple(tensor.shape) for tensor in self.outputs]


class _NotProvedError(Exception):
    """No rule says that units can be removed through this call."""


class Trace:
    """What was found out about the units of a whole model."""

    def __init__(self) -> None:
        self.couplings = Couplings()
        self.plans: dict[str, _Plan] = {}
        self.made: dict[str, IntArray] = {}
        self.unproved: dict[str, str] = {}
        self._entered: dict[int, list[IntArray]] = {}

    def through_model(self, model: Any, inputs: Sequence[IntArray]) -> list[IntArray]:
        """Returns the labels of the model's outputs."""
        for one, other in zip(self._entered.setdefault(id(model), list(inputs)), inputs, strict=True):
            if len(one) == len(other):
                self.couplings.couple(one, other)
        known = {id(tensor): labels for tensor, labels in zip(model.inputs, inputs, strict=True)}
        for call in calls(model):
            of_inputs = [known[id(tensor)] for tensor in call.inputs]
            if is_graph(call.layer):
                if call.args and isinstance(call.args[0], Mapping):  # matched by name, not by position
                    self._block(of_inputs, call.layer)
                outputs = self.through_model(call.layer, of_inputs)
            else:
                outputs = self._through(call, of_inputs)
            known |= {id(tensor): labels for tensor, labels in zip(call.outputs, outputs, strict=True)}
        return [known[id(tensor)] for tensor in model.outputs]

    def fixed(self, tensor: Any, why: str) -> IntArray:
        """Returns labels of a tensor whose units must stay; none if their number is not known."""
        labels = self.couplings.new(_extent(tensor))
        self.couplings.block(labels, why)
        return labels

    def units(self, layer: Any, count: int, *activations: Any) -> IntArray:
        """Returns the labels of the units that a layer makes, the same at every call."""
        if layer.name not in self.made:
            self.made[layer.name] = self.couplings.new(count)
        labels = self.made[layer.name]
        for activation in activations:
            if not _is_elementwise(activation):
                self.couplings.block(
                    labels, f"the activation of layer {layer.name!r} is computed over all of them"
                )
        return labels

    def plan(
        self, layer: Any, weights: Iterable[_Sliced], sizes: Mapping[str, IntArray] | None = None
    ) -> None:
        """Says how a layer shrinks; at a second call, couples what each of its weights is sliced by."""
        plan = _Plan(layer, [part for part in weights if part.variable is not None], dict(sizes or {}))
        if {id(part.variable) for part in plan.weights} != {id(variable) for variable in layer.weights}:
            raise _NotProvedError
        for part in plan.weights:
            if any(len(labels) != part.variable.shape[axis] for axis, labels in part.axes.items()):
                raise _NotProvedError
        before = self.plans.setdefault(layer.name, plan)
        for one, other in zip(before.labels(), plan.labels(), strict=True):
            if len(one) != len(other):
                raise _NotProvedError
            self.couplings.couple(one, other)

    @functools.cached_property
    def groups(self) -> dict[str, Members]:
        """The groups of units that can be removed, selected or not, by name; once the model was followed."""
        return gather(self.couplings, self.made)

    @functools.cached_property
    def same(self) -> IntArray:
        """By label, the smallest label of the same unit; once the model was followed."""
        return self.couplings.representatives(np.arange(len(self.couplings), dtype=np.int64))

    @functools.cached_property
    def group_of(self) -> dict[int, str]:
        """The group of each unit that can be removed, by its label in `same`."""
        return {unit: name for name, group in self.groups.items() for unit in group.units.tolist()}

    def consumers(self) -> dict[str, tuple[str, ...]]:
        """Returns by group the layers whose weights shrink with it and that do not make its units."""
        found: dict[str, list[str]] = {name: [] for name in self.groups}
        for name, plan in self.plans.items():
            axes = [self.same[labels] for part in plan.weights for labels in part.axes.values()]
            units = np.unique(np.concatenate([np.zeros(0, np.int64), *axes])).tolist()
            for group in dict.fromkeys(self.group_of[unit] for unit in units if unit in self.group_of):
                if name not in self.groups[group].layers:
                    found[group].append(name)
        return {group: tuple(layers) for group, layers in found.items()}

    def why_not(self, name: str, allowed: set[str]) -> str:
        """Returns why no unit of a layer can be removed; '' if one can."""
        if name in self.unproved or name not in self.plans:
            return self.unproved.get(name, "the model's graph does not show how they are used")
        labels = self.made.get(name, self.plans[name].weights[0].axes[min(self.plans[name].weights[0].axes)])
        reasons = self.couplings.why_blocked(labels)
        if None not in reasons:
            return next(why for why in reasons if why)
        units = self.same[labels].tolist()
        for group in dict.fromkeys(self.group_of[unit] for unit in units if unit in self.group_of):
            missing = [layer for layer in self.groups[group].layers if layer not in allowed]
            if not missing:
                return ""
            partner = missing[0]
        return f"they are those of layer {partner!r} too, which is not selected"

    def sliced_weights(self, layer: Any, stays: npt.NDArray[np.bool_]) -> list[npt.NDArray[Any]]:
        """Returns the weights of a layer that are left, in Keras's order."""
        plan = self.plans.get(layer.name)
        axes = {id(part.variable): part.axes for part in plan.weights} if plan else {}
        found = []
        for variable, values in zip(layer.weights, layer.get_weights(), strict=True):
            for axis, labels in axes.get(id(variable), {}).items():
                values = np.compress(stays[self.same[labels]], values, axis=axis)
            found.append(values)
        return found

    def sizes(self, layer: Any, stays: npt.NDArray[np.bool_]) -> dict[str, int]:
        """Returns how many units are left, by the setting of the layer that counts them."""
        plan = self.plans.get(layer.name)
        return {key: self._left(labels, stays) for key, labels in (plan.sizes.items() if plan else ())}

    def input_sizes(self, model: Any, stays: npt.NDArray[np.bool_]) -> list[int]:
        """Returns how many units are left of each input of a model or nested model; 0 for unknown."""
        return [self._left(labels, stays) for labels in self._entered[id(model)]]

    def _left(self, labels: IntArray, stays: npt.NDArray[np.bool_]) -> int:
        return int(stays[self.same[labels]].sum())

    def _through(self, call: _Call, inputs: list[IntArray]) -> list[IntArray]:
        name = call.layer.name
        if self.plans.get(name, _Plan(call.layer)).layer is not call.layer:
            raise ConfigError(f"Layer names must be unique, in nested models too; got {name!r} twice.")
        try:
            if name in self.unproved:
                raise _NotProvedError
            labels = _rule(call.layer)(self, call, inputs)
            if any(len(labels) != _extent(tensor) for tensor in call.outputs):
                raise _NotProvedError
        except _NotProvedError:
            why = self._block(inputs, call.layer)
            plan = self.plans.pop(name, None)
            for blocked in [
                *(plan.labels() if plan else []),
                *([self.made[name]] if name in self.made else []),
            ]:
                self.couplings.block(blocked, why)
            self.unproved[name] = why
            return [self.fixed(tensor, why) for tensor in call.outputs]
        return [labels for _ in call.outputs]

    def _block(self, inputs: Iterable[IntArray], layer: Any) -> str:
        why = f"layer {layer.name!r} ({type(layer).__name__}) needs all of them"
        for labels in inputs:
            self.couplings.block(labels, why)
        return why


_Rule = Callable[[Trace, _Call, list[IntArray]], IntArray]


def follow(model: Any) -> Trace:
    """Returns what can be said about the units of a model.

    Raises:
      ConfigError: It is neither Sequential nor functional, it is not built, or two layers have one name.
    """
    keras_of(model)
    if not is_graph(model):
        raise ConfigError(
            "Units can be removed from a Sequential or functional model that is built; got "
            f"{type(model).__name__} {model.name!r}. Build it from keras.Input, or prune weights or blocks."
        )
    trace = Trace()
    inputs = [
        trace.fixed(tensor, f"input {maker(tensor).name!r} of the model has as many")
        for tensor in model.inputs
    ]
    for labels in trace.through_model(model, inputs):
        trace.couplings.block(labels, "they are outputs of the model")
    return trace


def is_graph(layer: Any) -> bool:
    """Returns whether it is a built Sequential or functional model that computes what its graph says."""
    has_graph = hasattr(getattr(layer, "_functional", None) or layer, "_nodes_by_depth")
    return has_graph and bool(layer.inputs) and type(layer).call.__module__.partition(".")[0] in _KERAS


def calls(model: Any, *, recursive: bool = False) -> Iterator[_Call]:
    """Yields the calls of the model's layers, inputs left out, in an order in which they can be computed."""
    by_depth = (getattr(model, "_functional", None) or model)._nodes_by_depth
    for depth in sorted(by_depth, reverse=True):
        for node in by_depth[depth]:
            if node.is_input:
                continue
            if hasattr(node, "operation"):
                layer, args, kwargs = node.operation, node.arguments.args, node.arguments.kwargs
            else:
                layer, args, kwargs = node.layer, node.call_args, node.call_kwargs
            inputs = [value for value in tf.nest.flatten((args, kwargs)) if hasattr(value, "_keras_history")]
            if recursive and is_graph(layer):
                yield from calls(layer, recursive=True)
            else:
                yield _Call(layer, inputs, tf.nest.flatten(node.outputs), args, kwargs)


def maker(tensor: Any) -> Any:
    """Returns the layer that a symbolic tensor comes from."""
    return tensor._keras_history[0]


def _extent(tensor: Any) -> int:
    """Returns the number of units along the last axis; 0 if it is not known or is the batch."""
    return int(tensor.shape[-1] or 0) if len(tensor.shape) > 1 else 0


def is_built_in(layer: Any) -> bool:
    """Returns whether Keras itself brings the layer's class."""
    return type(layer).__module__.partition(".")[0] in _KERAS


def _is_elementwise(activation: Any) -> bool:
    return activation is None or any(activation is known for known in _elementwise_functions())


@functools.cache
def _elementwise_functions() -> tuple[Any, ...]:
    homes = [tf.nn, *(importlib.import_module(line).activations for line in _KERAS)]
    return tuple(
        getattr(home, name) for home in homes for name in _ELEMENTWISE.split(",") if hasattr(home, name)
    )


def _rule(layer: Any) -> _Rule:
    """Returns how units go through a layer; subclasses may do anything in `call`, and have no rule."""
    name = type(layer).__name__
    if not is_built_in(layer) or getattr(layer, "data_format", None) == "channels_first":
        return _no_rule
    if name == "TFOpLambda":
        return _OPERATIONS.get(layer.symbol, _no_rule)
    if type(layer).__module__.startswith("keras.src.ops."):
        return _OPERATIONS.get(name, _no_rule)
    return _RULES.get(name, _no_rule)


def _no_rule(trace: Trace, call: _Call, inputs: list[IntArray]) -> IntArray:
    raise _NotProvedError


def _only(inputs: list[IntArray]) -> IntArray:
    """Returns the units of the only input, if they are known."""
    if len(inputs) != 1 or not len(inputs[0]):
        raise _NotProvedError
    return inputs[0]


def _dense(trace: Trace, call: _Call, inputs: list[IntArray]) -> IntArray:
    layer, given = call.layer, _only(inputs)
    made = trace.units(layer, layer.units, layer.activation)
    weights = [_Sliced(layer.kernel, {0: given, 1: made}, 1), _Sliced(layer.bias, {0: made}, 0)]
    trace.plan(layer, weights, {"units": made})
    return made


def _convolution(trace: Trace, call: _Call, inputs: list[IntArray]) -> IntArray:
    layer, given = call.layer, _only(inputs)
    if layer.groups != 1:
        raise _NotProvedError
    made = trace.units(layer, layer.filters, layer.activation)
    weights = [_Sliced(layer.kernel, {-2: given, -1: made}, -1), _Sliced(layer.bias, {0: made}, 0)]
    trace.plan(layer, weights, {"filters": made})
    return made


def _transposed_convolution(trace: Trace, call: _Call, inputs: list[IntArray]) -> IntArray:
    layer, given = call.layer, _only(inputs)
    if getattr(layer, "groups", 1) != 1:
        raise _NotProvedError
    made = trace.units(layer, layer.filters, layer.activation)
    weights = [_Sliced(layer.kernel, {-1: given, -2: made}, -2), _Sliced(layer.bias, {0: made}, 0)]
    trace.plan(layer, weights, {"filters": made})
    return made


def _depthwise_convolution(trace: Trace, call: _Call, inputs: list[IntArray]) -> IntArray:
    layer, given = call.layer, _only(inputs)
    if not _is_elementwise(layer.activation):
        raise _NotProvedError
    made = np.repeat(given, layer.depth_multiplier)
    kernel = getattr(layer, "depthwise_kernel", None)
    kernel = layer.kernel if kernel is None else kernel
    trace.plan(layer, [_Sliced(kernel, {-2: given}), _Sliced(layer.bias, {0: made})])
    return made


def _separable_convolution(trace: Trace, call: _Call, inputs: list[IntArray]) -> IntArray:
    layer, given = call.layer, _only(inputs)
    made = trace.units(layer, layer.filters, layer.activation)
    between = np.repeat(given, layer.depth_multiplier)
    weights = [
        _Sliced(layer.depthwise_kernel, {-2: given}),
        _Sliced(layer.pointwise_kernel, {-2: between, -1: made}, -1),
        _Sliced(layer.bias, {0: made}, 0),
    ]
    trace.plan(layer, weights, {"filters": made})
    return made


def _recurrent(trace: Trace, call: _Call, inputs: list[IntArray]) -> IntArray:
    layer, cell, given = call.layer, call.layer.cell, _only(inputs)
    if layer.stateful or getattr(layer, "time_major", False):
        raise _NotProvedError
    activations = (cell.activation, getattr(cell, "recurrent_activation", None))
    made = trace.units(layer, cell.units, *activations)
    gates = np.tile(made, GATES[type(layer).__name__])
    weights = [
        _Sliced(cell.kernel, {0: given, 1: gates}, 1),
        _Sliced(cell.recurrent_kernel, {0: made, 1: gates}, 1),
        _Sliced(cell.bias, {-1: gates}, -1),
    ]
    trace.plan(layer, weights, {"units": made})
    return made


def _embedding(trace: Trace, call: _Call, inputs: list[IntArray]) -> IntArray:
    layer = call.layer
    trace.couplings.block(inputs[0], f"layer {layer.name!r} (Embedding) needs all of them")
    made = trace.units(layer, layer.output_dim)
    trace.plan(layer, [_Sliced(layer.embeddings, {1: made}, 1)], {"output_dim": made})
    return made


def _batch_normalization(trace: Trace, call: _Call, inputs: list[IntArray]) -> IntArray:
    layer, given = call.layer, _only(inputs)
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    rank = len(call.input_shapes[0])
    if [axis % rank for axis in axes] != [rank - 1]:
        raise _NotProvedError
    variables = (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance)
    trace.plan(layer, [_Sliced(variable, {0: given}) for variable in variables])
    return given


def _prelu(trace: Trace, call: _Call, inputs: list[IntArray]) -> IntArray:
    given = _only(inputs)
    shared = call.layer.alpha.shape[-1] == 1
    trace.plan(call.layer, [_Sliced(call.layer.alpha, {} if shared else {-1: given})])
    return given


def _pass(trace: Trace, call: _Call, inputs: list[IntArray]) -> IntArray:
    if call.layer.weights or getattr(call.layer, "noise_shape", None) is not None:
        raise _NotProvedError
    return _only(inputs)


def _activation(trace: Trace, call: _Call, inputs: list[IntArray]) -> IntArray:
    if not _is_elementwise(call.layer.activation):
        raise _NotProvedError
    return _only(inputs)


def _softmax(trace: Trace, call: _Call, inputs: list[IntArray]) -> IntArray:
    axes = call.layer.axis if isinstance(call.layer.axis, (list, tuple)) else [call.layer.axis]
    rank = len(call.input_shapes[0])
    if any(axis % rank == rank - 1 for axis in axes):
        raise _NotProvedError
    return _only(inputs)


def _rescaling(trace: Trace, call: _Call, inputs: list[IntArray]) -> IntArray:
    if np.ndim(call.layer.scale) or np.ndim(call.layer.offset):
        raise _NotProvedError
    return _only(inputs)


def _flatten(trace: Trace, call: _Call, inputs: list[IntArray]) -> IntArray:
    between = call.input_shapes[0][1:-1]
    return np.tile(_only(inputs), _product(between))


def _reshape(trace: Trace, call: _Call, inputs: list[IntArray]) -> IntArray:
    """Units must come out as they went in, in every row of the new last axis."""
    given, before, width = _only(inputs), call.input_shapes[0], call.output_shapes[0][-1]
    if width == len(given):
        made = given
    else:
        rows = np.tile(given, _product(before[1:-1])).reshape(-1, width or 1)
        if (rows != rows[0]).any():
            raise _NotProvedError
        made = np.asarray(rows[0])
    trace.plan(call.layer, [], {"target_shape": made})
    return made


def _product(extents: Iterable[int | None]) -> int:
    product = 1
    for extent in extents:
        if extent is None:
            raise _NotProvedError
        product *= extent
    return product


def _permute(trace: Trace, call: _Call, inputs: list[IntArray]) -> IntArray:
    if call.layer.dims[-1] != len(call.layer.dims):
        raise _NotProvedError
    return _only(inputs)


def _merge(trace: Trace, call: _Call, inputs: list[IntArray]) -> IntArray:
    """Adds, multiplies and the like."""
    if len(tf.nest.flatten(call.args)) != len(inputs):  # an array among the operands
        raise _NotProvedError
    return _unit_by_unit(trace, call, inputs)


def _merge_operation(trace: Trace, call: _Call, inputs: list[IntArray]) -> IntArray:
    """The same, and activations, written as a function or an operator: `x + y`, `2 * x`, `tf.nn.relu(x)`."""
    operands = [*call.args, *(value for key, value in call.kwargs.items() if key != "name")]
    if sum(not isinstance(x, (int, float)) and tuple(x.shape) != () for x in operands) != len(inputs):
        raise _NotProvedError
    return _unit_by_unit(trace, call, inputs)


def _concatenate(trace: Trace, call: _Call, inputs: list[IntArray]) -> IntArray:
    return _joined(trace, call, inputs, call.layer.axis)


def _concat_operation(trace: Trace, call: _Call, inputs: list[IntArray]) -> IntArray:
    axis = getattr(call.layer, "axis", None)  # Keras 3; Keras 2 has it in the call
    axis = next(
        (value for value in (axis, *call.args[1:], call.kwargs.get("axis")) if value is not None), None
    )
    if not isinstance(axis, int) or not call.args:
        raise _NotProvedError
    return _joined(trace, call, inputs, axis)


def _joined(trace: Trace, call: _Call, inputs: list[IntArray], axis: int) -> IntArray:
    rank = len(call.input_shapes[0])
    if len(tf.nest.flatten(call.args[0])) != len(inputs) or not all(len(labels) for labels in inputs):
        raise _NotProvedError
    return np.concatenate(inputs) if axis % rank == rank - 1 else _unit_by_unit(trace, call, inputs)


def _unit_by_unit(trace: Trace, call: _Call, inputs: list[IntArray]) -> IntArray:
    """Couples the units of all inputs; a last axis of one unit is spread over all."""
    widest = max(inputs, key=len)
    if not len(widest):
        raise _NotProvedError
    for labels in inputs:
        if len(labels) == len(widest):
            trace.couplings.couple(widest, labels)
        elif len(labels) == 1:
            trace.couplings.block(labels, f"layer {call.layer.name!r} spreads it over others")
        else:
            raise _NotProvedError
    return widest


_RULES: dict[str, _Rule] = {
    "Dense": _dense,
    "Embedding": _embedding,
    "BatchNormalization": _batch_normalization,
    "PReLU": _prelu,
    "Activation": _activation,
    "Softmax": _softmax,
    "Rescaling": _rescaling,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Permute": _permute,
    "Concatenate": _concatenate,
    "RepeatVector": _pass,
}
_RULES |= {f"Conv{d}D": _convolution for d in (1, 2, 3)}
_RULES |= {f"Conv{d}DTranspose": _transposed_convolution for d in (1, 2, 3)}
_RULES |= {f"DepthwiseConv{d}D": _depthwise_convolution for d in (1, 2)}
_RULES |= {f"SeparableConv{d}D": _separable_convolution for d in (1, 2)}
_RULES |= dict.fromkeys(GATES, _recurrent)
_RULES |= dict.fromkeys(("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"), _merge)
_RULES |= dict.fromkeys(("Identity", "LeakyReLU", "ReLU", "ELU", "ThresholdedReLU"), _pass)
_RULES |= dict.fromkeys(
    ("Dropout", "GaussianNoise", "GaussianDropout", "AlphaDropout", "ActivityRegularization"), _pass
)
_SPATIAL = ("SpatialDropout", "ZeroPadding", "Cropping", "UpSampling")
_POOLING = ("MaxPooling", "AveragePooling", "GlobalMaxPooling", "GlobalAveragePooling")
_RULES |= {f"{name}{d}D": _pass for d in (1, 2, 3) for name in _SPATIAL + _POOLING}

# By symbol in Keras 2 (`TFOpLambda`), by class in Keras 3 (`keras.ops`).
_BINARY = ("Add", "Subtract", "Multiply", "Maximum", "Minimum")
_UNARY = ("Relu", "Relu6", "Silu", "Sigmoid", "Tanh")
_OPERATIONS: dict[str, _Rule] = {"concat": _concat_operation, "Concatenate": _concat_operation}
_OPERATIONS |= dict.fromkeys((*_BINARY, *(f"math.{name.lower()}" for name in _BINARY)), _merge_operation)
_OPERATIONS |= dict.fromkeys(
    (*_UNARY, *(f"nn.{name.lower()}" for name in _UNARY), *(f"math.{name.lower()}" for name in _UNARY)),
    _merge_operation,
)
_OPERATIONS |= dict.fromkeys(("__operators__.add",), _merge_operation)
