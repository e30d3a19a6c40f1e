"""Three components whose last one waits for a file: run as a program, to be killed or interrupted."""

import sys
from pathlib import Path

from tfx.orchestration import pipeline as tfx_pipeline
from tiny_components import Numbers, Patient, Total

from tfx_mobile.orchestration import local


def create(workspace: Path) -> tfx_pipeline.Pipeline:
    numbers = Numbers(numbers="1 2 3")
    total = Total(examples=numbers.outputs["examples"], noise="NOISE")
    patient = Patient(model=total.outputs["model"], flag=str(workspace / "flag"))
    return local.local_pipeline("tiny", [patient, numbers, total], workspace)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    # Importing TensorFlow has its own say; what comes after this line is the run's.
    print("READY", flush=True)
    print("READY", file=sys.stderr, flush=True)
    local.run(create(folder), log_file=folder / "run.log")
