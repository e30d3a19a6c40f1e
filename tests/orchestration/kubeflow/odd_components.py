"""Components whose compiling is not plain: parameters of every type, output values, types of their own."""

from pathlib import Path

from tfx import types
from tfx import v1 as tfx
from tfx.types import standard_artifacts
from tfx.types.artifact import Property, PropertyType


@tfx.dsl.components.component
def Typed(  # noqa: N802
    model: tfx.dsl.components.OutputArtifact[standard_artifacts.Model],
    flag: tfx.dsl.components.Parameter[bool] = True,
    count: tfx.dsl.components.Parameter[int] = 3,
    rate: tfx.dsl.components.Parameter[float] = 0.5,
    text: tfx.dsl.components.Parameter[str] = "",
) -> None:
    Path(model.uri, "values").write_text(repr((flag, count, rate, text)))


@tfx.dsl.components.component
def Reader(model: tfx.dsl.components.InputArtifact[standard_artifacts.Model]) -> None:  # noqa: N802
    Path(model.uri, "values").read_text()


@tfx.dsl.components.component
def Counter() -> tfx.dsl.components.OutputDict(total=int):  # type: ignore[valid-type]  # noqa: N802
    return {"total": 1}


class WithProperties(types.Artifact):
    TYPE_NAME = "tfx_mobile.WithProperties"
    PROPERTIES = {"rows": Property(type=PropertyType.INT)}  # noqa: RUF012


class NotExported(types.Artifact):
    TYPE_NAME = "tfx_mobile.NotExported"


class WithoutModule(types.Artifact):
    TYPE_NAME = "WithoutModule"


def made_in_a_function() -> type[standard_artifacts.Model]:
    class Local:
        pass

    return Local


def pipeline(name: str = "odd", **settings: object) -> tfx.dsl.Pipeline:
    typed = Typed(**settings)
    return tfx.dsl.Pipeline(
        pipeline_name=name,
        pipeline_root="",
        components=[typed, Reader(model=typed.outputs["model"])],
        enable_cache=True,
    )


def needs_an_argument(folder: str) -> tfx.dsl.Pipeline:
    return pipeline(folder)


def returns_text() -> str:
    return "pipeline"
