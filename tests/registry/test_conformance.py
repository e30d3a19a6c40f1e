"""The signed store passes what every adapter must pass."""

from pathlib import Path

import pytest

from tfx_mobile.registry.backend import Backend, open_backend
from tfx_mobile.registry.conformance import BackendConformance
from tfx_mobile.registry.store import Registry


class TestStore(BackendConformance):
    """The default, in a folder."""

    @pytest.fixture
    def backend(self, tmp_path: Path) -> Backend:
        self.folder = tmp_path / "registry"
        Registry.create(self.folder)
        return open_backend(str(self.folder))

    def reopened(self, backend: Backend) -> Backend:
        return open_backend(str(self.folder))

    def damage(self, model: str, version: int) -> None:
        (path,) = (self.folder / "targets" / model / str(version)).glob("*.model.tflite")
        path.write_bytes(path.read_bytes().replace(b"o", b"0", 1))
