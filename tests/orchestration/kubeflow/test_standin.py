"""The stand-in refuses what the server refuses; commands of a shell take the place of components."""

import json
import re
import sys

import pytest
from tests.orchestration.kubeflow.standin import LOGS, Refused, StandIn, properties

SAY = """
import json, pathlib, sys
outputs = json.loads(sys.argv[1])["outputs"]
said = {key: each for key, each in outputs["artifacts"].items() if key != "executor-logs"}
for each in said.values():
    each["artifacts"][0].setdefault("metadata", {})["count"] = 2
%s
file = pathlib.Path(outputs["outputFile"])
local = file.parent / "model"
(local / "none").mkdir(parents=True)
(local / "file").write_text("content")
%s
file.write_text(json.dumps({"artifacts": said}))
"""


def spec_of(before="", after=""):
    """Returns a pipeline whose first task `make` puts out `model`, and whose task `use` needs it."""
    model = {"artifactType": {"instanceSchema": "title: tfx.Model"}}
    components = {
        "make": {
            "executorLabel": "make",
            "inputDefinitions": {"parameters": {"epochs": {"parameterType": "NUMBER_INTEGER"}}},
            "outputDefinitions": {"artifacts": {"model": model}},
        },
        "use": {"executorLabel": "use", "inputDefinitions": {"artifacts": {"model": model}}},
    }
    tasks = {
        "use": {
            "componentRef": {"name": "use"},
            "dependentTasks": ["make"],
            "inputs": {
                "artifacts": {
                    "model": {"taskOutputArtifact": {"producerTask": "make", "outputArtifactKey": "model"}}
                }
            },
        },
        "make": {
            "componentRef": {"name": "make"},
            "inputs": {"parameters": {"epochs": {"componentInputParameter": "epochs"}}},
        },
    }
    use = "import json, pathlib, sys; o = json.loads(sys.argv[1])['outputs']; "
    use += "pathlib.Path(o['outputFile']).write_text('{}')"
    executors = {
        "make": {"container": {"command": [sys.executable, "-c", SAY % (before, after)], "args": ["{{$}}"]}},
        "use": {"container": {"command": [sys.executable, "-c", use], "args": ["{{$}}"]}},
    }
    return {
        "pipelineInfo": {"name": "tiny"},
        "components": components,
        "deploymentSpec": {"executors": executors},
        "root": {
            "inputDefinitions": {
                "parameters": {"epochs": {"parameterType": "NUMBER_INTEGER", "defaultValue": 3.0}}
            },
            "dag": {"tasks": tasks},
        },
    }


def test_a_later_task_gets_files_and_properties_but_no_type(tmp_path):
    server = StandIn(tmp_path)
    runs = server.run(spec_of())
    assert list(runs) == ["make", "use"]
    (model,) = runs["use"].invocation["inputs"]["artifacts"]["model"]["artifacts"]
    assert model["type"] == {"instanceSchema": ""}
    assert properties(model) == {"count": 2.0}
    assert re.fullmatch(
        r"minio://mlpipeline/v2/artifacts/tiny/[0-9a-f-]{36}/make/[0-9a-f-]{36}/model", model["uri"]
    )
    staged = runs["use"].pod / model["uri"].replace("://", "/")
    assert (staged / "file").read_text() == "content"


def test_the_object_store_has_no_empty_folders(tmp_path):
    server = StandIn(tmp_path)
    runs = server.run(spec_of())
    stored = server.stored(runs["make"].artifacts["model"]["uri"])
    assert [path.name for path in stored.rglob("*")] == ["file"]
    assert (runs["make"].pod / runs["make"].artifacts["model"]["uri"].replace("://", "/") / "none").is_dir()


@pytest.mark.parametrize(("given", "wanted"), [({}, 3.0), ({"epochs": 5}, 5.0)])
def test_a_parameter_of_the_run_has_its_default_or_what_was_given_as_float64(tmp_path, given, wanted):
    runs = StandIn(tmp_path).run(spec_of(), given)
    found = runs["make"].invocation["inputs"]["parameterValues"]["epochs"]
    assert (type(found), found) == (float, wanted)


def test_a_parameter_that_the_pipeline_does_not_have_or_that_is_missing_is_refused(tmp_path):
    with pytest.raises(Refused, match=re.escape("The run's parameters are ['epochs']; got ['epoch'].")):
        StandIn(tmp_path).run(spec_of(), {"epoch": 5})
    spec = spec_of()
    del spec["root"]["inputDefinitions"]["parameters"]["epochs"]["defaultValue"]
    with pytest.raises(Refused, match=re.escape("The run needs the parameters ['epochs'].")):
        StandIn(tmp_path).run(spec)


def test_a_failed_task_stops_the_run_and_its_log_is_kept(tmp_path):
    runs = StandIn(tmp_path).run(spec_of(before="print('NO'); sys.exit(3)"))
    assert list(runs) == ["make"]
    assert (runs["make"].status, runs["make"].log, runs["make"].artifacts) == (3, "NO\n", {})


@pytest.mark.parametrize("publish_logs", [True, False])
def test_a_task_has_an_output_for_its_log_unless_that_is_turned_off(tmp_path, publish_logs):
    runs = StandIn(tmp_path, publish_logs=publish_logs).run(spec_of())
    assert (LOGS in runs["make"].invocation["outputs"]["artifacts"]) == publish_logs


@pytest.mark.parametrize(
    ("before", "after", "refusal"),
    [
        ("", "said = {}", "Task make must say what it put out; got []."),
        ("", "said['more'] = said['model']", "Task make must say what it put out; got ['model', 'more']."),
        ("", "said['model']['artifacts'][0]['uri'] = 'gs://b/m'", "; got gs://b/m."),
        ("", "import shutil; shutil.rmtree(local)", "Task make must make "),
        ("", "sys.exit(0)", "output_metadata.json; it has not."),
        (
            "",
            "said['model']['artifacts'][0]['metadata']['count'] = None",
            "A metadata value must not be None.",
        ),
    ],
)
def test_a_task_that_ends_well_without_what_was_asked_is_refused(tmp_path, before, after, refusal):
    with pytest.raises(Refused, match=re.escape(refusal)):
        StandIn(tmp_path).run(spec_of(before, after))


@pytest.mark.parametrize(
    ("executor", "task", "said"),
    [
        ({"resolver": {}}, {}, "['resolver']"),
        ({"container": {}}, {"triggerPolicy": {"condition": "true"}}, "['container', 'triggerPolicy']"),
        ({"container": {}}, {"parameterIterator": {}}, "['container', 'parameterIterator']"),
    ],
)
def test_what_is_not_followed_is_refused(tmp_path, executor, task, said):
    spec = spec_of()
    spec["deploymentSpec"]["executors"]["make"] = executor
    spec["root"]["dag"]["tasks"]["make"] |= task
    with pytest.raises(Refused, match=re.escape(f"Task make is no plain container or importer: {said}.")):
        StandIn(tmp_path).run(spec)


def test_output_parameters_are_refused(tmp_path):
    spec = spec_of()
    spec["components"]["make"]["outputDefinitions"]["parameters"] = {"total": {}}
    with pytest.raises(Refused, match=re.escape("Task make has output parameters, which are not followed.")):
        StandIn(tmp_path).run(spec)


def test_tasks_that_wait_for_one_another_are_refused(tmp_path):
    spec = spec_of()
    spec["root"]["dag"]["tasks"]["make"]["dependentTasks"] = ["use"]
    with pytest.raises(Refused, match=re.escape("Tasks wait for one another: ['make', 'use'].")):
        StandIn(tmp_path).run(spec)


def cached(runs):
    return {name: run.cached for name, run in runs.items()}


def test_a_task_is_taken_from_the_cache_while_its_inputs_are_the_same_artifacts_and_values(tmp_path):
    server, spec = StandIn(tmp_path), spec_of()
    server.run(spec)  # leaves nothing in the cache
    tasks = spec["root"]["dag"]["tasks"]
    for task in tasks.values():
        task["cachingOptions"] = {"enableCache": True}
    first = server.run(spec)
    assert cached(first) == {"make": False, "use": False}
    second = server.run(spec)
    assert cached(second) == {"make": True, "use": True}
    assert second["make"].artifacts == first["make"].artifacts
    assert cached(server.run(spec, {"epochs": 5})) == {"make": False, "use": False}
    spec["deploymentSpec"]["executors"]["use"]["container"]["image"] = "newer"
    assert cached(server.run(spec)) == {"make": True, "use": False}
    tasks["make"]["cachingOptions"]["enableCache"] = False
    assert cached(server.run(spec)) == {"make": False, "use": False}


def test_what_depends_on_a_task_that_is_not_cached_runs_again_though_its_output_is_the_same(tmp_path):
    spec = spec_of()
    spec["root"]["dag"]["tasks"]["use"]["cachingOptions"] = {"enableCache": True}
    server = StandIn(tmp_path)
    assert cached(server.run(spec)) == cached(server.run(spec)) == {"make": False, "use": False}


def test_a_failed_task_is_not_cached(tmp_path):
    spec = spec_of(before="sys.exit(3)")
    spec["root"]["dag"]["tasks"]["make"]["cachingOptions"] = {"enableCache": True}
    server = StandIn(tmp_path)
    assert [server.run(spec)["make"].status for _ in range(2)] == [3, 3]


def importing(uri, **more):
    """Returns a pipeline whose only task imports `model`."""
    model = {"artifactType": {"instanceSchema": "title: tfx.Model"}}
    importer = {"artifactUri": {"constant": uri}, "typeSchema": model["artifactType"], **more}
    return {
        "pipelineInfo": {"name": "tiny"},
        "components": {"get": {"executorLabel": "get", "outputDefinitions": {"artifacts": {"model": model}}}},
        "deploymentSpec": {"executors": {"get": {"importer": importer}}},
        "root": {
            "inputDefinitions": {"parameters": {"from": {"defaultValue": "gs://b/other"}}},
            "dag": {
                "tasks": {
                    "get": {
                        "componentRef": {"name": "get"},
                        "inputs": {"parameters": {"uri": {"componentInputParameter": "from"}}},
                    }
                }
            },
        },
    }


def test_an_importer_makes_one_artifact_of_a_uri_unless_it_reimports(tmp_path):
    server = StandIn(tmp_path)
    one, same = (server.run(importing("gs://b/m", metadata={"span": 3}))["get"].artifacts for _ in range(2))
    assert (one["model"]["uri"], properties(one["model"])) == ("gs://b/m", {"span": 3.0})
    assert same == one
    changed = server.run(importing("gs://b/m", metadata={"span": 4}))["get"].artifacts
    again = server.run(importing("gs://b/m", metadata={"span": 3}, reimport=True))["get"].artifacts
    assert len({artifacts["model"]["name"] for artifacts in (one, changed, again)}) == 3


def test_an_importer_s_uri_may_be_a_parameter_of_the_run_and_has_a_scheme(tmp_path):
    spec = importing("")
    spec["deploymentSpec"]["executors"]["get"]["importer"]["artifactUri"] = {"runtimeParameter": "uri"}
    assert StandIn(tmp_path).run(spec)["get"].artifacts["model"]["uri"] == "gs://b/other"
    assert StandIn(tmp_path).run(spec, {"from": "s3://b/m"})["get"].artifacts["model"]["uri"] == "s3://b/m"
    with pytest.raises(Refused, match=re.escape("no provider scheme found in artifact URI: /m")):
        StandIn(tmp_path).run(importing("/m"))


def test_placeholders_are_filled_in(tmp_path):
    spec = spec_of()
    program = "import json, sys; print(json.dumps(sys.argv[1:])); sys.exit(1)"
    words = [
        "{{$.json_escape[1]}}",
        "{{$.inputs.parameters['epochs']}}",
        "{{$.outputs.artifacts['model'].uri}}",
    ]
    spec["deploymentSpec"]["executors"]["make"]["container"] = {
        "command": [sys.executable, "-c", program],
        "args": words,
    }
    run = StandIn(tmp_path, scheme="gs").run(spec)["make"]
    escaped, epochs, uri = json.loads(run.log)
    assert json.loads(json.loads(f'"{escaped}"')) == run.invocation
    assert float(epochs) == 3
    assert uri == run.invocation["outputs"]["artifacts"]["model"]["artifacts"][0]["uri"]
    assert uri.startswith("gs://mlpipeline/")
