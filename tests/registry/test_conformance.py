"""The signed store passes what every adapter must pass."""

import re
from pathlib import Path

import pytest

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.registry.backend import Backend, open_backend
from tfx_mobile.registry.conformance import BackendConformance
from tfx_mobile.registry.store import Registry


def test_a_uri_that_nobody_announces_is_refused_and_shows_no_secret() -> None:
    message = "; got one of 'mlflow+ftp'. Install the package that has the adapter for it"
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        open_backend("mlflow+ftp://ada:secret@host")
    assert "secret" not in str(caught.value)


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
