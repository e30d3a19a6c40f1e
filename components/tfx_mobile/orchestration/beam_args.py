"""Beam arguments that make code travel to workers on other machines: ours, and the pipeline's own.

TFX sends itself, and only itself, and not even that once an argument says where workers find packages. Here
the packages that are importable now are packed into one wheel, which Beam installs on its workers. It asks
for no other package: TensorFlow and what else is compiled come with the workers' image. docs/beam.md says
how to start the workers of each engine.
"""

import base64
import hashlib
import importlib.util
import io
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tfx_mobile.common.errors import ConfigError
from tfx_mobile.common.files import write_atomically

_NAME = "beam_worker_packages"
_DIGITS = 12
_OLDEST = (1980, 1, 1, 0, 0, 0)  # a zip file knows no earlier time


def with_packages(arguments: Sequence[str], packages: Sequence[str], folder: Path) -> list[str]:
    """Adds `--extra_package` with a wheel of these packages.

    The wheel's name has a hash of its content: TFX's cache, which looks at the arguments, notices when the
    code changes, and only then.

    Args:
      arguments: As for Beam.
      packages: Importable packages or modules, such as `("tfx_mobile", "taxi_fare")`; also "tfx" where the
        workers' image has none.
      folder: Where the wheel goes; made when missing.

    Returns:
      The arguments, and one more.

    Raises:
      ConfigError: There is no package, or one cannot be found here.
    """
    name, content = wheel(packages)
    path = folder.absolute() / name
    if not path.exists():
        write_atomically(path, content)
    return [*arguments, f"--extra_package={path}"]


def wheel(packages: Sequence[str]) -> tuple[str, bytes]:
    """Returns the name and the content of a wheel of these packages (PEP 427), the same for the same files.

    Args:
      packages: As for `with_packages`.

    Raises:
      ConfigError: There is no package, or one cannot be found here.
    """
    if not packages:
        raise ConfigError("Packages for Beam's workers must be named; got none. Name 'tfx_mobile' at least.")
    files = {name: path.read_bytes() for package in packages for name, path in _files(package)}
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\n{len(files[name])}\n".encode() + files[name])
    version = f"0+{digest.hexdigest()[:_DIGITS]}"
    info = f"{_NAME}-{version}.dist-info"
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {_NAME}\nVersion: {version}\n".encode()
    files[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: tfx-mobile\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    record = [f"{name},sha256={_hash(content)},{len(content)}" for name, content in sorted(files.items())]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name, _OLDEST)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return f"{_NAME}-{version}-py3-none-any.whl", buffer.getvalue()


def _files(package: str) -> Iterator[tuple[str, Path]]:
    """Yields the files of a package and their names in a wheel."""
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise ConfigError(
            f"Packages for Beam's workers must be importable here, by their first name; got {package!r}. "
            "Install it, or correct the name."
        )
    origin = Path(spec.origin)
    if spec.submodule_search_locations is None:
        yield origin.name, origin
        return
    for path in sorted(origin.parent.rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            yield f"{package}/{path.relative_to(origin.parent).as_posix()}", path


def _hash(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
