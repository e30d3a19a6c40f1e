"""Where ML Metadata is kept: one URL for SQLite, MySQL or PostgreSQL, and what to say when it cannot be used.

    sqlite:///folder/metadata.sqlite
    mysql://user@host:3306/database
    postgresql://user@host:5432/database

A URL never holds the password: that is in an environment variable or a file. Makes no database and no user
(docs/metadata.md has the SQL), and knows nothing of pipelines. Needs ML Metadata, not TFX.
"""

import contextlib
import hashlib
import os
import re
import socket
import sqlite3
import tempfile
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_metadata
from ml_metadata import errors
from ml_metadata.proto import metadata_store_pb2

from tfx_mobile.common.errors import ConfigError, TfxMobileError
from tfx_mobile.orchestration import failure

PASSWORD_VARIABLE = "TFX_MOBILE_METADATA_PASSWORD"


class MetadataError(TfxMobileError):
    """The metadata database's operator can fix it: it is away, refuses the user, is locked or damaged."""


def connection_config(
    url: str, environment: Mapping[str, str] | None = None
) -> metadata_store_pb2.ConnectionConfig:
    """Returns ML Metadata's settings for a URL; connects to nothing.

    Options, after `?`: `password_env` (the variable that holds the password, in place of
    TFX_MOBILE_METADATA_PASSWORD; an empty one means a user without a password) or `password_file` (a file
    that holds nothing else but a newline at its end). MySQL: `ssl_ca`, `ssl_cert`, `ssl_key` (files) and
    `ssl_verify` (yes, or no: any certificate is taken); with one of them, TLS is used. PostgreSQL: `sslmode`,
    `sslrootcert`, `sslcert`, `sslkey`, as libpq has them. SQLite takes none.

    Args:
      url: As above. What is special in a URL is percent-encoded.
      environment: Where variables are looked up; the process's when not given.

    Raises:
      ConfigError: The URL cannot be used as it is, or its password is not there. Never holds the password.
    """
    scheme, separator, rest = url.partition("://")
    if scheme not in (*_PORTS, "sqlite") or not rest:
        got = repr(scheme) if separator and re.fullmatch("[A-Za-z0-9+.-]+", scheme) else "none of them"
        raise ConfigError(
            f"The metadata URL must begin with sqlite:///, mysql:// or postgresql://; got {got}."
        )
    if scheme == "sqlite":
        return _sqlite(url)
    if ":" in rest.rpartition("@")[0].partition("/")[0]:
        raise ConfigError(
            f"The metadata URL must not hold the password; got one in {_shown(url)}. Put it into the "
            f"environment variable {PASSWORD_VARIABLE}, or into a file that ?password_file= names."
        )
    try:
        parts = urllib.parse.urlsplit(url)
        port = _PORTS[scheme] if parts.port is None else parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ConfigError(
            f"The metadata URL's port must be from 1 to 65535, after a host's name or [address]; got "
            f"{_shown(url)}."
        )
    user, database = urllib.parse.unquote(parts.username or ""), urllib.parse.unquote(parts.path[1:])
    _check("user", user, _USER, "be given before @, without spaces and quotes", url)
    _check("host", parts.hostname or "", _HOST, "be given after @, a name or an address", url)
    _check("database", database, _DATABASE, "be given after the host, of letters, digits and '_'", url)
    if parts.fragment:
        raise ConfigError(
            f"The metadata URL must have no '#' (as part of a name it is %23); got {_shown(url)}."
        )
    options = _options(parts.query, _OPTIONS[scheme], url)
    password = _password(options, os.environ if environment is None else environment, url)
    make = _mysql if scheme == "mysql" else _postgresql
    return make(str(parts.hostname), port, user, database, password, options)


def describe(config: metadata_store_pb2.ConnectionConfig) -> str:
    """Returns the URL of a database without password and options: what messages call it."""
    if config.HasField("mysql"):
        mysql = config.mysql
        return f"mysql://{mysql.user}@{_bracketed(mysql.host)}:{mysql.port}/{mysql.database}"
    if config.HasField("postgresql"):
        postgresql = config.postgresql
        host = _bracketed(postgresql.host or postgresql.hostaddr)
        return f"postgresql://{postgresql.user}@{host}:{postgresql.port}/{postgresql.dbname}"
    return f"sqlite://{config.sqlite.filename_uri}"


def artifacts_folder(config: metadata_store_pb2.ConnectionConfig) -> str:
    """Returns the name of the folder for artifacts whose numbers this database gives.

    The database numbers executions and TFX names folders by these numbers, so two databases must not share a
    folder: the second would write into what the first one made.
    """
    if config.HasField("sqlite"):
        return "artifacts"
    scheme, _, place = describe(config).partition("://")
    place = place.rpartition("@")[2]
    digest = hashlib.sha256(f"{scheme}://{place}".encode()).hexdigest()[:8]
    return f"artifacts-{scheme}-{place.rpartition('/')[2]}-{digest}"


def check(config: metadata_store_pb2.ConnectionConfig) -> None:
    """Opens the database once, and makes ML Metadata's tables in an empty one.

    Raises:
      MetadataError: It cannot be used; the message has the reason and what to do.
    """
    if config.HasField("sqlite"):
        _check_is_free(config)
    else:
        _check_answers(config)
    deadline = time.monotonic() + _TABLES_SECONDS
    while True:
        with _standard_error() as written:
            try:
                ml_metadata.MetadataStore(config)
            except (RuntimeError, errors.StatusError) as error:
                failed: Exception | None = error
            else:
                failed = None
        if failed is None:
            return
        # Another run makes the tables at this moment.
        being_made = _BEING_MADE.search(str(failed)) and not _DAMAGED.search(str(failed))
        if not being_made or time.monotonic() > deadline:
            raise _refused(config, f"{failed}\n{''.join(written)}") from failed
        time.sleep(0.2)


def explain(error: BaseException, config: Any) -> MetadataError | None:
    """Returns what is wrong with the database when that is why something failed.

    Asks the database again, as ML Metadata's own errors seldom have the reason.

    Args:
      error: As caught.
      config: The pipeline's connection; only a `ConnectionConfig` can be asked.

    Returns:
      None when ML Metadata did not raise the error.
    """
    if not isinstance(config, metadata_store_pb2.ConnectionConfig) or not _is_of_ml_metadata(error):
        return None
    try:
        check(config)
    except MetadataError as found:
        return found
    return _refused(config, str(error))


def newest_execution(config: metadata_store_pb2.ConnectionConfig) -> int:
    """Returns the highest number that the database has given to an execution; 0 when it has none.

    Raises:
      MetadataError: The database cannot be used.
    """
    options = ml_metadata.ListOptions(limit=1, order_by=ml_metadata.OrderByField.ID, is_asc=False)
    try:
        executions = ml_metadata.MetadataStore(config).get_executions(list_options=options)
    except (RuntimeError, errors.StatusError) as error:
        raise _refused(config, str(error)) from error
    return executions[0].id if executions else 0


def without_password(text: str) -> str:
    """Returns the text with the passwords of printed connection settings replaced by ***."""
    return _PRINTED_PASSWORD.sub(r"\1***", text)


def _sqlite(url: str) -> metadata_store_pb2.ConnectionConfig:
    path = url.removeprefix("sqlite://")
    if not path.startswith("/") or path.endswith("/") or "?" in path or "#" in path:
        raise ConfigError(
            f"The metadata URL of SQLite must be sqlite:// and an absolute path, without options; got {url}. "
            "Write sqlite:///folder/metadata.sqlite."
        )
    path = urllib.parse.unquote(path)
    if not Path(path).parent.is_dir():
        raise ConfigError(f"The metadata URL's folder must exist; got {url}. Make {Path(path).parent}.")
    mode = metadata_store_pb2.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
    return metadata_store_pb2.ConnectionConfig(
        sqlite=metadata_store_pb2.SqliteMetadataSourceConfig(filename_uri=path, connection_mode=mode)
    )


def _mysql(
    host: str, port: int, user: str, database: str, password: str, options: Mapping[str, str]
) -> metadata_store_pb2.ConnectionConfig:
    # MySQL's client takes localhost for a Unix socket of its own.
    host = "127.0.0.1" if host == "localhost" else host
    config = metadata_store_pb2.MySQLDatabaseConfig(
        host=host, port=port, user=user, database=database, skip_db_creation=True
    )
    if password:
        config.password = password
    if given := [key for key in _OPTIONS["mysql"] if key in options]:
        verify = options.get("ssl_verify", "yes")
        if verify not in ("yes", "no"):
            raise ConfigError(f"ssl_verify must be yes or no; got {verify!r}.")
        # Without verification the client takes any certificate, and no TLS at all where none is offered.
        config.ssl_options.verify_server_cert = verify == "yes"
        for key in given:
            if key != "ssl_verify":
                setattr(config.ssl_options, key.removeprefix("ssl_"), _file(key, options[key]))
    return metadata_store_pb2.ConnectionConfig(mysql=config)


def _postgresql(
    host: str, port: int, user: str, database: str, password: str, options: Mapping[str, str]
) -> metadata_store_pb2.ConnectionConfig:
    config = metadata_store_pb2.PostgreSQLDatabaseConfig(
        host=host, port=str(port), user=user, dbname=database, skip_db_creation=True
    )
    if password:
        config.password = _conninfo(password)
    for key in _OPTIONS["postgresql"]:
        if key in options:
            value = options[key] if key == "sslmode" else _conninfo(_file(key, options[key]))
            setattr(config.ssloption, key, value)
    if config.ssloption.sslmode and config.ssloption.sslmode not in _SSL_MODES:
        modes = ", ".join(_SSL_MODES)
        raise ConfigError(f"sslmode must be one of {modes}; got {config.ssloption.sslmode!r}.")
    return metadata_store_pb2.ConnectionConfig(postgresql=config)


def _options(query: str, known: tuple[str, ...], url: str) -> dict[str, str]:
    options: dict[str, str] = {}
    allowed = ("password_env", "password_file", *known)
    for key, value in urllib.parse.parse_qsl(query, keep_blank_values=True):
        if key not in allowed or key in options or not value:
            # Not the value: it may be a password.
            raise ConfigError(
                f"An option of the metadata URL must be one of {', '.join(allowed)}, once, with a value; got "
                f"{key!r} in {_shown(url)}."
            )
        options[key] = value
    return options


def _password(options: Mapping[str, str], environment: Mapping[str, str], url: str) -> str:
    if "password_file" in options and "password_env" in options:
        raise ConfigError(
            "The metadata password must come from one place; got password_file and password_env in "
            f"{_shown(url)}."
        )
    if "password_file" in options:
        path = options["password_file"]
        try:
            password = Path(path).read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"password_file must be a text file that can be read; got {path!r}: "
                f"{error.strerror if isinstance(error, OSError) else 'it is not UTF-8'}."
            ) from None  # a UnicodeDecodeError holds the file's bytes
        if not password:
            raise ConfigError(f"password_file must hold the password; got {path!r}, which is empty.")
    else:
        name = options.get("password_env", PASSWORD_VARIABLE)
        found = environment.get(name)
        if found is None:
            raise ConfigError(
                f"The password of {_shown(url)} must be in the environment variable {name}; it is not set. "
                "Set it (to nothing for a user without a password), or name a file with ?password_file=."
            )
        password = found
    if "\0" in password or "\n" in password:
        raise ConfigError(f"The password of {_shown(url)} must be one line; got several, or a NUL.")
    return password


def _file(key: str, path: str) -> str:
    if not Path(path).is_file():
        raise ConfigError(f"{key} must be a file; got {path!r}, which is none.")
    return os.path.abspath(path)


def _check(what: str, value: str, pattern: re.Pattern[str], rule: str, url: str) -> None:
    if not pattern.fullmatch(value):
        raise ConfigError(
            f"The metadata URL's {what} must {rule}; got {value!r} in {_shown(url)}. "
            "Write mysql://user@host:3306/database."
        )


def _shown(url: str) -> str:
    """Returns the URL without options, and without anything that may be a part of a password."""
    scheme, _, rest = url.partition("://")
    plain = rest.partition("?")[0]
    credentials, at, place = plain.rpartition("@")
    found = re.fullmatch(r"(\[[^]]*\]|[^:/#]*)(:\d*)?(/[^#]*)?", place)
    if not found or ("@" in rest and not at):
        return f"{scheme}://..."
    return f"{scheme}://{credentials.partition(':')[0]}{at}{''.join(part or '' for part in found.groups())}"


def _conninfo(value: str) -> str:
    """Returns the value quoted for libpq, to which ML Metadata hands it as it is."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _check_answers(config: metadata_store_pb2.ConnectionConfig) -> None:
    """Refuses a server that cannot be reached: asking ML Metadata would take minutes and give no reason."""
    if config.HasField("mysql"):
        host, port = config.mysql.host, config.mysql.port
    elif config.HasField("postgresql"):
        host, port = config.postgresql.host or config.postgresql.hostaddr, int(config.postgresql.port)
    else:
        return
    if not host or host.startswith("/"):
        return  # a Unix socket, in settings that were not made here
    try:
        socket.create_connection((host, port or _PORTS["mysql"]), timeout=_ANSWER_SECONDS).close()
    except OSError as error:
        raise MetadataError(
            f"The metadata database {describe(config)} must be running and reachable; got: "
            f"{error.strerror or error}. Start it, or correct host and port."
        ) from error


def _check_is_free(config: metadata_store_pb2.ConnectionConfig) -> None:
    """Refuses a file that is locked: asking ML Metadata would take 40 seconds, 2 for each of its tables."""
    if not config.sqlite.filename_uri.startswith("/"):
        return  # in memory, or a URI of SQLite's own
    path = urllib.parse.quote(config.sqlite.filename_uri)
    mode = "ro" if config.sqlite.connection_mode == config.sqlite.READONLY else "rwc"
    try:
        with contextlib.closing(
            sqlite3.connect(f"file:{path}?mode={mode}", _LOCK_SECONDS, uri=True)
        ) as database:
            database.execute("BEGIN IMMEDIATE")
            database.rollback()
    except sqlite3.Error as error:
        raise _refused(config, str(error)) from error


def _refused(config: metadata_store_pb2.ConnectionConfig, text: str) -> MetadataError:
    matches = ((pattern.search(text), rule, what_to_do) for pattern, rule, what_to_do in _PROBLEMS)
    fallback = (_FIRST_LINE.search(text), "do what ML Metadata asks", _LOOK)
    found, rule, what_to_do = next((each for each in matches if each[0]), fallback)
    reason = found.group(1).strip().rstrip(".") if found else "no reason"
    return MetadataError(f"The metadata database {describe(config)} must {rule}; got: {reason}. {what_to_do}")


def _is_of_ml_metadata(error: BaseException) -> bool:
    return any(
        isinstance(each, errors.StatusError) or str(each).startswith(_TFX_COULD_NOT_CONNECT)
        for each in failure.chain(error)
    )


@contextlib.contextmanager
def _standard_error() -> Iterator[list[str]]:
    """Reads along what C++ writes to standard error; only there ML Metadata says why it cannot connect."""
    written: list[str] = []
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield written
        finally:
            os.dup2(kept, 2)
            file.seek(0)
            content = file.read()
            os.write(kept, content)
            os.close(kept)
            written.append(content.decode(errors="replace"))


_PORTS = {"mysql": 3306, "postgresql": 5432}
_OPTIONS = {
    "mysql": ("ssl_ca", "ssl_cert", "ssl_key", "ssl_verify"),
    "postgresql": ("sslmode", "sslrootcert", "sslcert", "sslkey"),
}
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_USER = re.compile(r"[^\s'\"\\/@:]+")
_HOST = re.compile(r"[A-Za-z0-9._:%-]+")
_DATABASE = re.compile(r"[A-Za-z0-9_]+")
_PRINTED_PASSWORD = re.compile(r'(\b(?:ssl)?password: )"(?:[^"\\]|\\.)*"')

_ANSWER_SECONDS = 10.0
_LOCK_SECONDS = 5.0
_TABLES_SECONDS = 120.0  # for another run to make them; a database may wait 50 for one lock
_BEING_MADE = re.compile(
    "concurrent connection to the empty database|already exists|duplicate key|deadlock"
    "|try restarting transaction",
    re.IGNORECASE,
)
_TFX_COULD_NOT_CONNECT = "Failed to establish connection to Metadata storage"
_DAMAGED = re.compile("(file is not a database|database disk image is malformed)")
_FIRST_LINE = re.compile(r"^\s*(\S[^\n]*)")
_LOOK = "Look into the log, and into the server's."
# What ML Metadata and its clients write: pattern, the rule that it breaks, what to do.
_PROBLEMS = tuple(
    (re.compile(pattern), rule, what_to_do)
    for pattern, rule, what_to_do in (
        (
            r"(sslmode value [^\n]* SSL support is not compiled in)",
            "be reached as sslmode asks",
            "This ML Metadata has no TLS for PostgreSQL: use a tunnel, or MySQL.",
        ),
        (
            r'PostgreSQL error: (?:FATAL: +)?([^\n]*(?:authentication|password|role "|pg_hba)[^\n]*)',
            "let the user in",
            "Correct user and password, or the server's pg_hba.conf.",
        ),
        (
            "(mysql_real_connect failed)",
            "let the user in",
            "The client gives no reason. Check user and password, that the user's plugin is "
            "mysql_native_password, and TLS: docs/metadata.md.",
        ),
        (
            r"(Access denied for user '[^']*'@'[^']*' to database '[^']*')",
            "exist and be open to the user",
            "Make and grant it: docs/metadata.md has the SQL.",
        ),
        (
            r'(database "[^"\n]*" does not exist|Unknown database [^\n,]*)',
            "exist",
            "Make it: docs/metadata.md has the SQL.",
        ),
        (
            r"(permission denied for [^\n]*|[A-Za-z ]*command denied to user [^\n,]*)",
            "let the user make and write tables",
            "Grant it: docs/metadata.md has the SQL.",
        ),
        (
            r"(MLMD database version \d+ is older than library version \d+)",
            "have the tables of this ML Metadata",
            "Back it up and upgrade it: docs/metadata.md says how.",
        ),
        (
            r"(MLMD database version \d+ is greater than library version \d+)",
            "have the tables of this ML Metadata",
            "Run with the newer TFX that wrote it, or with another database.",
        ),
        (
            _DAMAGED.pattern,
            "be a sound SQLite file",
            "Restore a backup, or move it and its artifacts away to start anew.",
        ),
        (
            "(attempt to write a readonly database|unable to open database file)",
            "be a file that can be written",
            "Correct the permissions of the file and its folder.",
        ),
        (
            r"(Record has changed since last read in table [^\n,]*)",
            "let several runs write at once",
            "MariaDB from 11.6.2 on does with innodb_snapshot_isolation=OFF: docs/metadata.md. Run again.",
        ),
        (
            "(Concurrent writes aborted|database is locked)",
            "be free within seconds",
            "Another program holds its lock. Run again when that is done; for many at once use a server.",
        ),
        (
            r"(deadlock detected|[^\n:,]*; try restarting transaction)",
            "be free within seconds",
            "Other runs hold its locks. Run again when they are done.",
        ),
        (
            r"(server closed the connection[^\n]*|terminating connection[^\n]*|Lost connection[^\n]*"
            r"|[^\n]*has gone away)",
            "stay up while a pipeline runs",
            "It answers again: run again.",
        ),
        (r"PostgreSQL error: (?:FATAL: +)?([^\n]+)", "let ML Metadata in", _LOOK),
    )
)
