"""The training's page: what its sentences, its table and its figures say of a ladder."""

import dataclasses
import doctest
import html.parser
import json
import math
import re
from typing import Any

import pytest
from plotly import graph_objects, offline

from tfx_mobile.common.ladder import Epoch, Ladder, LayerSparsity, Rung, Twin, rung_name
from tfx_mobile.pruning_trainer import page
from tfx_mobile.pruning_trainer.allocation import Sensitivity
from tfx_mobile.pruning_trainer.config import Pruning, TrainerConfig, Units

HOSTILE = "<b>x</b></script><script>alert(2)</script><img src=x>\u2028&\"'%{meta}"
CONFIG = TrainerConfig(label_key="fare", build_model="a.b")
UNITS = dataclasses.replace(CONFIG, pruning=Pruning(structure=Units()))


def rung(target: float, loss: float, twin: Twin = Twin.PLAIN, **changes: Any) -> Rung:
    made = Rung(
        name=rung_name(target, twin),
        target_fraction=target,
        layers=(
            LayerSparsity("one/kernel", 1000, round(1000 * target)),
            LayerSparsity("two/kernel", 200, round(190 * target)),
        ),
        num_parameters=1250,
        validation={"mae": loss + 1, "loss": loss},
        twin=twin,
        history=tuple(
            Epoch(10 * n, target, {"loss": loss + 1 / n, "val_loss": loss + 2 / n}) for n in (1, 2, 3)
        ),
        seconds=100.0,
    )
    return dataclasses.replace(made, **changes)


LADDER = Ladder((rung(0.0, 0.4), rung(0.5, 0.39), rung(0.75, 0.406), rung(0.9, 0.5)), "s75")


def own_parts(text: str) -> str:
    assert text.count(offline.get_plotlyjs()) == 1
    return text.replace(offline.get_plotlyjs(), "")


def figures_of(ladder: Ladder, config: TrainerConfig = CONFIG, curves: Any = ()) -> dict[str, Any]:
    text = own_parts(page.page(ladder, config, curves))
    return dict(json.loads(text.split("const figures = ")[1].split(";\nfunction paint")[0]))


class Reader(html.parser.HTMLParser):
    """Gathers elements, rows of the table, and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.rows: list[list[str]] = []
        self.chosen: list[str] = []
        self.attributes: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        if tag == "tr":
            self.rows.append([])
            self.chosen.append(dict(attrs).get("class") or "")
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] in ("td", "th"):
            self.rows[-1][-1] += data.strip()


def test_the_verdict_says_which_rung_why_and_by_how_much_the_next_misses() -> None:
    assert page.headline(LADDER, CONFIG) == (
        "s75 is chosen: 74.3 % zeros, validation loss 1.5 % above the dense model's"
    )
    assert page.reasons(LADDER, CONFIG) == [
        "A rung keeps the budget while its validation loss is at most 2 % above the dense model's: 0.408.",
        "s75 is the sparsest that does: 0.406.",
        "The next, s90, has 0.5, 25 % above the dense model's.",
    ]


def test_a_verdict_for_each_other_outcome() -> None:
    better = Ladder(LADDER.rungs[:2], "s50")
    assert page.headline(better, CONFIG).endswith("validation loss 2.5 % below the dense model's")
    assert page.reasons(better, CONFIG)[2] == "It is the sparsest that was asked for: more may be possible."
    strict = dataclasses.replace(CONFIG, max_increase_fraction=0.0)
    none = Ladder((rung(0.0, 0.4), rung(0.5, 0.6), rung(0.75, 0.5)), "s0")
    assert page.headline(none, strict) == "The dense model is chosen"
    assert page.reasons(none, strict) == [
        "A rung keeps the budget while its validation loss is at most the dense model's: 0.4.",
        "No sparse rung does; the best, s75, has 0.5, 25 % above the dense model's.",
    ]
    assert page.reasons(Ladder((rung(0.0, 0.4),), "s0"), CONFIG) == ["No sparse rung was asked for."]
    same = Ladder((rung(0.0, 0.4), rung(0.5, 0.4)), "s50")
    assert page.headline(same, CONFIG) == (
        "s50 is chosen: 49.6 % zeros, validation loss equal to the dense model's"
    )
    assert page.headline(same, UNITS).startswith("s50 is chosen: 50 % of the units removed, ")


def test_a_twin_is_neither_the_next_nor_the_best() -> None:
    twins = [rung(0.75, 0.1, Twin.REWOUND), rung(0.75, 0.1, Twin.CLUSTERED)]
    ladder = Ladder((*LADDER.rungs[:3], *twins, LADDER.rungs[3]), "s75")
    assert page.reasons(ladder, CONFIG) == page.reasons(LADDER, CONFIG)


def test_a_loss_below_zero_and_one_of_zero_have_a_budget_too() -> None:
    below = Ladder((rung(0.0, -2.0), rung(0.5, -1.97), rung(0.75, -1.95)), "s50")
    assert page.reasons(below, CONFIG)[0].endswith(": -1.96.")
    assert page.headline(below, CONFIG).endswith("1.5 % above the dense model's")
    zero = Ladder((rung(0.0, 0.0), rung(0.5, 0.0)), "s50")
    assert Reader(own_parts(page.page(zero, CONFIG))).rows[2][7] == "-"


def test_the_table_has_every_rung_and_marks_the_chosen_one() -> None:
    ladder = Ladder((*LADDER.rungs, rung(0.9, 0.41, Twin.QUANTIZATION_AWARE, history=(), seconds=0.0)), "s75")
    found = Reader(own_parts(page.page(ladder, CONFIG)))
    pruned, same = "pruned", ["3", "30", "1 min 40 s"]
    assert found.rows == [
        [
            *("rung", "model", "zeros asked for", "zeros", "parameters", "not zero", "loss", "over dense"),
            *("budget", "mae", "epochs", "steps", "time"),
        ],
        ["s0", "dense", "0 %", "0.00 %", "1,250", "1,250", "0.4", "", "", "1.4", *same],
        ["s50", pruned, "50 %", "49.58 %", "1,250", "655", "0.39", "-2.50 %", "kept", "1.39", *same],
        [
            *("s75", f"{pruned}, chosen", "75 %", "74.33 %", "1,250", "358", "0.406", "+1.50 %", "kept"),
            *("1.406", *same),
        ],
        ["s90", pruned, "90 %", "89.25 %", "1,250", "179", "0.5", "+25.00 %", "exceeded", "1.5", *same],
        [
            *("s90-qat", "trained for int8", "90 %", "89.25 %", "1,250", "179", "0.41", "+2.50 %"),
            *("exceeded", "1.41", "0", "0", "0.0 s"),
        ],
    ]
    assert found.chosen == ["", "", "", "chosen", "", ""]


def test_loss_and_first_metric_are_drawn_against_sparsity_with_the_budget() -> None:
    ladder = Ladder(
        (*LADDER.rungs, rung(0.9, math.inf, Twin.CLUSTERED), rung(0.9, 0.41, Twin.REWOUND)), "s75"
    )
    figures = figures_of(ladder)
    plain, rewound = figures["loss"]["data"]
    assert (plain["x"], plain["y"]) == ([0.0, 50.0, 75.0, 90.0], [0.4, 0.39, 0.406, 0.5])
    assert [size > 9 for size in plain["marker"]["size"]] == [False, False, True, False]
    assert (rewound["name"], rewound["x"], rewound["y"]) == ("rewound", [90.0], [0.41])
    (line,) = figures["loss"]["layout"]["shapes"]
    assert (line["y0"], line["y1"], line["x0"], line["x1"]) == (0.408, 0.408, 0, 1)
    assert figures["metric"]["data"][0]["y"] == [1.4, 1.39, 1.406, 1.5]
    assert "shapes" not in figures["metric"]["layout"]
    assert figures["loss"]["layout"]["xaxis"]["title"]["text"] == "zeros asked for, %"
    units = figures_of(LADDER, UNITS)
    assert units["loss"]["layout"]["xaxis"]["title"]["text"] == "units removed, %"


def test_steps_follow_each_other_with_gaps_between_models() -> None:
    ladder = Ladder(
        (rung(0.0, 1.0), rung(0.5, 2.0), rung(0.5, 2.0, Twin.REWOUND), rung(0.75, 3.0, history=())), "s0"
    )
    figure = figures_of(ladder)["steps"]
    validation, training, sparsity = figure["data"]
    assert validation["x"] == [10, 20, 30, None, 40, 50, 60, None, 70, 80, 90, None]
    assert validation["y"][:5] == [3.0, 2.0, 1.66667, None, 4.0]
    assert training["y"][:5] == [2.0, 1.5, 1.33333, None, 3.0]
    assert sparsity["y"][2:6] == [0.0, None, 50.0, 50.0]
    assert [mark["text"] for mark in figure["layout"]["annotations"]] == ["s0", "s50"]  # twins would overlap
    assert [mark["x"] for mark in figure["layout"]["annotations"]] == [15.0, 45.0]
    assert [shape["x0"] for shape in figure["layout"]["shapes"]] == [30, 60]
    assert "type" not in figure["layout"]["yaxis"]


def test_losses_far_apart_get_a_logarithmic_axis_unless_one_is_not_above_zero() -> None:
    def axis(*losses: float) -> Any:
        history = tuple(Epoch(n, 0.0, {"loss": loss, "val_loss": loss}) for n, loss in enumerate(losses))
        return figures_of(Ladder((rung(0.0, 1.0, history=history),), "s0"))["steps"]["layout"]["yaxis"]

    assert axis(40.0, 1.0)["type"] == "log"
    assert "type" not in axis(40.0, 2.0)
    assert "type" not in axis(40.0, 0.0)


def test_a_long_history_is_thinned_but_keeps_its_last_epoch() -> None:
    history = tuple(Epoch(n, 0.0, {"loss": 1.0}) for n in range(1, 20_001))
    figure = figures_of(Ladder((rung(0.0, 1.0, history=history),), "s0"))["steps"]
    assert len(figure["data"][0]["x"]) < 4100
    assert figure["data"][0]["x"][-2] == 20_000
    assert set(figure["data"][0]["y"]) == {None}  # no validation loss in it


def test_what_is_gone_of_each_weight_is_zeros_or_removed() -> None:
    smaller = rung(0.5, 1.0, layers=(LayerSparsity("one/kernel", 250, 0), LayerSparsity("new", 10, 5)))
    figure = figures_of(Ladder((rung(0.0, 1.0), rung(0.9, 1.0), smaller), "s0"))["layers"]
    (trace,) = figure["data"]
    assert trace["x"] == ["s0", "s90", "s50"]
    assert figure["layout"]["yaxis"]["ticktext"] == ["one/kernel", "two/kernel", "new"]
    assert trace["z"] == [[0.0, 90.0, 75.0], [0.0, 85.5, None], [None, None, 50.0]]


def test_of_many_weights_the_largest_are_shown_in_the_models_order() -> None:
    layers = tuple(LayerSparsity(f"w{n}", 100 + n % 50, 10) for n in range(60))
    ladder = Ladder((rung(0.0, 1.0, layers=layers),), "s0")
    shown = figures_of(ladder)["layers"]["layout"]["yaxis"]["ticktext"]
    assert len(shown) == 40
    assert shown == sorted(shown, key=lambda name: int(name[1:]))
    assert min(int(name[1:]) % 50 for name in shown) >= 10
    assert "The 40 largest of 60 weights are shown" in page.page(ladder, CONFIG)


def test_sensitivity_is_drawn_from_zero_the_most_sensitive_first() -> None:
    curves = [Sensitivity(f"w{n}", 10, (0.5, 0.9), (0.0, n / 10)) for n in range(12)]
    figure = figures_of(LADDER, curves=curves)["sensitivity"]
    assert [trace["name"] for trace in figure["data"]] == [f"w{n}" for n in range(11, 1, -1)]
    assert (figure["data"][0]["x"], figure["data"][0]["y"]) == ([0.0, 50.0, 90.0], [0.0, 0.0, 1.1])
    assert "The 10 most sensitive of 12 weights are shown." in page.page(LADDER, CONFIG, curves)
    assert "sensitivity" not in figures_of(LADDER)


def test_a_dense_model_that_was_trained_before_has_no_empty_pictures() -> None:
    ladder = Ladder((rung(0.0, 0.4, history=(), layers=(), validation={"loss": 0.4}),), "s0")
    assert set(figures_of(ladder)) == {"loss"}
    assert "shapes" not in figures_of(ladder)["loss"]["layout"]


@pytest.mark.parametrize("config", [CONFIG, UNITS])
def test_plotly_accepts_every_figure_and_each_has_its_place(config: TrainerConfig) -> None:
    curves = [Sensitivity("w", 10, (0.5,), (0.1,))]
    figures = figures_of(LADDER, config, curves)
    assert set(figures) == {"loss", "metric", "steps", "layers", "sensitivity"}
    text = own_parts(page.page(LADDER, config, curves))
    for name, figure in figures.items():
        graph_objects.Figure(figure)  # refuses what it does not know
        assert text.count(f'id="{name}"') == 1


def test_hostile_names_stay_text_in_the_page_and_in_the_figures() -> None:
    layers = (LayerSparsity(HOSTILE, 10, 5),)
    metrics = {"loss": 0.4, HOSTILE: 1.0}
    bad = rung(0.5, 0.4, name=HOSTILE, layers=layers, validation=metrics)
    ladder = Ladder((rung(0.0, 0.4, validation=metrics), bad), HOSTILE)
    curves = [Sensitivity(HOSTILE, 1, (0.5,), (1.0,))]
    found = Reader(own_parts(page.page(ladder, CONFIG, curves)))
    assert found.tags.count("script") == 2
    assert "img" not in found.tags
    assert "b" not in found.tags
    assert not [name for name in found.attributes if name.startswith("on")]
    assert found.rows[2][0] == HOSTILE
    every = json.dumps(figures_of(ladder, curves=curves))
    assert "<" not in every.replace("<extra></extra>", "").replace("<br>", "")


def test_the_loss_comes_first_whatever_other_metrics_are_called() -> None:
    metrics = {"accuracy": 0.9, "loss": 0.4, "auc": 0.8}
    ladder = Ladder((rung(0.0, 0.4, validation=metrics),), "s0")
    assert Reader(own_parts(page.page(ladder, CONFIG))).rows[0][6:] == [
        *("loss", "over dense", "budget", "accuracy", "auc", "epochs", "steps", "time")
    ]
    assert figures_of(ladder)["metric"]["data"][0]["y"] == [0.9]


def test_the_same_ladder_gives_the_same_page_and_it_loads_nothing() -> None:
    text = page.page(LADDER, CONFIG)
    assert text == page.page(Ladder.from_json(LADDER.to_json()), TrainerConfig.from_json(CONFIG.to_json()))
    assert not re.search(r"(src|href)=|url\(|@import", own_parts(text))


def test_examples_in_docstrings_are_true() -> None:
    assert doctest.testmod(page) == doctest.TestResults(failed=0, attempted=1)
