"""A TransformGraph's ops as built-in TFLite ops: the graph is walked once and each op is copied or rewritten.

Four ideas carry the rewriting.
- What depends on no feature is computed now, by TensorFlow, and becomes a constant; a branch or a loop whose
  condition is such a constant is unrolled.
- What depends on a looked-up value only (`Coded`) is computed now for every value of the table; the file
  looks up a code and gathers the result. So strings behind a table never reach the phone.
- A sparse feature has at most one value a row, so its values are a column in which some rows do not count
  (`Rows`); making it dense is to choose between the value and the author's default.
- TFLite cannot choose between strings (`Choice`), but between what is computed from them.

Whatever is computed from a stand-in in a way not known to be right is refused, never copied. Does not
convert (quantizer/preprocessing.py) and does not know which model takes the features.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.function_def_to_graph import function_def_to_graph

from tfx_mobile.common.tft_graph import TransformFunction, ancestors

_MAX_UNROLLED = 8  # steps of a loop that depends on features: as many as Newton's method in TFT takes
_MAX_STEPS = 10_000  # of one that is computed ahead
_DIGIT_BITS = 20  # of a quotient: float32 holds 24


class UnconvertibleError(Exception):
    """An op has no equivalent of built-in TFLite ops.

    Attributes:
      op_type: As TensorFlow names it.
      op: The op of the TransformGraph that it is, or is part of.
    """

    def __init__(self, op_type: str, op: Any) -> None:
        super().__init__(op_type)
        self.op_type, self.op = op_type, op


@dataclasses.dataclass(frozen=True)
class Rows:
    """One value in each row, in the order of rows, of which only those of present rows count.

    Attributes:
      values: Any shape of as many elements as there are rows.
      present: Shape (rows,), bool.
      is_raw: The values of rows that are not present are still those that mean missing.
    """

    values: Any
    present: Any
    is_raw: bool = False


@dataclasses.dataclass(frozen=True)
class Vectors:
    """One vector in each row, likewise: what was gathered by the one value of a row.

    Attributes:
      values: Shape (rows, k).
      present: Shape (rows,), bool.
    """

    values: Any
    present: Any


@dataclasses.dataclass(frozen=True)
class Positions:
    """The indices of a sparse feature: (row, 0) for each present row; for each row where that is None."""

    present: Any


@dataclasses.dataclass(frozen=True)
class Coded:
    """`domain[code]`, not looked up yet.

    Attributes:
      code: Integers of any shape.
      domain: Known now; the value of each code along its first axis.
    """

    code: Any
    domain: Any


@dataclasses.dataclass(frozen=True)
class Split:
    """One of the parts (indices, values, dense shape) of a sparse tensor with a row for each code.

    Attributes:
      code: As of the `Coded` it was split from.
      parts: All three, known now.
    """

    code: Any
    parts: tuple[Any, Any, Any]


@dataclasses.dataclass(frozen=True)
class Choice:
    """Strings: `yes` where the condition holds, else `no`; either may be known now."""

    condition: Any
    yes: Any
    no: Any


@dataclasses.dataclass(frozen=True)
class Text:
    """Integers written as decimal text."""

    numbers: Any


@dataclasses.dataclass(frozen=True)
class Extent:
    """A shape or size that was computed from a stand-in: good for shaping stand-ins, not for arithmetic."""

    value: Any
    of: Any


@dataclasses.dataclass(frozen=True)
class Size:
    """The number of elements of a tensor whose shape depends on the batch only; so there is at least one."""

    of: Any
    dtype: tf.DType


@dataclasses.dataclass(frozen=True)
class Wide:
    """Strings to be broadcast to a shape, which comparing does anyway."""

    value: Any
    shape: Any


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_STAND_INS = (Rows, Vectors, Positions, Coded, Split, Choice, Text, Extent, Size, Wide)

_PASS = _names(
    "CheckNumerics EnsureShape Identity PlaceholderWithDefault PreventGradient Snapshot StopGradient"
)
_SHAPING = _names("ExpandDims Reshape Squeeze")
_SHAPE_ARITHMETIC = _names(
    "Cast ConcatV2 ExpandDims GatherV2 Maximum Mul Pack Prod Reshape Slice Squeeze StridedSlice"
)
_ELEMENTWISE = _names(
    "Abs Acos Acosh Add AddV2 AsString Asin Asinh Atan Atan2 Atanh BitwiseAnd BitwiseOr BitwiseXor Cast "
    "Ceil ClipByValue Cos Cosh Div DivNoNan Elu Equal Erf Erfc Erfinv Exp Expm1 Floor FloorDiv FloorMod "
    "Greater GreaterEqual Inv Invert IsFinite IsInf IsNan LeakyRelu LeftShift Less LessEqual Log Log1p "
    "LogicalAnd LogicalNot LogicalOr Maximum Minimum Mod Mul MulNoNan Neg NotEqual OnesLike Pow RealDiv "
    "Reciprocal RegexReplace Relu Relu6 RightShift Rint Round Rsqrt Select SelectV2 Selu Sigmoid Sign Sin "
    "Sinh Softplus Softsign Sqrt Square SquaredDifference StaticRegexReplace StringLength StringLower "
    "StringStrip StringToHashBucketFast StringToHashBucketStrong StringToNumber StringUpper Sub Substr "
    "Tan Tanh TruncateDiv TruncateMod UnicodeTranscode Xdivy Xlogy ZerosLike"
)
_NO_BUILTIN = _names(
    "AsString Bucketize DenseToDenseSetOperation EagerPyFunc PyFunc PyFuncStateless RaggedRange "
    "RegexFullMatch RegexReplace SparseFillEmptyRows SparseReduceSum SparseReorder SparseReshape "
    "SparseSlice SparseToDense StaticRegexFullMatch StaticRegexReplace StringFormat StringJoin "
    "StringLength StringLower StringNGrams StringSplit StringSplitV2 StringStrip StringToHashBucket "
    "StringToHashBucketFast StringToHashBucketStrong StringToNumber StringUpper Substr UnicodeDecode "
    "UnicodeDecodeWithOffsets UnicodeScript UnicodeTranscode UniqueWithCounts UnsortedSegmentJoin"
)
_NO_BUILTIN_ON_STRINGS = _names("BroadcastTo ConcatV2 Pack Select SelectV2 Unique Where ReduceJoin Tile")
_SIZED_BY_DATA = _names("DynamicPartition ListDiff SetDiff1D Unique UniqueV2 UniqueWithCounts Where")
_STATEFUL_BUT_KNOWN = _names("LookupTableFindV2 LookupTableSizeV2 LookupTableExportV2 ReadVariableOp")


def missing_value(dtype: tf.DType) -> Any:
    """Returns what stands for a missing value of a sparse feature: NaN, "" or the lowest integer."""
    if dtype == tf.string:
        return b""
    return np.nan if dtype.is_floating else dtype.min


def sparse_stand_in(column: Any) -> tuple[Positions, Rows, Any]:
    """Returns what stands for the three parts of a sparse feature.

    Args:
      column: Shape (rows,); `missing_value` where a row has none.
    """
    if column.dtype.is_floating:
        present = tf.equal(column, column)
    else:
        present = tf.not_equal(column, tf.constant(missing_value(column.dtype), column.dtype))
    rows = tf.shape(column, tf.int64)[0]
    return Positions(present), Rows(column, present, is_raw=True), tf.stack([rows, 1])


def tables_of(transform: TransformFunction, name: str) -> list[tuple[Any, Any]]:
    """Returns keys and values, in the order of values, of every table that a feature is looked up in."""
    bound = transform.bind({})
    flat = tf.nest.flatten(transform.outputs[name], expand_composites=True)
    finders = {
        op.inputs[0].name: op
        for op in ancestors(tensor.op for tensor in flat)
        if op.type == "LookupTableFindV2"
    }
    return [_content(bound[handle], op) for handle, op in sorted(finders.items()) if handle in bound]


class Rewriter:
    """Walks the graph and keeps the tables it makes on the way.

    Args:
      transform: The graph.
      select_ops: What has no equivalent is copied, for the converter to keep as an op of TensorFlow.

    Attributes:
      tables: Made so far, with their content in constants: TFLite's converter initialises such tables; of
        a table that was loaded from a SavedModel it loses the initialiser. Keep them in the module.
    """

    def __init__(self, transform: TransformFunction, *, select_ops: bool = False) -> None:
        self.tables: list[tf.lookup.StaticHashTable] = []
        self._transform, self._select_ops = transform, select_ops
        self._made: dict[Any, tf.lookup.StaticHashTable] = {}
        self._top: Any = None  # the op of the TransformGraph that is being walked

    def __call__(self, features: Mapping[str, Any], wanted: Iterable[str]) -> dict[str, Any]:
        """Puts the ops into the graph that is being traced and returns the wanted transformed features.

        Args:
          features: Every raw feature that is needed, as the signature has it; of a sparse one its
            `sparse_stand_in`.
          wanted: Dense transformed features.

        Raises:
          UnconvertibleError: Of the first op that has no equivalent.
        """
        names = list(wanted)
        targets = [self._transform.outputs[name] for name in names]
        found = self._walk(targets, self._transform.bind(features), top=True)
        made = {}
        for name, target, value in zip(names, targets, found, strict=True):
            self._top = target.op
            made[name] = self._plain(value, target.op)
            made[name].set_shape(target.shape)
        return made

    def _walk(self, targets: Sequence[Any], bound: Mapping[str, Any], *, top: bool = False) -> list[Any]:
        values = dict(bound)
        for op in ancestors(tensor.op for tensor in targets):
            if top:
                self._top = op
            if op.outputs and all(tensor.name in values for tensor in op.outputs):
                continue
            found = self._evaluate(op, [values[tensor.name] for tensor in op.inputs])
            values |= {tensor.name: value for tensor, value in zip(op.outputs, found, strict=True)}
        return [values[tensor.name] for tensor in targets]

    def _evaluate(self, op: Any, inputs: list[Any]) -> list[Any]:
        """Returns the values of an op's outputs: constants, tensors of the new graph, or stand-ins."""
        if op.type == "Const":
            return [_now(lambda: tf.constant(tf.make_ndarray(op.get_attr("value"))))]
        if op.type in _PASS:
            return inputs[:1]
        if op.type in ("StatelessIf", "If"):
            return self._branch(op, inputs)
        if op.type in ("StatelessWhile", "While"):
            return self._loop(op, inputs)
        if op.type in ("PartitionedCall", "StatefulPartitionedCall"):
            return self._call(op.get_attr("f").name, inputs)
        if all(map(_is_known, inputs)) and (
            op.type in _STATEFUL_BUT_KNOWN or (op.inputs and not op.op_def.is_stateful)
        ):
            known: list[Any] = _now(lambda: _run(op, inputs))
            return known
        rule = _RULES.get(op.type)
        found = rule(self, op, inputs) if rule else None
        if found is None:
            found = self._of_stand_ins(op, inputs)
        if found is not None:
            return found if isinstance(found, list) else [found]
        return self._copy(op, inputs)

    def _copy(self, op: Any, inputs: list[Any]) -> list[Any]:
        plain = [self._plain(value, op) for value in inputs]
        if not self._select_ops:
            on_strings = any(value.dtype == tf.string for value in plain)
            if op.type in _NO_BUILTIN or (on_strings and op.type in _NO_BUILTIN_ON_STRINGS):
                raise UnconvertibleError(op.type, self._top)
        return _run(op, plain)

    def _of_stand_ins(self, op: Any, inputs: list[Any]) -> Any:
        """Applies an op to stand-ins as such where that is known to be right; None where it is not."""
        if not any(isinstance(value, _STAND_INS) for value in inputs):
            return None
        extents = [value for value in inputs if isinstance(value, Extent)]
        others = [
            value for value in inputs if isinstance(value, _STAND_INS) and not isinstance(value, Extent)
        ]
        if extents and not others and op.type in _SHAPE_ARITHMETIC:
            if op.type in _SHAPING and not isinstance(inputs[0], Extent):
                return None  # a tensor of the graph in the shape of a stand-in
            given = [value.value if isinstance(value, Extent) else _constant(value) for value in inputs]
            return [Extent(value, extents[0].of) for value in _run(op, given)]
        if op.type in _ELEMENTWISE or op.type in _SHAPING:
            return self._elementwise(op, inputs)
        return None

    def _elementwise(self, op: Any, inputs: list[Any]) -> Any:
        shaping = op.type in _SHAPING
        choice = next((v for v in inputs if isinstance(v, Choice)), None)
        if choice is not None:
            return self._of_choice(op, inputs, choice)
        coded = [v for v in inputs if isinstance(v, Coded)]
        if coded:
            return self._of_coded(op, inputs, coded[0])
        rows = [v for v in inputs if isinstance(v, Rows)]
        if any(isinstance(v, Vectors) for v in inputs):
            return None if shaping else self._of_vectors(op, inputs)
        if not rows:
            return None
        others = [v for v in inputs if not isinstance(v, Rows)]
        if shaping:
            shape = [v.value if isinstance(v, Extent) else _constant(v) for v in others]
            return Rows(_run(op, [rows[0].values, *shape])[0], rows[0].present, rows[0].is_raw)
        if any(isinstance(value.values, _STAND_INS) for value in rows):
            return None
        shapes = {tuple(value.values.shape.as_list()) for value in rows}
        if len(shapes) > 1 or not all(_is_scalar(v) for v in others):
            return None
        present = rows[0].present
        for other in rows[1:]:
            if other.present is not present:
                present = tf.logical_and(present, other.present)
        plain = [value.values if isinstance(value, Rows) else value for value in inputs]
        found = self._evaluate(op, plain)
        return [Rows(self._plain(v, op) if isinstance(v, Coded) else v, present) for v in found]

    def _of_vectors(self, op: Any, inputs: list[Any]) -> Any:
        vectors = [v for v in inputs if isinstance(v, Vectors)]
        if not all(isinstance(v, Vectors) or _is_scalar(v) for v in inputs):
            return None
        present = vectors[0].present
        for other in vectors[1:]:
            if other.present is not present:
                present = tf.logical_and(present, other.present)
        plain = [v.values if isinstance(v, Vectors) else _constant(v) for v in inputs]
        return Vectors(_run(op, plain)[0], present)

    def _of_choice(self, op: Any, inputs: list[Any], choice: Choice) -> Any:
        position = next(i for i, value in enumerate(inputs) if value is choice)
        if any(
            isinstance(v, _STAND_INS) and not isinstance(v, Extent)
            for i, v in enumerate(inputs)
            if i != position
        ):
            return None
        others = [v.value if isinstance(v, Extent) else v for v in inputs]

        def of(value: Any) -> Any:
            if op.type in _SHAPING and _is_known(value) and value.shape.rank == 0:
                return value
            return self._evaluate(op, [*others[:position], value, *others[position + 1 :]])[0]

        condition = choice.condition
        if op.type in _SHAPING:
            condition = _run(op, [condition, *map(_constant, others[1:])])[0]
        yes, no = of(choice.yes), of(choice.no)
        if _dtype(yes) == tf.string:
            return Choice(condition, yes, no)
        return tf.where(condition, self._plain(yes, op), self._plain(no, op))

    def _of_coded(self, op: Any, inputs: list[Any], coded: Coded) -> Any:
        if op.type in _SHAPING:
            if coded.domain.shape.rank != 1 or inputs[0] is not coded:
                return None
            shape = [v.value if isinstance(v, Extent) else _constant(v) for v in inputs[1:]]
            return Coded(_run(op, [coded.code, *shape])[0], coded.domain)
        for value in inputs:
            same = isinstance(value, Coded) and value.code is coded.code
            if not same and not (_is_known(value) and _is_scalar(value)):
                return None
        domains = [v.domain if isinstance(v, Coded) else v for v in inputs]
        if len({v.domain.shape.rank for v in inputs if isinstance(v, Coded)}) > 1:
            return None
        return [Coded(coded.code, value) for value in _now(lambda: _run(op, domains))]

    def _plain(self, value: Any, op: Any) -> Any:
        """Returns a tensor of the new graph."""
        if isinstance(value, Coded):
            return tf.gather(_constant(value.domain), value.code)
        if isinstance(value, Size):
            return tf.size(self._plain(value.of, op), value.dtype)
        if isinstance(value, Extent) and isinstance(value.of, Coded):
            return value.value
        if isinstance(value, Wide):
            return self._copy_strings(lambda: tf.broadcast_to(self._plain(value.value, op), value.shape), op)
        if isinstance(value, Choice):
            yes, no = self._plain(value.yes, op), self._plain(value.no, op)
            return self._copy_strings(lambda: tf.where(value.condition, yes, no), op, "SelectV2")
        if isinstance(value, Text):
            return self._copy_strings(lambda: tf.as_string(self._plain(value.numbers, op)), op, "AsString")
        if isinstance(value, _STAND_INS):
            return self._truly_sparse(value, op)
        return _constant(value)

    def _copy_strings(self, make: Callable[[], Any], op: Any, op_type: str = "BroadcastTo") -> Any:
        if not self._select_ops:
            raise UnconvertibleError(op_type, self._top)
        return make()

    def _truly_sparse(self, value: Any, op: Any) -> Any:
        if not self._select_ops:
            raise UnconvertibleError(op.type, self._top)
        if isinstance(value, Rows):
            return tf.boolean_mask(tf.reshape(value.values, [-1]), value.present)
        if isinstance(value, Positions) and value.present is not None:
            rows = tf.where(value.present)
            return tf.concat([rows, tf.zeros_like(rows)], axis=1)
        raise UnconvertibleError(op.type, self._top)

    def _branch(self, op: Any, inputs: list[Any]) -> list[Any]:
        condition, *given = inputs
        if not _is_known(condition):
            raise UnconvertibleError(op.type, self._top)
        chosen = "then_branch" if bool(condition.numpy()) else "else_branch"
        return self._call(op.get_attr(chosen).name, given)

    def _loop(self, op: Any, inputs: list[Any]) -> list[Any]:
        """Unrolls a loop whose number of steps is known: whole where all is known or it is short."""
        values = inputs
        for step in range(_MAX_STEPS):
            if step >= _MAX_UNROLLED and not all(map(_is_known, values)):
                return self._while(op, inputs)
            (going_on,) = self._call(op.get_attr("cond").name, values)
            if not _is_known(going_on):
                break
            if not bool(going_on.numpy()):
                return values
            values = self._call(op.get_attr("body").name, values)
        raise UnconvertibleError(op.type, self._top)

    def _while(self, op: Any, inputs: list[Any]) -> list[Any]:
        """Keeps a loop as one; what each step leaves as it is, stand-ins too, stays outside."""
        condition, body = op.get_attr("cond").name, op.get_attr("body").name
        after = self._call(body, inputs)
        changing = [i for i, value in enumerate(after) if value is not inputs[i]]
        if any(isinstance(value[i], _STAND_INS) for i in changing for value in (inputs, after)):
            raise UnconvertibleError(op.type, self._top)

        def merged(state: Sequence[Any]) -> list[Any]:
            changed = dict(zip(changing, state, strict=True))
            return [changed.get(i, value) for i, value in enumerate(inputs)]

        def step(*state: Any) -> list[Any]:
            found = self._call(body, merged(state))
            return [_constant(found[i]) for i in changing]

        found = tf.while_loop(
            lambda *state: _constant(self._call(condition, merged(state))[0]),
            step,
            [_constant(inputs[i]) for i in changing],
            shape_invariants=[_either_shape(inputs[i].shape, after[i].shape) for i in changing],
        )
        return merged(found)

    def _call(self, name: str, inputs: list[Any]) -> list[Any]:
        with self._transform.graph.as_default():  # knows the functions that this one calls
            graph = function_def_to_graph(self._transform.library[name])
        bound = {tensor.name: value for tensor, value in zip(graph.inputs, inputs, strict=True)}
        return self._walk(graph.outputs, bound)

    def table(self, handle: Any, keys: Any, values: Any, default: Any) -> tf.lookup.StaticHashTable:
        """Returns a table of this content, made once for each handle and default."""
        known = (id(handle), values.dtype.kind, default)
        if known not in self._made:
            with tf.init_scope():
                content = tf.lookup.KeyValueTensorInitializer(keys, values)
                self._made[known] = tf.lookup.StaticHashTable(content, default)
            self.tables.append(self._made[known])
        return self._made[known]


def _lookup(rewriter: Rewriter, op: Any, inputs: list[Any]) -> Any:
    handle, given, default = inputs
    if isinstance(given, (Coded, Choice)):
        if isinstance(given, Coded):
            return Coded(given.code, _now(lambda: _run(op, [handle, given.domain, default]))[0])
        yes, no = (
            rewriter._plain(rewriter._evaluate(op, [handle, v, default])[0], op)
            for v in (given.yes, given.no)
        )
        return tf.where(given.condition, yes, no)
    if isinstance(given, Rows):
        (found,) = rewriter._evaluate(op, [handle, given.values, default])
        return Rows(rewriter._plain(found, op), given.present)
    keys, values = _content(handle, op)
    domain = _now(lambda: tf.concat([tf.constant(values, op.outputs[0].dtype), tf.reshape(default, [1])], 0))
    if isinstance(given, Text):
        written = ((_integer(key), i) for i, key in enumerate(keys))
        places = {number: i for number, i in written if number is not None}
        return Coded(_place(given.numbers, places, len(keys)), domain)
    if isinstance(given, _STAND_INS):
        return None
    given = rewriter._plain(given, op)
    if given.dtype != tf.string:
        return Coded(_place(given, {int(key): i for i, key in enumerate(keys)}, len(keys)), domain)
    if values.dtype == np.int64:
        return _find(rewriter.table(handle, keys, values, int(default)), given)
    codes = np.arange(len(keys), dtype=np.int64)
    return Coded(_find(rewriter.table(handle, keys, codes, len(keys)), given), domain)


def _find(table: tf.lookup.StaticHashTable, given: Any) -> Any:
    """Looks up and states the shape, which the converter does not know: a batch of 1 were a scalar."""
    shape = given.shape.as_list()
    known = [-1 if length is None else length for length in shape] if shape.count(None) < 2 else None
    return tf.reshape(table.lookup(given), known or tf.shape(given))


def _place(numbers: Any, places: Mapping[int, int], default: int) -> Any:
    """Returns the place of each number, by comparing it with all: TFLite has no table of integers."""
    keys = tf.constant(list(places), numbers.dtype)
    gaps = tf.constant([place - default for place in places.values()], tf.int32)
    hits = tf.equal(tf.expand_dims(numbers, -1), keys)
    return default + tf.reduce_sum(tf.where(hits, gaps, 0), axis=-1)


def _hash(rewriter: Rewriter, op: Any, inputs: list[Any]) -> Any:
    """One bucket needs no hash."""
    (given,) = inputs
    if op.get_attr("num_buckets") != 1:
        return None
    if isinstance(given, Rows):
        return Rows(tf.zeros(_shape_of(given.values), tf.int64), given.present)
    return tf.zeros(_shape_of(given), tf.int64)


def _shape_of(value: Any) -> Any:
    if isinstance(value, Coded):
        return tf.shape(value.code)
    if isinstance(value, Choice):
        return tf.shape(value.condition)
    return tf.shape(value.numbers if isinstance(value, Text) else value)


def _as_string(rewriter: Rewriter, op: Any, inputs: list[Any]) -> Any:
    (given,) = inputs
    plain = (op.get_attr("precision"), op.get_attr("width"), op.get_attr("fill")) == (-1, -1, b"")
    values = given.values if isinstance(given, Rows) else given
    if isinstance(values, _STAND_INS) or not values.dtype.is_integer or not plain:
        return None
    return Rows(Text(values), given.present) if isinstance(given, Rows) else Text(given)


def _bound(strictly: bool) -> Callable[..., Any]:
    """Returns the rule of UpperBound (strictly) or LowerBound: comparisons and a sum.

    As `std::upper_bound` and `std::lower_bound` have it, NaN comes after all boundaries in the first and
    before them in the second.
    """

    def rule(rewriter: Rewriter, op: Any, inputs: list[Any]) -> Any:
        boundaries, given = inputs
        values = given.values if isinstance(given, Rows) else given
        if not _is_known(boundaries) or boundaries.shape[0] != 1:
            return None
        if isinstance(values, _STAND_INS):
            values = rewriter._plain(values, op)
        limits, each = _constant(boundaries)[0], tf.expand_dims(values, -1)
        hits = tf.less(each, limits) if strictly else tf.less(limits, each)
        count = tf.reduce_sum(tf.cast(hits, tf.int32), axis=-1)
        count = tf.cast(boundaries.shape[1] - count if strictly else count, op.get_attr("out_type"))
        return Rows(count, given.present) if isinstance(given, Rows) else count

    return rule


def _to_dense(rewriter: Rewriter, op: Any, inputs: list[Any]) -> Any:
    positions, _, values, default = inputs
    if isinstance(values, Split):
        indices, texts, shape = values.parts
        return Coded(values.code, _now(lambda: _run(op, [indices, shape, texts, default]))[0])
    if not isinstance(positions, Positions) or not _is_known(default):
        return None
    if positions.present is None and not isinstance(values, _STAND_INS):
        values = Rows(values, tf.ones(tf.shape(values), tf.bool), is_raw=True)
    shape = tf.get_static_value(op.inputs[1], partial=True)
    if not isinstance(values, Rows) or isinstance(values.values, _STAND_INS) or np.shape(shape) != (2,):
        return None
    width = 1 if shape[1] is None else int(shape[1])
    column = tf.reshape(values.values, [-1, 1])
    present = tf.reshape(values.present, [-1, 1])
    filler = _constant(default)
    if column.dtype == tf.string:
        if width != 1:
            return None
        return column if default.numpy() == b"" and values.is_raw else Choice(present, column, default)
    first = tf.where(present, column, filler)
    if width == 1:
        return first
    rest = tf.fill(tf.stack([tf.shape(column)[0], width - 1]), filler)
    return tf.concat([first, rest], axis=1)


def _fill_empty_rows(rewriter: Rewriter, op: Any, inputs: list[Any]) -> Any:
    positions, values, _, default = inputs
    if not (isinstance(positions, Positions) and isinstance(values, Rows) and _is_known(default)):
        return None
    column = tf.reshape(values.values, [-1])
    if column.dtype != tf.string:
        column = tf.where(values.present, column, _constant(default))
    elif default.numpy() != b"" or not values.is_raw:
        return None
    return [Positions(None), column, tf.logical_not(values.present), values]


def _sparse_sum(rewriter: Rewriter, op: Any, inputs: list[Any]) -> Any:
    positions, values, _, axes = inputs
    if not (isinstance(positions, Positions) and isinstance(values, Rows) and _is_known(axes)):
        return None
    if np.ravel(axes.numpy()).tolist() not in ([1], [-1]):
        return None
    column = tf.reshape(values.values, [-1])
    found = tf.where(values.present, column, tf.zeros([], column.dtype))
    return tf.reshape(found, [-1, 1]) if op.get_attr("keep_dims") else found


def _split(rewriter: Rewriter, op: Any, inputs: list[Any]) -> Any:
    given, *others = inputs
    if not (isinstance(given, Coded) and given.domain.shape.rank == 1 and all(map(_is_known, others))):
        return None
    indices, values, shape = _now(lambda: _run(op, [given.domain, *others]))
    return [Split(given.code, (indices, values, shape))] * 3


def _shape(rewriter: Rewriter, op: Any, inputs: list[Any]) -> Any:
    (given,) = inputs
    kind = op.get_attr("out_type")
    if isinstance(given, Rows):
        values = given.values.numbers if isinstance(given.values, Text) else given.values
        return Extent(tf.shape(values, kind), given)
    if isinstance(given, Coded):
        known = given.domain.shape[1:].as_list()
        return Extent(tf.concat([tf.shape(given.code, kind), tf.constant(known, kind)], 0), given)
    if isinstance(given, Choice):
        return tf.shape(given.condition, kind)
    if isinstance(given, Text):
        return tf.shape(given.numbers, kind)
    return None


def _size(rewriter: Rewriter, op: Any, inputs: list[Any]) -> Any:
    (given,) = inputs
    if isinstance(given, _STAND_INS) or 0 in given.shape.as_list():
        return None
    if any(source.type in _SIZED_BY_DATA for source in ancestors([given.op])):
        return None
    return Size(given, op.get_attr("out_type"))


def _fill(rewriter: Rewriter, op: Any, inputs: list[Any]) -> Any:
    shape, value = inputs
    if not isinstance(shape, Extent) or not _is_known(value):
        return None
    if isinstance(shape.of, Rows):
        return Rows(tf.fill(shape.value, _constant(value)), shape.of.present)
    return Coded(shape.of.code, _now(lambda: tf.fill(tf.shape(shape.of.domain), value)))


def _broadcast(rewriter: Rewriter, op: Any, inputs: list[Any]) -> Any:
    value, shape = inputs
    if isinstance(value, _STAND_INS) or isinstance(shape, _STAND_INS) or value.dtype != tf.string:
        return None
    return Wide(value, _constant(shape))


def _compare(rewriter: Rewriter, op: Any, inputs: list[Any]) -> Any:
    """Strings to be broadcast are compared as they are; nothing has a size of zero."""
    first, second = inputs
    for one, other in ((first, second), (second, first)):
        if isinstance(one, Size) and _is_known(other) and other.numpy() == 0:
            return [_now(lambda: tf.constant(op.type == "NotEqual"))]
    if not (isinstance(first, Wide) and isinstance(second, Wide)):
        return None
    (found,) = _run(op, [rewriter._plain(first.value, op), rewriter._plain(second.value, op)])
    return tf.broadcast_to(found, first.shape)


def _select(rewriter: Rewriter, op: Any, inputs: list[Any]) -> Any:
    condition, yes, no = inputs
    if isinstance(condition, _STAND_INS) or _dtype(yes) != tf.string:
        return None
    if any(isinstance(value, _STAND_INS) and not isinstance(value, Choice) for value in (yes, no)):
        return None
    return Choice(_constant(condition), yes, no)


def _floor_div(rewriter: Rewriter, op: Any, inputs: list[Any]) -> Any:
    """Divides int64 by a positive constant, exactly: TFLite has FLOOR_MOD but no FLOOR_DIV for int64.

    Long division with digits of 20 bits: what is left of taking the remainder off is a multiple of the
    divisor, and float32 rounds a quotient of less than 2**22 to the right integer. Below -2**62, taking the
    remainder off may wrap.
    """
    given, divisor = inputs
    values = given.values if isinstance(given, Rows) else given
    if isinstance(values, _STAND_INS) or values.dtype != tf.int64:
        return None
    if not (_is_known(divisor) and _is_scalar(divisor) and int(divisor) > 0):
        return None
    quotient = _quotient(values, int(divisor))
    return Rows(quotient, given.present) if isinstance(given, Rows) else quotient


def _quotient(values: Any, divisor: int) -> Any:
    weights = [divisor]
    while weights[-1] < 2**41:  # what is left of 63 bits is less than a digit and two bits
        weights.append(weights[-1] << _DIGIT_BITS)
    total, left = tf.zeros_like(values), values
    for weight in reversed(weights):
        rest = tf.math.floormod(left, tf.constant(weight, tf.int64))
        digit = tf.cast(left - rest, tf.float32) / tf.constant(weight, tf.float32)
        total += tf.cast(tf.round(digit), tf.int64) * (weight // divisor)
        left = rest
    return total


def _slice(rewriter: Rewriter, op: Any, inputs: list[Any]) -> Any:
    """Takes `indices[:, 0]` of a sparse feature, the number of each row, and `values[..., tf.newaxis]`."""
    given, begin, _, strides = inputs
    masks = {
        name: op.get_attr(f"{name}_mask") for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
    }
    if isinstance(given, Rows) and not isinstance(given.values, _STAND_INS):
        if masks["ellipsis"] == 1 and masks["new_axis"] == 2 and not masks["shrink_axis"]:
            return Vectors(tf.reshape(given.values, [-1, 1]), given.present)
        return None
    if (
        not isinstance(given, Positions)
        or given.present is None
        or not (_is_known(begin) and _is_known(strides))
    ):
        return None
    whole_first = masks["begin"] & 1 and masks["end"] & 1 and not masks["ellipsis"] and not masks["new_axis"]
    if masks["shrink_axis"] != 2 or not whole_first or begin.numpy().tolist()[1:] != [0]:
        return None
    if strides.numpy().tolist() != [1, 1]:
        return None
    return Rows(tf.range(tf.shape(given.present, tf.int64)[0], dtype=tf.int64), given.present)


def _gather(rewriter: Rewriter, op: Any, inputs: list[Any]) -> Any:
    """Gathers a number or a vector by the one value of each row."""
    table, rows, axis = inputs
    if not isinstance(rows, Rows) or isinstance(rows.values, _STAND_INS) or isinstance(table, _STAND_INS):
        return None
    if not _is_known(axis) or int(axis) != 0 or op.get_attr("batch_dims") or table.shape.rank not in (1, 2):
        return None
    found = tf.gather(_constant(table), tf.reshape(rows.values, [-1]))
    return (Rows if table.shape.rank == 1 else Vectors)(found, rows.present)


def _sum(rewriter: Rewriter, op: Any, inputs: list[Any]) -> Any:
    """Sums each row's vector."""
    given, axes = inputs
    if not isinstance(given, Vectors) or not _is_known(axes) or op.get_attr("keep_dims"):
        return None
    if np.ravel(axes.numpy()).tolist() not in ([1], [-1]):
        return None
    return Rows(tf.reduce_sum(given.values, axis=1), given.present)


def _segment_sum(rewriter: Rewriter, op: Any, inputs: list[Any]) -> Any:
    """Sums by the number of a row, or by a place made of it; a row that is not present adds nothing."""
    given, places, count = inputs
    if not isinstance(places, Rows) or isinstance(places.values, _STAND_INS):
        return None
    if not isinstance(given, (Rows, Vectors)) or isinstance(given.values, _STAND_INS):
        return None
    present = tf.logical_and(given.present, places.present)
    values = given.values if isinstance(given, Vectors) else tf.reshape(given.values, [-1])
    if isinstance(given, Vectors):
        present = present[:, tf.newaxis]
    values = tf.where(present, values, tf.zeros([], values.dtype))
    at = tf.maximum(tf.reshape(places.values, [-1]), 0)  # of a row that is not present it may be anything
    return _run(op, [values, at, count.value if isinstance(count, Extent) else _constant(count)])[0]


_RULES: dict[str, Callable[[Rewriter, Any, list[Any]], Any]] = {
    "AsString": _as_string,
    "BroadcastTo": _broadcast,
    "Equal": _compare,
    "Fill": _fill,
    "FloorDiv": _floor_div,
    "GatherV2": _gather,
    "LookupTableFindV2": _lookup,
    "LowerBound": _bound(strictly=False),
    "NotEqual": _compare,
    "Select": _select,
    "SelectV2": _select,
    "Shape": _shape,
    "Size": _size,
    "SparseFillEmptyRows": _fill_empty_rows,
    "SparseReduceSum": _sparse_sum,
    "SparseToDense": _to_dense,
    "StridedSlice": _slice,
    "StringSplitV2": _split,
    "StringToHashBucketFast": _hash,
    "StringToHashBucketStrong": _hash,
    "Sum": _sum,
    "UnsortedSegmentSum": _segment_sum,
    "UpperBound": _bound(strictly=True),
}


def _run(op: Any, inputs: Sequence[Any]) -> list[Any]:
    """Runs an op of another graph on these inputs: in the graph that is being traced, or eagerly."""
    make = getattr(tf.raw_ops, op.type)
    waiting, values = list(inputs), {}
    inferred = set()
    for entry in op.op_def.input_arg:
        several = entry.number_attr or entry.type_list_attr
        inferred |= {entry.type_attr, entry.number_attr, entry.type_list_attr}
        size = op.get_attr(several) if several else 1
        count = size if isinstance(size, int) else len(size)
        taken, waiting = waiting[:count], waiting[count:]
        values[entry.name] = taken if several else taken[0]
    values |= {e.name: op.get_attr(e.name) for e in op.op_def.attr if e.name not in inferred}
    parameters = [name for name in inspect.signature(make).parameters if name != "name"]
    renamed = [name for name in parameters if name not in values]  # such as Squeeze's squeeze_dims, axis
    old = [name for name in values if name not in parameters]
    given = {**values, **{new: values[name] for new, name in zip(renamed, old, strict=True)}}
    found = make(**{name: given[name] for name in parameters})
    if isinstance(found, (list, tuple)):
        return list(found)
    return [] if found is None else [found]


def _either_shape(one: Any, other: Any) -> Any:
    """Returns the shape that tensors of both shapes have."""
    if one.rank is None or other.rank is None or one.rank != other.rank:
        return tf.TensorShape(None)
    pairs = zip(one.as_list(), other.as_list(), strict=True)
    return tf.TensorShape([a if a == b else None for a, b in pairs])


def _now(make: Callable[[], Any]) -> Any:
    with tf.init_scope():
        return make()


def _is_known(value: Any) -> bool:
    return not isinstance(value, _STAND_INS) and not tf.is_symbolic_tensor(value)


def _is_scalar(value: Any) -> bool:
    return not isinstance(value, _STAND_INS) and value.shape.num_elements() == 1 and value.shape.rank <= 1


def _constant(value: Any) -> Any:
    """Returns a known value as a constant of the graph, not as one that the graph captures."""
    if tf.is_symbolic_tensor(value) or value.dtype == tf.resource:
        return value
    return tf.constant(value.numpy(), value.dtype, value.shape)


def _dtype(value: Any) -> tf.DType:
    if isinstance(value, (Choice, Text, Wide)):
        return tf.string
    if isinstance(value, Rows):
        return _dtype(value.values)
    return value.domain.dtype if isinstance(value, Coded) else getattr(value, "dtype", tf.int32)


def _content(handle: Any, find: Any) -> tuple[Any, Any]:
    """Returns keys and values of the table that an op looks up in, ordered by value, then by key."""
    keys, values = _now(
        lambda: tf.raw_ops.LookupTableExportV2(
            table_handle=handle, Tkeys=find.get_attr("Tin"), Tvalues=find.get_attr("Tout")
        )
    )
    order = np.lexsort((keys.numpy(), values.numpy()))
    return keys.numpy()[order], values.numpy()[order]


def _integer(text: bytes) -> int | None:
    """Returns the integer that is written like this, if TensorFlow would write it like this."""
    try:
        number = int(text)
    except ValueError:
        return None
    return number if str(number).encode() == text and abs(number) < 2**63 else None
