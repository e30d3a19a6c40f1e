"""A TFLite file loaded so that it can predict by name and be timed. Imports NumPy and LiteRT only.

LiteRT refuses `allocate_tensors` and `invoke` while a signature runner is alive, so tensors are allocated
before there is one, and timing lets go of it.
"""

import time

from ai_edge_litert import interpreter as litert

from tfx_mobile.common import interpreter
from tfx_mobile.common.errors import DataError


class LoadedModel(interpreter.TFLiteModel):
    """A file in the interpreter, one thread.

    Args:
      content: The file's bytes.

    Attributes:
      init_ns: Nanoseconds for making the interpreter and allocating the tensors.

    Raises:
      DataError: The interpreter refuses the file, or it has no `serving_default` signature.
    """

    def __init__(self, content: bytes) -> None:
        try:
            begin = time.perf_counter_ns()
            self.interpreter = litert.Interpreter(model_content=content, num_threads=1)
            self.interpreter.allocate_tensors()
            self.init_ns = time.perf_counter_ns() - begin
            signatures = sorted(self.interpreter.get_signature_list())
        except (ValueError, RuntimeError) as error:
            raise DataError(f"LiteRT refuses the file: {str(error).strip()}") from error
        if interpreter.SIGNATURE not in signatures:
            raise DataError(
                f"A TFLite file must have the signature {interpreter.SIGNATURE!r}; "
                f"got {signatures or 'none'}."
            )
        self._runner = self.interpreter.get_signature_runner(interpreter.SIGNATURE)
        self.inputs = interpreter._specs(self._runner.get_input_details())
        self.outputs = interpreter._specs(self._runner.get_output_details())

    def release_runner(self) -> None:
        """Lets go of the signature runner, so that `interpreter.invoke` works; `predict` no longer does."""
        del self._runner
