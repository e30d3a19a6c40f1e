"""The JSON Schema of `evaluation.json`, made from the classes it is written from.

`python -m tfx_mobile.size_latency_evaluator.schema` prints it; evaluation.schema.json beside this file is its
output, for readers that are not Python.
"""

from pathlib import Path
from typing import Any

from tfx_mobile.common import json_schema, jsonable
from tfx_mobile.size_latency_evaluator.evaluation import SCHEMA_VERSION, Evaluation

SCHEMA_FILE = Path(__file__).with_name("evaluation.schema.json")


def schema() -> dict[str, Any]:
    """Returns the schema of this SCHEMA_VERSION."""
    found = json_schema.schema_of(Evaluation, identifier=f"urn:tfx-mobile:evaluation:{SCHEMA_VERSION}")
    version = found["$defs"]["Evaluation"]["properties"]["schema_version"]
    version |= {"const": SCHEMA_VERSION}
    return found


def text() -> str:
    """Returns the schema as it is in the file; the same classes give the same bytes."""
    return jsonable.dumps(schema(), indent=2) + "\n"


if __name__ == "__main__":
    print(text(), end="")
