"""Evaluations made up for tests of what is shown: one with every section filled, and smaller ones.

The numbers follow simple rules, so that a test can say what must be on a page.
"""

import dataclasses
import hashlib
import random

from tfx_mobile.common.releases import Release
from tfx_mobile.size_latency_evaluator.config import (
    SMALLEST,
    AccuracyGate,
    LatencyGate,
    Metric,
    RelativeTo,
    SizeGate,
)
from tfx_mobile.size_latency_evaluator.evaluation import (
    QUANTILES,
    SCHEMA_VERSION,
    CandidateResult,
    Evaluation,
    Interval,
    LatencyResult,
    Machine,
    ReportedMetric,
    SliceResult,
    Status,
    Verdict,
    WeightResult,
)

HOSTILE = "s9-<img src=x onerror=alert(1)></script><script>alert(2)</script>\u2028&\"'|`*@all"
COMPANIES = ("Flash Cab", "Sun Taxi", "Blue Ribbon", "Zürich Töff & Söhne", "City Service", "無線タクシー")
SHARES = {"s0": 0.0, "s50": 0.5, "s75": 0.75, "s90": 0.9}
# by mode: bytes of a weight, error added, time
MODES = {
    "float32": (4.0, 0.0, 21.0),
    "float16": (2.0, 0.001, 20.6),
    "dynamic_range": (1.0, 0.012, 9.4),
    "int8": (1.0, 0.03, 8.1),
}
NUM_WEIGHTS = 60_000
PROCESSES = 5
SLICE_GATE = "rmse increase <= 10% vs reference"
GATES = (
    AccuracyGate(Metric.RMSE, max_increase_fraction=0.05),
    SizeGate(max_ratio=0.25),
    LatencyGate(max_ratio=1.05, relative_to=RelativeTo.BASELINE),
)
GATE_WORDS = (
    "rmse increase <= 5% vs reference",
    "gz size ratio <= 0.25 vs reference",
    "latency ratio <= 1.05 vs baseline",
)


def latency(p50_us: float, reference_us: float, *, seed: str, scale: float = 1.0) -> LatencyResult:
    """Times whose processes differ by a few percent."""
    draw = random.Random(seed)
    middles = [p50_us * (1 + draw.uniform(-0.03, 0.03)) for _ in range(PROCESSES)]
    ratio = p50_us / reference_us
    spread = {0.01: 0.93, 0.05: 0.95, 0.1: 0.96, 0.25: 0.98, 0.5: 1.0}
    spread |= {0.75: 1.05, 0.9: 1.16, 0.95: 1.28, 0.99: 1.9}
    return LatencyResult(
        p50_us=p50_us,
        p90_us=1.16 * p50_us,
        init_us=640.0 * scale,
        first_call_us=95.0 * scale,
        calls=6000,
        p50_us_by_process=tuple(middles),
        ratios_by_process=tuple(middle / reference_us for middle in middles),
        ratio=Interval(ratio, 0.98 * ratio, 1.02 * ratio),
        baseline_ratio=Interval(0.9 * ratio, 0.88 * ratio, 0.92 * ratio),
        p99_us=1.9 * p50_us,
        quantiles_us_by_process=tuple(tuple(spread[q] * middle for q in QUANTILES) for middle in middles),
        arena_bytes=round(41_000 * scale),
        heap_bytes=round(380_000 * scale),
        process_bytes=round(24_000_000 + 900_000 * scale),
        instructions=round(71_000 * p50_us / 10),
    )


def slices(rmse: float, *, worst: str = "", by: float = 1.0) -> tuple[SliceResult, ...]:
    """Slices of a file: companies and hours, each a little different; one is worse by a factor."""
    names = [f"company = {name!r}" for name in COMPANIES]
    names += [f"trip_start_hour in [{hour}, {hour + 4})" for hour in range(0, 24, 4)]
    found = []
    for place, name in enumerate(names):
        value = rmse * (0.7 + 0.06 * place) * (by if name == worst else 1.0)
        found.append(SliceResult(name, 900 - 61 * place, {"rmse": value, "mae": value / 3}))
    return tuple(found)


def weights(share: float, bytes_per_weight: float, dtype: str) -> tuple[WeightResult, ...]:
    """Constants of a small net; only the large ones are pruned."""
    found: list[WeightResult] = []
    for name, shape in (
        ("fares/hidden_1/MatMul", (256, 120)),
        ("fares/hidden_2/MatMul", (96, 256)),
        ("fares/hidden_3/MatMul", (48, 96)),
        ("fares/payment_type/embedding_lookup", (8, 12)),
        ("fares/fare/MatMul", (1, 48)),
        ("fares/hidden_1/BiasAdd", (256,)),
    ):
        count = 1
        for extent in shape:
            count *= extent
        zeros = share * (1 + 0.04 * (len(found) - 1)) if count > 1000 else 0.0
        found.append(
            WeightResult(name, dtype, shape, round(bytes_per_weight * count), min(1.0, max(0.0, zeros)))
        )
    return tuple(sorted(found, key=lambda weight: -weight.size_bytes))


def breakdown(size_bytes: int) -> dict[str, int]:
    """Kinds that add up to the size."""
    rest = {"vocabularies": 942, "quantization": 1280, "strings": 3630, "metadata": 1136, "structure": 6552}
    return {"weights": size_bytes - sum(rest.values()) - 60, **rest, "padding": 60}


def candidate(rung: str, mode: str, *, rmse_of_dense: float = 2.0) -> CandidateResult:
    """A candidate by its rung's sparsity and its mode's bytes."""
    share = SHARES[rung]
    bytes_per_weight, extra, p50_us = MODES[mode]
    name = f"{rung}-{mode}"
    size = round(NUM_WEIGHTS * bytes_per_weight) + 13_600
    gz = round(NUM_WEIGHTS * bytes_per_weight * (0.92 - 0.8 * share)) + 4_000
    reference_gz = round(NUM_WEIGHTS * 4 * 0.92) + 4_000
    rmse = rmse_of_dense * (1 + extra + 0.05 * share**6)
    timed = latency(p50_us, 21.0, seed=name, scale=0.4 + bytes_per_weight / 6)
    increase, ratio = rmse / rmse_of_dense - 1, gz / reference_gz
    baseline_ratio = timed.baseline_ratio.high if timed.baseline_ratio else 0.0
    made = [
        verdict(GATE_WORDS[0], increase, 0.05, bound=increase + 0.004),
        verdict(GATE_WORDS[1], ratio, 0.25),
        verdict(GATE_WORDS[2], baseline_ratio / 1.02, 1.05, bound=baseline_ratio),
    ]
    worst = f"company = {COMPANIES[3]!r}"
    by = 1.0 + 2 * extra + (0.09 if share == 0.9 else 0.0)
    known, others = slices(rmse, worst=worst, by=by), slices(rmse_of_dense)
    for part, other in zip(known, others, strict=True):
        rise = part.metrics["rmse"] / other.metrics["rmse"] - 1
        made.append(verdict(f"{SLICE_GATE} where {part.name}", rise, 0.1, bound=rise + 0.01))
    return CandidateResult(
        name=name,
        rung=rung,
        mode=mode,
        sparsity_fraction=share,
        sha256=hashlib.sha256(name.encode()).hexdigest(),
        size_bytes=size,
        gz_size_bytes=gz,
        metrics={"rmse": rmse, "mae": rmse / 3},
        latency=timed,
        verdicts=tuple(made),
        passes=all(one.lets_through for one in made),
        score=-1.0,
        slices=known,
        weights=weights(share, bytes_per_weight, "int8" if bytes_per_weight == 1 else mode),
        breakdown_bytes=breakdown(size),
    )


def verdict(gate: str, value: float, limit: float, *, bound: float | None = None) -> Verdict:
    """A verdict by its margin."""
    held = value if bound is None else bound
    status = Status.PASS if held <= limit else Status.FAIL
    words = f"{value:.4g} {'keeps' if status is Status.PASS else 'breaks'} the limit {limit:g}."
    return Verdict(gate, status, words, value, bound, limit, limit - held)


FAILED = CandidateResult("s90-int4", "s90", "int4", 0.9, failure="The quantizer has no file: it refused.")


def full() -> Evaluation:
    """Everything filled: slices, gates on them, quantiles, memory, layers, breakdown, history, provenance."""
    found = [candidate(rung, mode) for rung in SHARES for mode in MODES]
    passing = sorted((one for one in found if one.passes), key=lambda one: one.gz_size_bytes)
    baseline = dataclasses.replace(
        candidate("s50", "int8", rmse_of_dense=2.05),
        name="baseline",
        rung="",
        mode="",
        verdicts=(),
        passes=False,
        score=None,
    )
    return Evaluation(
        schema_version=SCHEMA_VERSION,
        blessed=True,
        chosen=passing[0].name,
        reason=(
            f"{passing[0].name!r} is the smallest of {len(passing)} candidates that pass every gate: "
            f"{passing[0].gz_size_bytes:,} gz bytes."
        ),
        overridden=False,
        override=None,
        label_key="fare",
        eval_split="eval",
        eval_rows=4941,
        metrics=(ReportedMetric("rmse", False), ReportedMetric("mae", False)),
        gates=GATES,
        objective=SMALLEST,
        reference="s0-float32",
        first_release=False,
        baseline=baseline,
        candidates=(*found, FAILED),
        machine=Machine(
            "An eight-core CPU",
            8,
            True,
            0.51,
            0.62,
            "Linux 6.1 x86_64",
            "ai-edge-litert 2.3.0",
            5,
            12.5,
            "local",
            "performance",
        ),
        history=tuple(
            Release(
                version=version,
                published=f"2026-0{version}-11T08:00:00+00:00",
                size_bytes=90_000 - 4_000 * version,
                gz_size_bytes=62_000 - 5_000 * version,
                metrics={"rmse": 2.2 - 0.03 * version, "mae": 0.7},
                latency_p50_us=11.0,
            )
            for version in (1, 2, 3, 4)
        ),
        provenance={
            "pipeline": "taxi-fare",
            "run": "2026-05-01T10:00:00",
            "tfx_mobile": "0.1.0",
            "examples": "sha256 " + hashlib.sha256(b"rows").hexdigest(),
        },
    )


def many(count: int = 60) -> Evaluation:
    """So many candidates, each a little larger and better than the one before."""
    start = full()
    model = candidate("s75", "dynamic_range")
    found = [
        dataclasses.replace(
            model,
            name=f"s75-variant_{place:02d}",
            gz_size_bytes=model.gz_size_bytes + 731 * place,
            metrics={"rmse": 2.2 - 0.002 * place, "mae": 0.7},
        )
        for place in range(count - 1)
    ]
    return dataclasses.replace(
        start,
        chosen=found[0].name,
        candidates=(candidate("s0", "float32"), *found),
        reason="One of many.",
    )


def nothing_runs() -> Evaluation:
    """No candidate can be run, and there was no release before."""
    return dataclasses.replace(
        full(),
        blessed=False,
        chosen="",
        reason="No candidate can be run.",
        candidates=(FAILED, dataclasses.replace(FAILED, name="s0-float32")),
        baseline=None,
        first_release=True,
        history=(),
        provenance=None,
    )


def hostile() -> Evaluation:
    """Names, slices, weights, gates, metrics and provenance that are HTML, scripts, or very long."""
    long = "a_very_long_name_without_any_break_" * 8
    start = full()
    odd = dataclasses.replace(
        candidate("s75", "int8"),
        name=HOSTILE,
        slices=tuple(SliceResult(f"{HOSTILE} {i}", 5, {"rmse": 2.0 + i, "mae": 1.0}) for i in range(3)),
        weights=(
            WeightResult(HOSTILE, "int8", (3, 3), 9, 0.5),
            WeightResult(long, HOSTILE, (), 1, 1.0),
        ),
        breakdown_bytes={HOSTILE: 5, "weights": 7},
        verdicts=(verdict(HOSTILE, 1.0, 2.0), verdict(f"{long} where {HOSTILE} 1", 1.0, 0.5)),
    )
    return dataclasses.replace(
        start,
        chosen=HOSTILE,
        reason=f"{HOSTILE} {long}",
        candidates=(
            *start.candidates[:2],
            odd,
            dataclasses.replace(FAILED, name=long, failure=HOSTILE),
        ),
        metrics=(ReportedMetric("rmse", None), ReportedMetric(HOSTILE, None)),
        provenance={HOSTILE: long},
    )
