"""When masks are renewed and how sparse they are then. Pure.

The ramps are tfmot's `PolynomialDecay` and `ConstantSparsity` with two differences: masks are renewed at
`end_step` too when it is no multiple of the frequency, so that the target is always reached; and sparsity
never falls below that of the rung before.
"""

import dataclasses
import math

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.pruning_trainer.config import ConstantSparsity, PolynomialDecay

_RENEWALS = 20  # on the way to the target, about


@dataclasses.dataclass(frozen=True)
class MaskPlan:
    """The masks of one rung, or of one weight in it, by training step (0-based, of the rung).

    Attributes:
      previous: Sparsity of the rung before, which holds until `begin_step`; in [0, 1).
      initial: Sparsity at `begin_step`; in [0, target].
      target: Sparsity from `end_step` on; in [previous, 1).
      begin_step: First renewal.
      end_step: Last renewal.
      frequency: Steps between renewals; >= 1.
      power: Exponent of the ramp; > 0.
    """

    previous: float
    initial: float
    target: float
    begin_step: int
    end_step: int
    frequency: int
    power: float

    @property
    def last_step(self) -> int:
        """The training step before which masks are renewed for the last time."""
        return self.end_step

    def is_due(self, step: int) -> bool:
        """Returns whether masks are renewed before training step `step`."""
        if step == self.end_step:
            return True
        return self.begin_step <= step < self.end_step and (step - self.begin_step) % self.frequency == 0

    def sparsity_fraction(self, step: int) -> float:
        """Returns the sparsity of masks made before training step `step` (Zhu and Gupta 2017, eq. 1)."""
        if step < self.begin_step:
            return self.previous
        if step >= self.end_step:
            return self.target
        left = 1 - (step - self.begin_step) / (self.end_step - self.begin_step)
        return max(self.previous, self.target + (self.initial - self.target) * math.pow(left, self.power))

    def for_weight(self, previous: float, target: float) -> "MaskPlan":
        """Returns the same steps for a weight with a sparsity of its own; `initial` is at most its target."""
        if self.initial == self.target:
            initial = target
        else:
            initial = previous if self.initial == self.previous else min(self.initial, target)
        return dataclasses.replace(self, previous=previous, initial=initial, target=target)


def plan(
    schedule: PolynomialDecay | ConstantSparsity, previous: float, target: float, num_steps: int, rung: str
) -> MaskPlan:
    """Returns when the masks of a rung are renewed.

    Args:
      schedule: As the author asks for it; without an end, the steps after `begin_step` are halved: sparsity
        rises, then the rung is fine-tuned with fixed masks.
      previous: Sparsity of the rung before; in [0, target].
      target: Of this rung; in [0, 1).
      num_steps: Training steps of this rung.
      rung: For messages, its name and where its steps come from: "'s75' (9909 rows in batches of 128 over 12
        epochs)".

    Raises:
      ConfigError: There are fewer than two steps, the schedule begins or ends after the last one, or sparsity
        would fall.
    """
    where = f"rung {rung} has {num_steps} steps"
    last = num_steps - 1
    if num_steps < 2:
        raise ConfigError(
            f"A sparse rung must have at least 2 steps; {where}. Lower batch_size or raise fine_tune_epochs."
        )
    begin = schedule.begin_step
    if begin > last:
        raise ConfigError(
            f"begin_step must be at most {last}, the last step; got {begin}; {where}. Lower it or raise "
            "fine_tune_epochs."
        )
    end = begin + (num_steps - begin) // 2 if schedule.end_step is None else schedule.end_step
    if end > last:
        raise ConfigError(
            f"end_step must be at most {last}, the last step; got {end}; {where}. Lower it, leave it out, or "
            "raise fine_tune_epochs."
        )
    if previous > target:
        raise ConfigError(f"Sparsity must not fall; rung {rung} goes from {previous:g} to {target:g}.")
    initial, power = target, 1.0
    if isinstance(schedule, PolynomialDecay):
        chosen = schedule.initial_sparsity_fraction
        initial, power = previous if chosen is None else chosen, schedule.power
    if initial > target:
        raise ConfigError(
            f"initial_sparsity_fraction must be at most the sparsity of the rung; got {initial:g}; rung "
            f"{rung} has {target:g}. Lower it, or leave it out to start at the rung before."
        )
    frequency = schedule.frequency or max(1, -(-(end - begin) // _RENEWALS))
    return MaskPlan(previous, initial, target, begin, end, frequency, power)
