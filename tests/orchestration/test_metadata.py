"""From a URL to ML Metadata's settings, and what is said when SQLite cannot be used; no server, no TFX."""

import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import ml_metadata
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_metadata import errors
from ml_metadata.proto import metadata_store_pb2

from tfx_mobile.common.errors import ConfigError, TfxMobileError
from tfx_mobile.orchestration import metadata

SECRET = {"TFX_MOBILE_METADATA_PASSWORD": "swordfish"}


def sqlite(path: Path) -> metadata_store_pb2.ConnectionConfig:
    return metadata.connection_config(f"sqlite://{path}")


# URLs


def test_a_mysql_url_gives_the_settings_of_its_parts() -> None:
    config = metadata.connection_config("mysql://me@db.example:3307/runs", SECRET)
    assert config == metadata_store_pb2.ConnectionConfig(
        mysql=metadata_store_pb2.MySQLDatabaseConfig(
            host="db.example",
            port=3307,
            user="me",
            password="swordfish",
            database="runs",
            skip_db_creation=True,
        )
    )


def test_a_postgresql_url_gives_the_settings_of_its_parts_quoted_for_libpq() -> None:
    config = metadata.connection_config("postgresql://me@[::1]/runs", {**SECRET, "OTHER": r"it's a \ "})
    expected = metadata_store_pb2.ConnectionConfig(
        postgresql=metadata_store_pb2.PostgreSQLDatabaseConfig(
            host="::1", port="5432", user="me", password="'swordfish'", dbname="runs", skip_db_creation=True
        )
    )
    assert config == expected
    config = metadata.connection_config(
        "postgresql://me@[::1]/runs?password_env=OTHER", {"OTHER": r"it's a \ "}
    )
    assert config.postgresql.password == r"'it\'s a \\ '"


def test_a_sqlite_url_gives_an_absolute_path(tmp_path: Path) -> None:
    config = metadata.connection_config(f"sqlite://{tmp_path}/with%20space.sqlite", {})
    assert config.sqlite.filename_uri == f"{tmp_path}/with space.sqlite"
    assert config.sqlite.connection_mode == config.sqlite.READWRITE_OPENCREATE


@pytest.mark.parametrize(("scheme", "port"), [("mysql", 3306), ("postgresql", 5432)])
def test_without_a_port_it_is_the_usual_one(scheme: str, port: int) -> None:
    config = metadata.connection_config(f"{scheme}://me@host/runs", SECRET)
    assert metadata.describe(config) == f"{scheme}://me@host:{port}/runs"


@given(
    scheme=st.sampled_from(["mysql", "postgresql"]),
    user=st.from_regex(r"[a-z][a-z0-9_.-]{0,20}", fullmatch=True),
    host=st.one_of(
        st.from_regex(r"[a-z][a-z0-9.-]{0,30}", fullmatch=True),
        st.ip_addresses(v=4).map(str),
        st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
    ),
    port=st.integers(1, 65535),
    database=st.from_regex(r"[A-Za-z0-9_]{1,30}", fullmatch=True),
)
def test_a_url_is_what_its_settings_are_called(
    scheme: str, user: str, host: str, port: int, database: str
) -> None:
    url = f"{scheme}://{user}@{host}:{port}/{database}"
    assert metadata.describe(metadata.connection_config(url, SECRET)) == url


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "must begin with sqlite:///, mysql:// or postgresql://; got none of them."),
        ("root@host/db", "must begin with sqlite:///, mysql:// or postgresql://; got none of them."),
        ("mysql://", "must begin with sqlite:///, mysql:// or postgresql://; got 'mysql'."),
        ("oracle://me@host/db", "must begin with sqlite:///, mysql:// or postgresql://; got 'oracle'."),
        (
            "mysql://me@host:x/db",
            "port must be from 1 to 65535, after a host's name or [address]; got mysql://...",
        ),
        ("mysql://me@host:0/db", "or [address]; got mysql://me@host:0/db."),
        ("mysql://me@host:65536/db", "or [address]; got mysql://me@host:65536/db."),
        (
            "mysql://host/db",
            "user must be given before @, without spaces and quotes; got '' in mysql://host/db.",
        ),
        ("mysql://me@[::1/db", "or [address]; got mysql://..."),
        ("mysql://a%20b@host/db", "user must be given before @, without spaces and quotes; got 'a b'"),
        ("mysql://me@/db", "host must be given after @, a name or an address; got ''"),
        ("mysql://me@host", "database must be given after the host, of letters, digits and '_'; got ''"),
        ("mysql://me@host/a-b", "got 'a-b' in mysql://me@host/a-b."),
        ("postgresql://me@host/a/b", "got 'a/b' in postgresql://me@host/a/b."),
        ("mysql://me@host/db#1", "must have no '#' (as part of a name it is %23); got mysql://..."),
        ("mysql://me:pw@host/db", "must not hold the password; got one in mysql://me@host/db. Put it into"),
        (
            "mysql://me@host/db?ssl=1",
            "must be one of password_env, password_file, ssl_ca, ssl_cert, ssl_key,",
        ),
        ("mysql://me@host/db?password_env=A&password_env=B", "got 'password_env' in mysql://me@host/db."),
        ("mysql://me@host/db?password_env=", "once, with a value; got 'password_env'"),
        (
            "mysql://me@host/db?password_env=A&password_file=B",
            "must come from one place; got password_file and",
        ),
        ("mysql://me@host/db?password_env=NONE", "must be in the environment variable NONE; it is not set."),
        ("mysql://me@host/db?password_file=/none", "got '/none': No such file or directory."),
        ("mysql://me@host/db?ssl_ca=/none.pem", "ssl_ca must be a file; got '/none.pem', which is none."),
        ("postgresql://me@host/db?sslmode=on", "sslmode must be one of disable, allow, prefer, require,"),
        ("postgresql://me@host/db?ssl_ca=/x", "once, with a value; got 'ssl_ca'"),
        (
            "sqlite://metadata.sqlite",
            "must be sqlite:// and an absolute path, without options; got sqlite://meta",
        ),
        ("sqlite:///tmp/", "must be sqlite:// and an absolute path, without options; got sqlite:///tmp/."),
        (
            "sqlite:///tmp/a.sqlite?mode=ro",
            "and an absolute path, without options; got sqlite:///tmp/a.sqlite?",
        ),
        (
            "sqlite:///no/such/folder/a.sqlite",
            "folder must exist; got sqlite:///no/such/folder/a.sqlite. Make",
        ),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        metadata.connection_config(url, SECRET)


def test_a_password_that_is_missing_is_refused_and_an_empty_one_is_none() -> None:
    message = (
        "The password of mysql://me@host/db must be in the environment variable "
        "TFX_MOBILE_METADATA_PASSWORD; it is not set. Set it (to nothing for a user without a password), or "
        "name a file with ?password_file=."
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        metadata.connection_config("mysql://me@host/db", {})
    for url in ("mysql://me@host/db", "postgresql://me@host/db"):
        config = metadata.connection_config(url, {"TFX_MOBILE_METADATA_PASSWORD": ""})
        assert "password" not in str(config)


def test_a_password_file_is_read_without_the_newline_at_its_end(tmp_path: Path) -> None:
    file = tmp_path / "password"
    url = f"mysql://me@host/db?password_file={file}"
    file.write_text(" sword fish \n")
    assert metadata.connection_config(url, {}).mysql.password == " sword fish "
    file.write_text("\n")
    with pytest.raises(
        ConfigError, match=re.escape(f"must hold the password; got '{file}', which is empty.")
    ):
        metadata.connection_config(url, {})
    file.write_text("sword\nfish\n")
    with pytest.raises(ConfigError, match=re.escape("must be one line; got several, or a NUL.")) as caught:
        metadata.connection_config(url, {})
    assert "fish" not in str(caught.value)
    file.write_bytes(b"\xffswordfish")
    with pytest.raises(ConfigError, match=re.escape(f"got '{file}': it is not UTF-8.")) as caught:
        metadata.connection_config(url, {})
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_settings_of_tls_are_files_and_mysql_then_verifies_the_server(tmp_path: Path) -> None:
    ca = tmp_path / "it's a ca.pem"
    ca.touch()
    mysql = metadata.connection_config(f"mysql://me@host/db?ssl_ca={ca}", SECRET).mysql
    assert (mysql.ssl_options.ca, mysql.ssl_options.verify_server_cert) == (str(ca), True)
    url = f"postgresql://me@host/db?sslmode=verify-full&sslrootcert={ca}"
    options = metadata.connection_config(url, SECRET).postgresql.ssloption
    assert options.sslmode == "verify-full"
    assert options.sslrootcert == "'" + str(ca).replace("'", "\\'") + "'"


def test_mysql_on_this_machine_is_reached_by_tcp() -> None:
    # Its client would look for a Unix socket where Debian's server has none.
    assert metadata.connection_config("mysql://me@localhost/db", SECRET).mysql.host == "127.0.0.1"
    assert metadata.connection_config("postgresql://me@localhost/db", SECRET).postgresql.host == "localhost"


def test_tls_without_verification_has_to_be_asked_for() -> None:
    options = metadata.connection_config("mysql://me@host/db?ssl_verify=no", SECRET).mysql.ssl_options
    assert options.HasField("verify_server_cert")
    assert not options.verify_server_cert
    assert not metadata.connection_config("mysql://me@host/db", SECRET).mysql.HasField("ssl_options")
    with pytest.raises(ConfigError, match=re.escape("ssl_verify must be yes or no; got 'maybe'.")):
        metadata.connection_config("mysql://me@host/db?ssl_verify=maybe", SECRET)


# passwords


PASSWORDS = st.text(st.characters(blacklist_categories=["Cs"]), min_size=8).filter(
    lambda text: "//" not in text
)


@given(password=PASSWORDS, scheme=st.sampled_from(["mysql", "postgresql"]))
def test_printed_settings_have_no_password(password: str, scheme: str) -> None:
    make = metadata_store_pb2.ConnectionConfig
    kinds = {
        "mysql": metadata_store_pb2.MySQLDatabaseConfig,
        "postgresql": metadata_store_pb2.PostgreSQLDatabaseConfig,
    }
    config = make(**{scheme: kinds[scheme](host="h", user="u", password=password)})
    other = make(**{scheme: kinds[scheme](host="h", user="u", password="another")})
    hidden = metadata.without_password(f"Using config:\n {config} and more")
    assert hidden == metadata.without_password(f"Using config:\n {other} and more")
    assert 'host: "h"' in hidden
    assert "password: ***" in hidden


@given(password=st.from_regex(r"[!-~]{8,20}", fullmatch=True).filter(lambda text: "%" not in text))
def test_a_password_in_the_url_is_refused_and_not_shown(password: str) -> None:
    for url in (f"mysql://me:{password}@host:3306/db", f"postgresql://me:{password}@[::1]/db"):
        with pytest.raises(ConfigError, match=re.escape("metadata URL")) as caught:
            metadata.connection_config(url, SECRET)
        message = str(caught.value)
        shown = [password[i : i + 6] for i in range(len(password) - 5) if password[i : i + 6] in message]
        assert not shown, message


# names of folders


def test_each_database_has_a_folder_of_its_own_for_artifacts(tmp_path: Path) -> None:
    urls = [
        "mysql://me@host/db",
        "mysql://me@other/db",
        "mysql://me@host:3307/db",
        "mysql://me@host/db2",
        "postgresql://me@host:3306/db",
    ]
    names = [metadata.artifacts_folder(metadata.connection_config(url, SECRET)) for url in urls]
    assert len(set(names)) == len(urls)
    assert re.fullmatch(r"artifacts-mysql-db-[0-9a-f]{8}", names[0])
    assert metadata.artifacts_folder(sqlite(tmp_path / "metadata.sqlite")) == "artifacts"


def test_two_users_of_a_database_share_its_folder() -> None:
    one, two = (metadata.connection_config(f"mysql://{user}@host/db", SECRET) for user in ("me", "you"))
    assert metadata.artifacts_folder(one) == metadata.artifacts_folder(two)


# SQLite


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "metadata.sqlite"
    metadata.check(sqlite(path))
    return path


def refused(path: Path, message: str) -> None:
    with pytest.raises(metadata.MetadataError, match=re.escape(message)) as caught:
        metadata.check(sqlite(path))
    assert str(caught.value).startswith(f"The metadata database sqlite://{path} must ")
    assert isinstance(caught.value, TfxMobileError)


def test_the_newest_execution_is_the_highest_number(database: Path) -> None:
    assert metadata.newest_execution(sqlite(database)) == 0
    store = ml_metadata.MetadataStore(sqlite(database))
    type_id = store.put_execution_type(metadata_store_pb2.ExecutionType(name="t"))
    store.put_executions([metadata_store_pb2.Execution(type_id=type_id) for _ in range(3)])
    assert metadata.newest_execution(sqlite(database)) == 3


def test_a_write_that_mariadb_gives_up_names_the_setting(database: Path) -> None:
    said = "mysql_query  SELECT id; errno: Record has changed since last read in table 'Execution', error: R"
    found = metadata.explain(errors.InternalError(said), sqlite(database))
    assert str(found) == (
        f"The metadata database sqlite://{database} must let several runs write at once; got: Record has "
        "changed since last read in table 'Execution'. MariaDB from 11.6.2 on does with "
        "innodb_snapshot_isolation=OFF: docs/metadata.md. Run again."
    )


@pytest.mark.parametrize("content", [b"no database at all " * 99, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "metadata.sqlite"
    path.write_bytes(content)
    refused(path, "must be a sound SQLite file; got: file is not a database. Restore a backup, or move it")
    assert path.read_bytes() == content


def test_a_file_that_was_cut_off_is_refused(database: Path) -> None:
    database.write_bytes(database.read_bytes()[:20000])
    refused(database, "must be a sound SQLite file; got: database disk image is malformed. Restore a backup")


def test_a_file_with_a_damaged_page_is_refused_at_once(database: Path) -> None:
    content = bytearray(database.read_bytes())
    content[4096:8192] = b"\xa5" * 4096
    database.write_bytes(content)
    refused(database, "must be a sound SQLite file; got: database disk image is malformed.")


def test_a_path_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metadata.sqlite").mkdir()
    refused(
        tmp_path / "metadata.sqlite", "must be a file that can be written; got: unable to open database file."
    )


def test_a_database_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "metadata.sqlite"
    path.touch()
    config = sqlite(path)  # root may write where a user may not
    config.sqlite.connection_mode = config.sqlite.READONLY
    message = "must be a file that can be written; got: attempt to write a readonly database. Correct the"
    with pytest.raises(metadata.MetadataError, match=re.escape(message)):
        metadata.check(config)


def test_a_locked_database_is_refused_after_seconds(database: Path) -> None:
    # In a process of its own: SQLite's locks are a process's.
    hold = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
    hold += "c.execute('BEGIN EXCLUSIVE'); print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", hold, str(database)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        refused(database, "must be free within seconds; got: database is locked. Another program holds its")
        holder.communicate()
    metadata.check(sqlite(database))


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (9, "got: MLMD database version 9 is older than library version 10. Back it up and upgrade it"),
        (99, "got: MLMD database version 99 is greater than library version 10. Run with the newer TFX"),
    ],
)
def test_tables_of_another_version_are_refused(database: Path, version: int, message: str) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE MLMDEnv SET schema_version = ?", (version,))
    refused(database, f"must have the tables of this ML Metadata; {message}")


def test_what_is_written_to_standard_error_while_checking_arrives(
    database: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with metadata._standard_error() as written:
        os.write(2, b"said by C++\n")
    assert written == ["said by C++\n"]
    assert capfd.readouterr().err == "said by C++\n"


def test_a_database_in_memory_is_let_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for config in (
        metadata_store_pb2.ConnectionConfig(sqlite=metadata_store_pb2.SqliteMetadataSourceConfig()),
        metadata_store_pb2.ConnectionConfig(fake_database=metadata_store_pb2.FakeDatabaseConfig()),
    ):
        metadata.check(config)
        assert metadata.newest_execution(config) == 0
    assert list(tmp_path.iterdir()) == []


# explaining


def test_an_error_of_ml_metadata_is_explained_by_asking_the_database(tmp_path: Path) -> None:
    path = tmp_path / "metadata.sqlite"
    path.write_bytes(b"no database at all " * 99)
    tfx = RuntimeError("Failed to establish connection to Metadata storage with error: who knows")
    for error in (errors.InternalError("who knows"), tfx):
        found = metadata.explain(error, sqlite(path))
        assert found is not None
        assert "must be a sound SQLite file; got: file is not a database." in str(found)


def test_an_error_of_ml_metadata_with_a_database_that_works_keeps_its_words(database: Path) -> None:
    found = metadata.explain(errors.InvalidArgumentError("no type\nand more"), sqlite(database))
    assert str(found) == (
        f"The metadata database sqlite://{database} must do what ML Metadata asks; got: no type. Look "
        "into the log, and into the server's."
    )


def test_any_other_error_is_not_the_databases(database: Path) -> None:
    assert metadata.explain(RuntimeError("no memory"), sqlite(database)) is None
    assert metadata.explain(errors.InternalError("x"), metadata_store_pb2.MetadataStoreClientConfig()) is None
