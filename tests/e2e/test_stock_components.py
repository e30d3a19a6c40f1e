"""Each component beside TFX's own: a pipeline whose other parts are stock."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e


def components(folder: Path):
    """Ours and stock ones, wired into each other."""
    from tensorflow_model_analysis.proto import config_pb2
    from tfx import v1 as tfx

    from taxi_fare import data
    from tfx_mobile.dimensionality_reducer.component import DimensionalityReducer
    from tfx_mobile.dimensionality_reducer.config import PCA
    from tfx_mobile.pruning_trainer.component import PruningTrainer
    from tfx_mobile.quantizer.component import Quantizer
    from tfx_mobile.quantizer.config import Mode
    from tfx_mobile.registry_pusher.component import RegistryPusher
    from tfx_mobile.size_latency_evaluator.component import SizeLatencyEvaluator
    from tfx_mobile.size_latency_evaluator.config import LatencyConfig

    module = "stock_module"
    splits = [tfx.proto.Input.Split(name=n, pattern=p) for n, p in data.chicago().splits]
    example_gen = tfx.components.ImportExampleGen(
        input_base=data.chicago().folder, input_config=tfx.proto.Input(splits=splits)
    )
    raw = example_gen.outputs["examples"]
    statistics_gen = tfx.components.StatisticsGen(examples=raw)
    schema_gen = tfx.components.SchemaGen(statistics=statistics_gen.outputs["statistics"])
    transform = tfx.components.Transform(
        examples=raw, schema=schema_gen.outputs["schema"], preprocessing_fn=f"{module}.preprocessing_fn"
    )
    reducer = DimensionalityReducer(
        examples=transform.outputs["transformed_examples"],
        transform_graph=transform.outputs["transform_graph"],
        reductions=[PCA(inputs=("pickup_latitude_z", "pickup_longitude_z"), output="place", n_components=1)],
    )
    trainer = tfx.components.Trainer(
        run_fn=f"{module}.run_fn",
        examples=reducer.outputs["reduced_examples"],
        transform_graph=reducer.outputs["reduced_transform_graph"],
        train_args=tfx.proto.TrainArgs(num_steps=300),
        eval_args=tfx.proto.EvalArgs(num_steps=1),
    )
    pruning_trainer = PruningTrainer(
        examples=transform.outputs["transformed_examples"],
        transform_graph=transform.outputs["transform_graph"],
        build_model=f"{module}.build_model",
        label_key="fare",
        sparsities=(0.0,),
        epochs=3,
    )
    eval_config = config_pb2.EvalConfig(
        model_specs=[config_pb2.ModelSpec(label_key="fare")],
        slicing_specs=[config_pb2.SlicingSpec(), config_pb2.SlicingSpec(feature_keys=["payment_type"])],
        metrics_specs=[
            config_pb2.MetricsSpec(
                metrics=[
                    config_pb2.MetricConfig(
                        class_name="RootMeanSquaredError",
                        threshold=config_pb2.MetricThreshold(
                            value_threshold=config_pb2.GenericValueThreshold(upper_bound={"value": 1000.0})
                        ),
                    )
                ]
            )
        ],
    )
    stock_evaluator = tfx.components.Evaluator(
        examples=raw, model=trainer.outputs["model"], eval_config=eval_config
    ).with_id("StockEvaluator")
    pruned_evaluator = tfx.components.Evaluator(
        examples=raw, model=pruning_trainer.outputs["model"], eval_config=eval_config
    ).with_id("EvaluatorOfPruningTrainer")
    quantizer = Quantizer(
        examples=raw,
        model=trainer.outputs["model"],
        transform_graph=reducer.outputs["reduced_transform_graph"],
        modes=(Mode.FLOAT32, Mode.DYNAMIC_RANGE),
    )
    evaluator = SizeLatencyEvaluator(
        candidates=quantizer.outputs["candidates"],
        examples=raw,
        eval_config=eval_config,
        upstream_blessing=stock_evaluator.outputs["blessing"],
        latency=LatencyConfig(processes=(2,), seconds_per_process=0.2),
    )
    stock_pusher = tfx.components.Pusher(
        model=evaluator.outputs["model"],
        model_blessing=evaluator.outputs["blessing"],
        push_destination=tfx.proto.PushDestination(
            filesystem=tfx.proto.PushDestination.Filesystem(base_directory=str(folder / "pushed"))
        ),
    ).with_id("StockPusher")
    registry_pusher = RegistryPusher(
        model=evaluator.outputs["model"],
        blessing=stock_evaluator.outputs["blessing"],
        upstream_blessing=pruned_evaluator.outputs["blessing"],
        registry=folder / "registry",
        model_name="stock",
    )
    return [
        example_gen,
        statistics_gen,
        schema_gen,
        transform,
        reducer,
        trainer,
        pruning_trainer,
        stock_evaluator,
        pruned_evaluator,
        quantizer,
        evaluator,
        stock_pusher,
        registry_pusher,
    ]


@pytest.fixture(scope="session")
def stock_run(tmp_path_factory):
    """The pipeline, run once; its folder and what it put out."""
    from tfx_mobile.orchestration import local

    folder = tmp_path_factory.mktemp("stock")
    pipeline = local.local_pipeline("stock", components(folder), folder)
    return folder, local.run(pipeline, log_file=folder / "run.log").outputs


def test_the_stock_trainer_trains_on_reduced_examples(stock_run):
    import tensorflow_transform as tft

    _, outputs = stock_run
    graph = tft.TFTransformOutput(outputs["DimensionalityReducer"]["reduced_transform_graph"][0].uri)
    assert set(graph.transformed_feature_spec()) == {"trip_miles_z", "trip_seconds_z", "place", "fare"}
    assert (Path(outputs["Trainer"]["model"][0].uri) / "Format-Serving" / "saved_model.pb").exists()


def test_the_stock_evaluator_blesses_a_pruning_trainers_model(stock_run):
    _, outputs = stock_run
    assert outputs["EvaluatorOfPruningTrainer"]["blessing"][0].properties["blessed"] == 1


def test_a_stock_trainers_model_becomes_candidates_that_take_raw_features(stock_run):
    from tfx_mobile.common import candidates
    from tfx_mobile.common.interpreter import TFLiteModel

    _, outputs = stock_run
    folder = Path(outputs["Quantizer"]["candidates"][0].uri)
    found = candidates.read(folder)
    assert [c.name for c in found.usable()] == ["model-float32", "model-dynamic_range"]
    model = TFLiteModel(candidates.model_path(folder, "model-float32"))
    assert set(model.inputs) == {"trip_miles", "trip_seconds", "pickup_latitude", "pickup_longitude"}


def test_the_stock_pusher_takes_our_blessing_and_pushes_the_chosen_file(stock_run):
    folder, outputs = stock_run
    assert outputs["StockPusher"]["pushed_model"][0].properties["pushed"] == 1
    chosen = Path(outputs["SizeLatencyEvaluator"]["model"][0].uri) / "Format-Serving" / "tflite"
    (pushed,) = (folder / "pushed").glob("*/tflite")
    assert pushed.read_bytes() == chosen.read_bytes()


def test_our_evaluator_takes_the_stock_evaluators_blessing_as_one_that_is_needed(stock_run):
    _, outputs = stock_run
    assert outputs["StockEvaluator"]["blessing"][0].properties["blessed"] == 1
    assert outputs["SizeLatencyEvaluator"]["blessing"][0].properties["blessed"] == 1


def test_the_stock_evaluators_config_gives_our_evaluator_its_numbers_and_gates(stock_run):
    import tensorflow_model_analysis as tfma

    from tfx_mobile.size_latency_evaluator.evaluation import load_evaluation

    _, outputs = stock_run
    metric = "root_mean_squared_error"
    stock = tfma.load_eval_result(outputs["StockEvaluator"]["evaluation"][0].uri)
    by_slice = {
        ", ".join(f"{name} = {value!r}" for name, value in key): metrics["root_mean_squared_error"][
            "doubleValue"
        ]
        for key, by_output in stock.slicing_metrics
        for metrics in [by_output[""][""]]
    }
    evaluation = load_evaluation(outputs["SizeLatencyEvaluator"]["evaluation"][0].uri)
    (float32,) = (found for found in evaluation.candidates if found.name == "model-float32")

    # The stock one ran the SavedModel, ours the file made of it: float32, added up in another order.
    ours = {found.name: found.metrics[metric] for found in float32.slices}
    assert {"": float32.metrics[metric], **ours} == pytest.approx(by_slice, rel=1e-4)
    assert len(by_slice) > 2
    # For all rows, and for each payment type.
    assert [verdict.limit for verdict in float32.verdicts] == [1000.0, 1000.0]


def test_our_pusher_takes_the_stock_evaluators_blessing(stock_run):
    from tfx_mobile.registry.store import Registry

    folder, outputs = stock_run
    assert outputs["RegistryPusher"]["pushed_model"][0].properties["pushed"] == 1
    assert Registry(folder / "registry").channels("stock") == {"stable": 1}
