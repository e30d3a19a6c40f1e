"""Dense training, then pruning and fine-tuning rung by rung, with the twins of each rung.

Does not read files (keras_input.py), write artifacts (keras_export.py) or know TFX. Sources: Zhu and Gupta
(2017), To prune, or not to prune (rising sparsity); Han et al. (2015) (prune, then fine-tune); Frankle and
Carbin (2019) (rewinding). tfmot is imported only where a twin needs it: it is slow to import, and knows no
Keras 3.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.common.ladder import Rung, Twin, rung_name
from tfx_mobile.pruning_trainer import (
    core,
    keras_fit,
    keras_line,
    keras_saliency,
    keras_structured,
    schedules,
)
from tfx_mobile.pruning_trainer.allocation import Sensitivity, allocate
from tfx_mobile.pruning_trainer.checkpoints import Checkpoints
from tfx_mobile.pruning_trainer.config import (
    Allocation,
    Clustering,
    Criterion,
    QuantizationAware,
    TrainerConfig,
    Units,
)
from tfx_mobile.pruning_trainer.keras_input import TrainingData
from tfx_mobile.pruning_trainer.keras_masks import Masks
from tfx_mobile.pruning_trainer.masks import mask
from tfx_mobile.pruning_trainer.selection import PrunableWeight, every_weight, select, weight_name
from tfx_mobile.pruning_trainer.structured import UnitGroup, choose_units

_EARLY, _SENSITIVITY, _UNITS = "early", "sensitivity", "-units"  # checkpoints beside those of rungs
_SCAN_BATCHES = 16
_CALIBRATION_BATCHES = 8
_TWIN_LEARNING_RATE_SHARE = 0.1  # of the model's own, for clustering and quantisation-aware training


@dataclasses.dataclass(frozen=True)
class TrainedRung:
    """A rung and its Keras model.

    Attributes:
      rung: What it is.
      model: Ready to be exported; use it before asking for the next rung, which may share its layers.
      kernels: By name, the pruned kernels as they will be in the file.
    """

    rung: Rung
    model: Any
    kernels: Mapping[str, Any]


def checked(model: Any) -> Any:
    """Returns what `build_model` returned, if it can be trained and pruned.

    Raises:
      ConfigError: It is not a compiled, functional Keras model.
    """
    keras_line.keras_of(model)
    keras_line.Compiled.of(model)
    functional = model._is_graph_network if keras_line.is_keras_2(model) else hasattr(model, "inputs")
    if not functional or not model.inputs:
        raise ConfigError(
            "build_model must return a functional model, Model(inputs, outputs), or a Sequential one with an "
            f"Input; got the class {type(model).__name__}, whose layers cannot be seen before it is called."
        )
    return model


def train_ladder(
    model: Any,
    data: TrainingData,
    config: TrainerConfig,
    checkpoints: Checkpoints,
    *,
    logs: Path | None = None,
    is_trained: bool = False,
) -> Iterator[TrainedRung]:
    """Yields the dense model, then each sparser one, fine-tuned from the one before; behind each its twins.

    What a checkpoint says is done is not done again.

    Args:
      model: Compiled; see `checked`.
      data: Rows, with the model's inputs by name.
      config: What to train.
      checkpoints: Where progress is kept.
      logs: Folder for TensorBoard; None for none.
      is_trained: The model is a base model: it is evaluated, not trained, before it is pruned.

    Raises:
      ConfigError: Nothing can be pruned, a schedule does not fit the number of steps, or a twin cannot be
        made of this model.
      DataError: A loss is not finite, or a layer falls short of its sparsity.
    """
    ladder = _Ladder(model, data, config, checkpoints, logs)
    ladder.check()
    yield ladder.dense(is_trained=is_trained)
    yield from ladder.twins(0.0)
    for target in config.sparsities[1:]:
        yield ladder.sparse(target)
        yield from ladder.twins(target)


def kernels(model: Any, names: Iterable[str], twin: Twin) -> dict[str, Any]:
    """Returns weights by name as they will be in the file: quantised in a twin that was trained for int8.

    What tfmot splits in two under other names, for int8, is left out.
    """
    if twin is Twin.QUANTIZATION_AWARE:
        from tfx_mobile.pruning_trainer import keras_quantization

        found = keras_quantization.effective_kernels(model)
        return {name: found[name] for name in names if name in found}
    by_name = {weight_name(variable): variable for variable in model.weights}
    return {name: by_name[name].numpy() for name in names}


class _Ladder:
    """The model as it goes from rung to rung."""

    def __init__(
        self,
        model: Any,
        data: TrainingData,
        config: TrainerConfig,
        checkpoints: Checkpoints,
        logs: Path | None,
    ) -> None:
        self._model, self._data, self._config = model, data, config
        self._checkpoints, self._logs = checkpoints, logs
        self._compiled = keras_line.Compiled.of(model)
        self._removes_units = isinstance(config.pruning.structure, Units)
        self._prunes = len(config.sparsities) > 1
        self._weights: list[PrunableWeight] = []
        self._masks: Masks | None = None
        self._now: dict[str, float] = {}  # sparsity of each weight
        self._target = 0.0
        self._clustering: Clustering | None = None  # with its layers by name, where shapes shrink
        self._groups: tuple[UnitGroup, ...] = ()
        self._original_units: dict[str, int] = {}
        self._dense_steps = 0
        self._planned = self._steps()

    def check(self) -> None:
        """Refuses what can be known before anything is trained."""
        pruning = self._config.pruning
        every_weight(self._model)  # of which no two may have one name
        if self._prunes:
            self._weights = select(self._model, pruning.layers)
            self._now = {weight.name: 0.0 for weight in self._weights}
        rewinding, dense_steps = self._config.rewinding, self._planned[rung_name(0.0)]
        if rewinding and rewinding.step >= dense_steps:
            raise ConfigError(
                f"Rewinding must go back to a step of the dense training, which has at most {dense_steps}; "
                f"got {rewinding.step}."
            )
        if self._prunes and not self._removes_units:
            previous = 0.0
            for target in self._config.sparsities[1:]:
                self._plan(previous, target)
                previous = target
            self._masks = Masks(self._weights)
            self._compiled.apply(self._model)
        if self._removes_units:
            self._groups = keras_structured.unit_groups(self._model, pruning.layers)
            self._original_units = {group.name: group.num_units for group in self._groups}
        if self._config.clustering or self._config.quantization_aware:
            self._check_twins()

    def dense(self, *, is_trained: bool) -> TrainedRung:
        """Returns the dense model."""
        name = rung_name(0.0)
        if is_trained:
            self._planned.pop(name)
            return self._finished(name, 0.0, Twin.PLAIN, self._model, None)
        config = self._config
        steps = config.epochs * self._data.steps_per_epoch
        limit = config.train_args.num_steps
        rewinding = config.rewinding
        settings = self._settings(
            name,
            min(steps, limit) if limit else steps,
            patience=config.patience,
            snapshot_step=rewinding.step if rewinding else None,
        )
        return self._trained(name, 0.0, Twin.PLAIN, self._model, settings, snapshot=self._keep_early_weights)

    def sparse(self, target: float) -> TrainedRung:
        """Returns the next rung: masks or removed units, then fine-tuning."""
        name = rung_name(target)
        settings = self._settings(name, self._fine_tune_steps, patience=None)
        if self._removes_units:
            self._model = self._smaller(name, target)
            self._compiled.apply(self._model)
            names = set(self._names)  # of the dense model: a weight that shrank still counts
            self._weights = [weight for weight in every_weight(self._model) if weight.name in names]
            return self._trained(name, target, Twin.PLAIN, self._model, settings)
        self._compiled.apply(self._model)
        assert self._masks is not None
        levels = self._allocated(target)
        plan = self._plan(self._target, target)
        plans = {name: plan.for_weight(self._now[name], level) for name, level in levels.items()}
        ramp = _Ramp(self._model, self._masks, plans, self._config, self._data)
        self._now, self._target = levels, target
        return self._trained(name, target, Twin.PLAIN, self._model, settings, renewal=ramp)

    def twins(self, target: float) -> Iterator[TrainedRung]:
        """Yields the twins of the rung that was made last."""
        config = self._config
        if config.rewinding and target:
            pruned = self._model.get_weights()
            yield self._rewound(target)
            self._model.set_weights(pruned)
        start, clustered = self._model, False
        if config.clustering:
            twin = self._clustered(target, self._clustering or config.clustering)
            start, clustered = twin.model, True
            yield twin
        if config.quantization_aware:
            yield self._quantization_aware(target, start, config.quantization_aware, clustered=clustered)

    # The twins.

    def _rewound(self, target: float) -> TrainedRung:
        rewinding = self._config.rewinding
        assert rewinding is not None
        assert self._masks is not None
        pruned = self._masks.arrays()
        early = self._checkpoints.load(_EARLY)
        if early is None:
            raise ConfigError(
                f"Rewinding needs the weights before step {rewinding.step} of the dense training; it stopped "
                f"after {self._dense_steps} steps. Ask for an earlier step."
            )
        self._model.set_weights(keras_fit.stored(early[0], "w"))
        self._masks.assign(pruned)
        self._compiled.apply(self._model)
        per_epoch = self._data.steps_per_epoch
        steps = rewinding.epochs * per_epoch if rewinding.epochs else self._dense_steps
        twin = Twin.REWOUND
        settings = self._settings(rung_name(target, twin), steps, patience=self._config.patience)
        fixed = _Ramp(self._model, self._masks, {}, self._config, self._data)
        return self._trained(settings.rung, target, twin, self._model, settings, renewal=fixed)

    def _clustered(self, target: float, config: Clustering) -> TrainedRung:
        from tfx_mobile.pruning_trainer import keras_clustering

        wrapped = keras_clustering.cluster(self._model, config, seed=self._config.seed)
        self._compiled.apply(wrapped, learning_rate=self._twin_rate(config.learning_rate))
        twin = Twin.CLUSTERED
        settings = self._settings(
            rung_name(target, twin), config.epochs * self._data.steps_per_epoch, patience=None
        )
        trained = self._trained(settings.rung, target, twin, wrapped, settings, finish=keras_clustering.strip)
        keras_clustering.check_clusters(trained.model, self._model, config)
        return trained

    def _quantization_aware(
        self, target: float, start: Any, config: QuantizationAware, *, clustered: bool
    ) -> TrainedRung:
        from tfx_mobile.pruning_trainer import keras_quantization

        kept = {
            "preserve_sparsity": self._keeps_zeros(target, Twin.QUANTIZATION_AWARE),
            "preserve_clusters": clustered,
        }
        model = keras_quantization.quantization_aware(start, config, **kept)
        self._compiled.apply(model, learning_rate=self._twin_rate(config.learning_rate))
        twin = Twin.QUANTIZATION_AWARE
        settings = self._settings(
            rung_name(target, twin), config.epochs * self._data.steps_per_epoch, patience=None
        )
        batches = self._data.sample(_CALIBRATION_BATCHES, self._config.seed)
        trained = self._trained(
            settings.rung,
            target,
            twin,
            model,
            settings,
            prepare=lambda: keras_quantization.calibrate(model, (batch[0] for batch in batches)),
            finish=keras_quantization.strip,
        )
        keras_quantization.check_kept(trained.model, start, **kept)
        return trained

    def _check_twins(self) -> None:
        """Makes the twins once, so that a model they cannot be made of is refused before it is trained."""
        clustering, aware = self._config.clustering, self._config.quantization_aware
        if clustering:
            from tfx_mobile.pruning_trainer import keras_clustering

            keras_clustering.cluster(self._model, clustering, seed=self._config.seed)
            if self._removes_units:
                self._clustering = keras_clustering.by_name(self._model, clustering)
            self._twin_rate(clustering.learning_rate)
        if aware:
            from tfx_mobile.pruning_trainer import keras_quantization

            keras_quantization.quantization_aware(self._model, aware)
            self._twin_rate(aware.learning_rate)

    def _twin_rate(self, asked: float | None) -> float:
        if asked is not None:
            return asked
        steps = self._config.epochs * self._data.steps_per_epoch
        return self._compiled.highest_learning_rate(steps) * _TWIN_LEARNING_RATE_SHARE

    def _keeps_zeros(self, target: float, twin: Twin) -> bool:
        """Returns whether a model of this sparsity must have the zeros of its rung."""
        clustering = self._config.clustering
        lost = clustering is not None and not clustering.preserve_sparsity
        clustered = twin in (Twin.CLUSTERED, Twin.QUANTIZATION_AWARE)
        return bool(target) and not self._removes_units and not (clustered and lost)

    # What every model of the ladder goes through.

    @property
    def _names(self) -> list[str]:
        return [weight.name for weight in self._weights]

    def _trained(
        self,
        name: str,
        target: float,
        twin: Twin,
        model: Any,
        settings: keras_fit.Settings,
        *,
        renewal: "_Ramp | None" = None,
        snapshot: Callable[[list[Any]], None] | None = None,
        prepare: Callable[[], None] = lambda: None,
        finish: Callable[[Any], Any] = lambda model: model,
    ) -> TrainedRung:
        done = self._checkpoints.load(name)
        if done is not None:
            arrays, state = done
            model = finish(model)
            if renewal:
                renewal.masks.assign_arrays(keras_fit.stored(arrays, "m"))
            model.set_weights(keras_fit.stored(arrays, "w"))
            if model is not self._model:
                self._compiled.apply(model)
            logging.info("Rung %s was trained before.", name)
            return self._told(Rung.from_dict(state["rung"]), model)
        prepare()
        logs = self._logs / name if self._logs else None
        fitted = keras_fit.Fit(
            model, self._data, settings, self._checkpoints, logs, renewal=renewal, snapshot=snapshot
        ).run()
        return self._finished(name, target, twin, finish(model), fitted)

    def _finished(
        self, name: str, target: float, twin: Twin, model: Any, fitted: keras_fit.Fitted | None
    ) -> TrainedRung:
        found = kernels(model, self._names, twin)
        layers = core.count_zeros(found)
        if self._keeps_zeros(target, twin):
            core.check_sparsity(layers, found, self._now, self._config.pruning.structure, name)
        if model is not self._model:
            self._compiled.apply(model)
        metrics = model.evaluate(self._data.validation(), verbose=0, return_dict=True)
        rung = Rung(
            name=name,
            target_fraction=target,
            layers=layers,
            num_parameters=int(self._model.count_params()),
            validation=_numbers(metrics, name),
            twin=twin,
            history=fitted.history if fitted else (),
            seconds=fitted.seconds if fitted else 0.0,
        )
        if twin in (Twin.CLUSTERED, Twin.QUANTIZATION_AWARE):  # no masks were looked at
            zeros = rung.sparsity_fraction
            epochs = [dataclasses.replace(epoch, sparsity_fraction=zeros) for epoch in rung.history]
            rung = dataclasses.replace(rung, history=tuple(epochs))
        arrays = keras_fit.numbered("w", model.get_weights())
        if self._masks:
            arrays |= keras_fit.numbered("m", self._masks.in_order())
        self._checkpoints.save(name, arrays, {"rung": rung.to_dict()})
        return self._told(rung, model)

    def _told(self, rung: Rung, model: Any) -> TrainedRung:
        if rung.name == rung_name(0.0) and rung.history:
            self._dense_steps = rung.history[-1].step
        return TrainedRung(rung, model, kernels(model, self._names, rung.twin))

    def _settings(
        self, name: str, num_steps: int, *, patience: int | None, snapshot_step: int | None = None
    ) -> keras_fit.Settings:
        self._planned.pop(name, None)
        return keras_fit.Settings(
            rung=name,
            num_steps=num_steps,
            patience=patience,
            later_steps=sum(self._planned.values()),
            checkpoint_seconds=self._config.resources.checkpoint_seconds,
            snapshot_step=snapshot_step,
            seed=self._config.seed,
        )

    def _steps(self) -> dict[str, int]:
        """Returns the steps of every model to come, at most, by its name."""
        config, per_epoch = self._config, self._data.steps_per_epoch
        dense = config.epochs * per_epoch
        found = {rung_name(0.0): min(dense, config.train_args.num_steps or dense)}
        twins: list[tuple[Twin, int]] = []
        if config.clustering:
            twins.append((Twin.CLUSTERED, config.clustering.epochs * per_epoch))
        if config.quantization_aware:
            twins.append((Twin.QUANTIZATION_AWARE, config.quantization_aware.epochs * per_epoch))
        for target in config.sparsities:
            if target:
                found[rung_name(target)] = self._fine_tune_steps
            if target and config.rewinding:
                epochs = config.rewinding.epochs or config.epochs
                found[rung_name(target, Twin.REWOUND)] = epochs * per_epoch
            found |= {rung_name(target, twin): steps for twin, steps in twins}
        return found

    @property
    def _fine_tune_steps(self) -> int:
        return self._config.fine_tune_epochs * self._data.steps_per_epoch

    # Sparsity.

    def _plan(self, previous: float, target: float) -> schedules.MaskPlan:
        rows, per_epoch = self._data.num_rows, self._data.steps_per_epoch
        batches = f"{rows} rows in batches of {self._config.batch_size}" if rows else f"{per_epoch} batches"
        return schedules.plan(
            self._config.pruning.schedule,
            previous,
            target,
            self._fine_tune_steps,
            f"{rung_name(target)!r} ({batches} over {self._config.fine_tune_epochs} epochs)",
        )

    def _allocated(self, target: float) -> dict[str, float]:
        if self._config.pruning.allocation is Allocation.UNIFORM:
            return dict.fromkeys(self._now, target)
        curves = sensitivities(self._checkpoints)
        if not curves:
            curves = self._scanned()
            self._checkpoints.save(_SENSITIVITY, {}, {"curves": [curve.to_dict() for curve in curves]})
        return allocate({curve.weight: curve for curve in curves}, target, self._now)

    def _scanned(self) -> tuple[Sensitivity, ...]:
        logging.info("Measuring how sensitive %d weights are to pruning.", len(self._weights))
        pruning = self._config.pruning
        batches = self._data.sample(_SCAN_BATCHES, self._config.seed)
        assert not isinstance(pruning.structure, Units)  # which are removed, by no curves
        saliencies = keras_saliency.saliency(self._model, self._weights, pruning.criterion, batches)
        found = keras_saliency.scan(self._model, self._weights, saliencies, pruning.structure, batches)
        return tuple(found.values())

    def _smaller(self, name: str, target: float) -> Any:
        """Returns the model without the units that this rung removes."""
        stored = self._checkpoints.load(f"{name}{_UNITS}")
        if stored is None:
            pruning = self._config.pruning
            batches = self._data.sample(pruning.saliency_batches, self._config.seed)
            saliency = keras_saliency.saliency(
                self._model, every_weight(self._model), pruning.criterion, batches
            )
            scores = keras_structured.unit_scores(self._model, self._groups, saliency)
            assert isinstance(pruning.structure, Units)
            keep = choose_units(
                self._groups, target, scores, self._original_units, pruning.structure.min_units
            )
            self._checkpoints.save(f"{name}{_UNITS}", {}, {"keep": keep})
        else:
            keep = stored[1]["keep"]
        return keras_structured.shrink(self._model, keep)

    def _keep_early_weights(self, weights: list[Any]) -> None:
        self._checkpoints.save(_EARLY, keras_fit.numbered("w", weights), {})


def _numbers(metrics: Mapping[str, Any], name: str) -> dict[str, float]:
    """Returns the metrics of a rung that are numbers, of which the loss must be one."""
    found = keras_fit.numbers(metrics)
    if not np.isfinite(found["loss"]):
        raise keras_fit.DivergedError(
            f"The loss must be finite; got {found['loss']} on the validation rows, of rung {name!r}."
        )
    for metric in [metric for metric, value in found.items() if not np.isfinite(value)]:
        logging.warning("Metric %s of rung %s is %s, and left out.", metric, name, found.pop(metric))
    return found


class _Ramp:
    """Renews the masks of one rung as its sparsity rises; with no plans they stay as they are."""

    def __init__(
        self,
        model: Any,
        masks: Masks,
        plans: Mapping[str, schedules.MaskPlan],
        config: TrainerConfig,
        data: TrainingData,
    ) -> None:
        self.masks = masks
        self.last_step = max((plan.last_step for plan in plans.values()), default=-1)
        self._plans, self._pruning, self._data, self._seed = plans, config.pruning, data, config.seed
        self._measure = keras_saliency.saliency_function(model, masks.weights, config.pruning.criterion)

    def is_due(self, step: int) -> bool:
        return any(plan.is_due(step) for plan in self._plans.values())

    def renew(self, step: int) -> None:
        pruning = self._pruning
        assert not isinstance(pruning.structure, Units)  # which have no masks
        batches: Sequence[Any] = ()
        if pruning.criterion is not Criterion.MAGNITUDE:
            batches = self._data.sample(pruning.saliency_batches, self._seed + step)
        found = self._measure(batches)
        before = self.masks.arrays()
        self.masks.assign(
            {
                # what is pruned stays so where others count nothing at this moment
                name: mask(
                    np.where(before[name], found[name], -1), plan.sparsity_fraction(step), pruning.structure
                )
                for name, plan in self._plans.items()
            }
        )


def sensitivities(checkpoints: Checkpoints) -> tuple[Sensitivity, ...]:
    """Returns the measured curves, if there are any."""
    stored = checkpoints.load(_SENSITIVITY)
    return tuple(Sensitivity.from_dict(curve) for curve in stored[1]["curves"]) if stored else ()
