"""The registry's catalogue: a static site about models, channels, versions and signatures, for people.

```
<site>/index.html                                   models, channels, sizes, signatures
<site>/<model>/index.html                           channels and their history, figures over the versions
<site>/<model>/<version>/index.html                 figures, gates, lineage, how to fetch
<site>/<model>/<version>/[<variant>.]evaluation.html  what the publisher attached, in a sandbox
```

Every page needs nothing but itself: no script, no font, no request, so it works from a disk and in any
bucket. What is shown was verified from the trusted root down. Names, notes and figures come from others:
Jinja escapes them, and the pages' content security policy allows no script at all; an attached evaluation
page has scripts, and gets a frame with an origin of its own that may request nothing. Does not serve, and
needs no key.
"""

import base64
import datetime
import hashlib
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import markupsafe

from tfx_mobile.common import web
from tfx_mobile.common.errors import ConfigError
from tfx_mobile.registry import catalogue, names, site_charts, site_figures
from tfx_mobile.registry.catalogue import Catalogue, File, Model, Signature
from tfx_mobile.registry.storage import FolderStorage, Storage, open_storage

GENERATOR = "tfx-mobile registry site"
MAX_DRAWN = 60  # versions of a chart
MAX_METRICS = 6  # columns and charts
_SHOWN_ELSEWHERE = ("figures", "metrics", "verdict", "override", "gates", *("pipeline", "pipeline_run"))
_LINEAGE = ("pipeline", "pipeline_run", "model_artifact", "provenance")
_LATENCY = "latency p50"
_STATUS_COLOURS = {"pass": " good", "fail": " bad", "not comparable": " odd"}

_Row = Mapping[str, Any]


def write(
    repository: str | Path,
    root: Path,
    to: Path,
    *,
    url: str = "",
    title: str = "Model registry",
    now: datetime.datetime | None = None,
) -> int:
    """Makes the site anew; when it cannot be made, what was there stays.

    Args:
      repository: The registry: a folder, or an s3:// or gs:// URI.
      root: File with the root to trust; not from `repository`.
      to: Folder of the site; made, or replaced when it is a site.
      url: Where phones find the repository, for the commands that pages show.
      title: Of the site.
      now: What expiry is judged against; default is the clock.

    Returns:
      The number of pages.

    Raises:
      ConfigError: `root` cannot be read; `to` lies in the repository, or is something else than a site, or
        cannot be written.
      RegistryError: There is no repository, or a file of it is missing or differs from what was signed.
    """
    storage, to = open_storage(str(repository)), Path(os.path.abspath(to))
    _check_place(storage, to)
    root_json = catalogue.read_root(root)
    found = catalogue.read(storage, root_json, where=str(root))
    moment = now or datetime.datetime.now(datetime.timezone.utc)
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=to.parent, prefix=f".{to.name}."))
        try:
            count = 0
            for path, text in pages(found, root_json, url=url, title=title, now=moment):
                (made / path).parent.mkdir(parents=True, exist_ok=True)
                (made / path).write_text(text, encoding="utf-8", newline="\n")
                count += 1
            made.chmod(0o755)
            _swap(made, to)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        raise ConfigError(
            f"Site must be a folder that can be written; {error.filename or to}: {error.strerror}. "
            "Free the space or name another folder."
        ) from error
    return count


def pages(
    found: Catalogue, root_json: bytes, *, url: str, title: str, now: datetime.datetime
) -> Iterator[tuple[str, str]]:
    """Yields each page's path and text; the same catalogue at the same time gives the same pages.

    Raises:
      RegistryError: An attached evaluation page differs from what was signed.
    """
    environment = _environment(now)
    style = web.STYLE + _template_text(environment, "style.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    location = url.rstrip("/") or "REGISTRY"
    common = {
        "style": markupsafe.Markup(style),
        "style_hash": f"sha256-{digest}",
        "generator": GENERATOR,
        "now": now,
        "site_title": title,
        "root_sha256": hashlib.sha256(root_json).hexdigest(),
        "missing": site_figures.MISSING,
        "chart_width": site_charts.WIDTH,
        "chart_height": site_charts.HEIGHT,
    }

    def page(template: str, signatures: Sequence[Signature], **more: Any) -> str:
        return environment.get_template(template).render(
            **common, signatures=signatures, state=_state(signatures, now), **more
        )

    every = [*found.signatures, *(model.signature for model in found.models.values())]
    yield (
        "index.html",
        environment.get_template("index.html").render(
            **common,
            title=title,
            signatures=found.signatures,
            state=_state(every, now),
            tiles=_site_tiles(found, now),
            models=[_model_row(model) for model in found.models.values()],
            command=_command(location, "MODEL", None, names.DEFAULT_VARIANT),
        ),
    )
    for model in found.models.values():
        signed = [model.signature, *found.signatures]
        yield f"{model.name}/index.html", page("model.html", signed, title=model.name, **_model_page(model))
        versions = sorted({file.record.version for file in model.files})
        for place, version in enumerate(versions):
            parts = [_part(file, model, location) for file in model.files if file.record.version == version]
            folder = f"{model.name}/{version}"
            yield (
                f"{folder}/index.html",
                page(
                    "version.html",
                    signed,
                    title=f"{model.name}, version {version}",
                    model=model,
                    version=version,
                    older=versions[place - 1] if place else None,
                    newer=versions[place + 1] if place + 1 < len(versions) else None,
                    parts_of_version=parts,
                    colours=_STATUS_COLOURS,
                ),
            )
            for part in parts:
                if part["evaluation"]:
                    content = catalogue.read_target(found.storage, part["file"].evaluation)
                    yield (
                        f"{folder}/{part['evaluation']}",
                        environment.get_template("evaluation.html").render(
                            title=f"Evaluation of {model.name}, version {version}",
                            style=common["style"],
                            site_title=title,
                            model=model.name,
                            version=version,
                            content=markupsafe.escape(content.decode("utf-8", "replace")),
                        ),
                    )


# The folder.


def _check_place(storage: Storage, to: Path) -> None:
    if isinstance(storage, FolderStorage) and to.resolve().is_relative_to(storage.folder.resolve()):
        raise ConfigError(
            "Site must lie outside the repository, which holds signed files only; "
            f"got {to} in {storage.folder}. Name a folder beside it."
        )
    if not os.path.lexists(to):
        return
    if to.is_symlink() or not to.is_dir():
        raise ConfigError(f"Site must be a folder; {to} is something else. Name another.")
    index = to / "index.html"
    is_site = index.is_file() and f'content="{GENERATOR}"' in index.read_text("utf-8", "replace")[:2000]
    if any(to.iterdir()) and not is_site:
        raise ConfigError(
            f"Site must be a new or empty folder, or an earlier site, which is replaced; {to} holds other "
            "files. Name another folder."
        )


def _swap(made: Path, to: Path) -> None:
    """Puts a folder in the place of another, and that one back when it does not work."""
    if not to.exists():
        made.rename(to)
        return
    old = made.with_name(f"{made.name}.old")
    to.rename(old)
    try:
        made.rename(to)
    except OSError:
        old.rename(to)
        raise
    shutil.rmtree(old, ignore_errors=True)


# What pages show.


def _site_tiles(found: Catalogue, now: datetime.datetime) -> list[_Row]:
    files = [file for model in found.models.values() for file in model.files]
    first = min(
        (*found.signatures, *(model.signature for model in found.models.values())),
        key=lambda one: one.expires,
    )
    withdrawn = len({(file.record.model, file.record.version) for file in files if file.record.withdrawn})
    last = max((file.record.published_unix_s for file in files), default=None)
    versions = {(file.record.model, file.record.version) for file in files}
    return [
        _tile("models", f"{len(found.models):,}"),
        _tile("versions", f"{len(versions):,}", f"{withdrawn:,} withdrawn" if withdrawn else ""),
        _tile("last published", site_figures.when(last).split(" ")[0] if last is not None else "never"),
        _tile("phones accept it until", f"{first.expires:%Y-%m-%d}", _left(first, now), f"'{first.role}'"),
    ]


def _model_row(model: Model) -> _Row:
    newest = _newest(model)
    figures = site_figures.figures_of(newest.record) if newest else None
    metric = next(iter(figures.metrics_ppm.items()), None) if figures else None
    return {
        "model": model,
        "newest": newest,
        "channels": _pills(model),
        "size": site_figures.size(newest.record.size_bytes if newest else None),
        "gz_size": site_figures.size(figures.gz_size_bytes if figures else None),
        "latency": site_figures.duration(figures.latency_p50_ns if figures else None),
        "metric": f"{metric[0]} {site_figures.metric(metric[1])}" if metric else site_figures.MISSING,
        "versions": len({file.record.version for file in model.files}),
        "published": (
            site_figures.when(newest.record.published_unix_s).split(" ")[0]
            if newest
            else site_figures.MISSING
        ),
    }


def _model_page(model: Model) -> dict[str, Any]:
    newest = _newest(model)
    metrics = _metric_names(model)
    drawn = _drawn(model)
    return {
        "model": model,
        "tiles": _figure_tiles(newest, model) if newest else [],
        "metrics": metrics,
        "rows": [_version_row(file, model, metrics) for file in model.files],
        "charts": _charts(drawn, metrics),
        "drawn": len(drawn),
        "undrawn": len({file.record.version for file in model.files}) - len(drawn),
        "has_hollow": any(file.record.withdrawn for files in drawn.values() for file in files),
    }


def _version_row(file: File, model: Model, metrics: Sequence[str]) -> _Row:
    figures = site_figures.figures_of(file.record)
    return {
        "file": file,
        "channels": _pills(model, file),
        "size": site_figures.size(file.record.size_bytes),
        "gz_size": site_figures.size(figures.gz_size_bytes),
        "latency": site_figures.duration(figures.latency_p50_ns),
        "metrics": [site_figures.metric(figures.metrics_ppm.get(name)) for name in metrics],
        "candidate": figures.candidate or site_figures.MISSING,
    }


def _part(file: File, model: Model, location: str) -> _Row:
    """Returns what a version's page shows of one of its files."""
    record, said = file.record, file.record.metadata
    verdict = said.get("verdict")
    override = site_figures.facts(said.get("override"))
    gates = site_figures.table(said.get("gates"))
    prefix = "" if record.variant == names.DEFAULT_VARIANT else f"{record.variant}."
    sections = [
        ("Figures", "figures", site_figures.facts(said.get("figures", {"metrics": said.get("metrics", {})}))),
        ("Gates", "gates", [] if gates else site_figures.facts({"gates": said.get("gates", {})})),
        ("Lineage", "lineage", _lineage(said)),
        ("Also signed", "also", site_figures.facts(said, without=(*_SHOWN_ELSEWHERE, *_LINEAGE))),
    ]
    path = names.model_path(record.model, record.version, record.variant)
    folder, _, name = path.rpartition("/")
    return {
        "file": file,
        "tiles": _figure_tiles(file, model),
        "verdict": verdict if isinstance(verdict, str) else "",
        "verdict_colour": "odd" if override else "good",
        "override": override,
        "channels": _pills(model, file),
        "evaluation": f"{prefix}evaluation.html" if file.evaluation else "",
        "command": _command(location, record.model, record.version, record.variant),
        "gates": gates,
        "sections": [(text, f"{key}-{record.variant}", rows) for text, key, rows in sections if rows],
        "file_facts": [
            ("sha256", record.sha256),
            ("size", f"{record.size_bytes:,} B"),
            ("published", site_figures.when(record.published_unix_s)),
            ("target", path),
            ("in the repository", f"targets/{folder}/{record.sha256}.{name}"),
            *((f"delta from {base}", site_figures.size(length)) for base, length in file.deltas.items()),
            *((f"with it: {name}", site_figures.size(length)) for name, length in file.attachments.items()),
        ],
    }


def _lineage(said: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns what a version was made of; what run and provenance both say is said once."""
    rows = site_figures.facts({key: said[key] for key in _LINEAGE if said.get(key)})
    return list(dict.fromkeys((name.removeprefix("provenance."), value) for name, value in rows))


def _figure_tiles(file: File, model: Model) -> list[_Row]:
    """Returns the figures of a file beside those of the same variant of the version before it."""
    record, figures = file.record, site_figures.figures_of(file.record)
    before = _before(file, model)
    earlier = site_figures.figures_of(before.record) if before else None
    against = f" to version {before.record.version}" if before else ""

    def note(value: int | None, other: int | None) -> str:
        text = site_figures.change(value, other)
        return text + against if text else ""

    found = [
        _tile(
            f"size of version {record.version}",
            site_figures.size(record.size_bytes),
            note(record.size_bytes, before.record.size_bytes if before else None),
        )
    ]
    if (gz := figures.gz_size_bytes) is not None:
        found.append(
            _tile("gz size", site_figures.size(gz), note(gz, earlier.gz_size_bytes if earlier else None))
        )
    if (time := figures.latency_p50_ns) is not None:
        past = earlier.latency_p50_ns if earlier else None
        found.append(_tile(_LATENCY, site_figures.duration(time), note(time, past)))
    for name, value in list(figures.metrics_ppm.items())[:3]:
        past = earlier.metrics_ppm.get(name) if earlier else None
        found.append(_tile(name, site_figures.metric(value), note(value, past)))
    return found


def _charts(drawn: Mapping[int, Sequence[File]], metrics: Sequence[str]) -> list[site_charts.Chart]:
    places = {version: place for place, version in enumerate(drawn)}
    labels = [str(version) for version in drawn]
    variants = list(dict.fromkeys(file.record.variant for files in drawn.values() for file in files))
    variants.sort(key=lambda variant: variant != names.DEFAULT_VARIANT)

    def series(name: str, value_of: Any, shown: Any, divisor: float) -> list[site_charts.Series]:
        found = []
        for variant in variants:
            points = []
            for version, files in drawn.items():
                for file in files:
                    value = value_of(file)
                    if file.record.variant == variant and value is not None:
                        text = (
                            f"version {version}{_of(variant)}: {shown(value)}, "
                            f"{site_figures.when(file.record.published_unix_s)}"
                        )
                        point = site_charts.Point(
                            places[version], value / divisor, text, bool(file.record.withdrawn)
                        )
                        points.append(point)
            found.append(site_charts.Series(f"{name}{_of(variant)}", tuple(points)))
        return found

    def largest(value_of: Any) -> int:
        return max((value_of(file) or 0 for files in drawn.values() for file in files), default=0)

    found = []
    divisor, unit = _unit(largest(_size), ((2**20, "MiB"), (2**10, "KiB"), (1, "B")))
    sizes = series("file", _size, site_figures.size, divisor)
    sizes += series("gz", _gz_size, site_figures.size, divisor)
    found.append(
        site_charts.chart(
            f"Size, {unit}", sizes, labels, lambda value: site_figures.size(round(value * divisor))
        )
    )
    per_ns, unit = _unit(largest(_latency), ((10**9, "s"), (10**6, "ms"), (10**3, "\u00b5s"), (1, "ns")))
    times = series("p50", _latency, site_figures.duration, per_ns)
    found.append(
        site_charts.chart(
            f"Latency p50, {unit}", times, labels, lambda value: site_figures.duration(round(value * per_ns))
        )
    )
    for metric in metrics:

        def value_of(file: File, metric: str = metric) -> int | None:
            return site_figures.figures_of(file.record).metrics_ppm.get(metric)

        found.append(
            site_charts.chart(
                site_figures.plain(metric),
                series(metric, value_of, site_figures.metric, 1e6),
                labels,
                web.number,
            )
        )
    return [chart for chart in found if chart is not None]


def _size(file: File) -> int | None:
    return file.record.size_bytes


def _gz_size(file: File) -> int | None:
    return site_figures.figures_of(file.record).gz_size_bytes


def _latency(file: File) -> int | None:
    return site_figures.figures_of(file.record).latency_p50_ns


def _of(variant: str) -> str:
    return "" if variant == names.DEFAULT_VARIANT else f" ({variant})"


def _unit(largest: int, units: Sequence[tuple[int, str]]) -> tuple[int, str]:
    return next((one for one in units if largest >= one[0]), units[-1])


def _drawn(model: Model) -> dict[int, list[File]]:
    """Returns the newest versions, oldest first."""
    versions = sorted({file.record.version for file in model.files})[-MAX_DRAWN:]
    return {version: [file for file in model.files if file.record.version == version] for version in versions}


def _metric_names(model: Model) -> list[str]:
    found = dict.fromkeys(
        name for file in model.files for name in site_figures.figures_of(file.record).metrics_ppm
    )
    return list(found)[:MAX_METRICS]


def _newest(model: Model) -> File | None:
    return next((file for file in model.files if not file.record.withdrawn), None)


def _before(file: File, model: Model) -> File | None:
    """Returns the same variant of the version before it that holds."""
    for one in model.files:
        is_earlier = one.record.version < file.record.version and not one.record.withdrawn
        if is_earlier and one.record.variant == file.record.variant:
            return one
    return None


def _pills(model: Model, file: File | None = None) -> list[tuple[str, str]]:
    """Returns what channels offer: of one file, or of all, with version."""
    found = []
    for name, channel in model.channels.items():
        for rollout in channel.record.rollouts:
            if file and (rollout.version, rollout.variant) != (file.record.version, file.record.variant):
                continue
            is_all = site_figures.is_for_all(rollout.rollout_permille)
            asks = " \u00b7 some devices" if site_figures.targeting(rollout.targeting) else ""
            what = name if file else f"{name} {rollout.version}{_of(rollout.variant)}"
            share = "" if is_all else f" \u00b7 {site_figures.share(rollout.rollout_permille)}"
            found.append((f"{what}{share}{asks}", "good" if is_all and not asks else "odd"))
    return found


def _tile(name: str, value: str, *notes: str) -> _Row:
    return {"name": name, "value": value, "notes": notes}


def _command(location: str, model: str, version: int | None, variant: str) -> str:
    words = ["tfx-mobile", "registry", "fetch", model, "--from", location, "--root", "root.json"]
    if version is not None:
        words += ["--version", str(version)]
    if variant != names.DEFAULT_VARIANT:
        words += ["--variant", variant]
    return shlex.join([*words, "--to", f"{model}.tflite"])


# Expiry.


def _state(signatures: Sequence[Signature], now: datetime.datetime) -> _Row:
    """Returns what stands above a page when signatures run out."""
    over = [one for one in signatures if one.is_over(now)]
    near = [one for one in signatures if one.is_near(now)]
    what = ", ".join(f"'{one.role}'" for one in (over or near)[:5])
    where = "Run `tfx-mobile registry refresh` where the keys are."
    if over:
        text = f"Phones refuse this registry: the signature of {what} ran out."
    elif near:
        text = f"The signature of {what} runs out soon."
    else:
        return {"text": "", "colour": "", "what_to_do": ""}
    return {"text": text, "colour": "bad" if over else "odd", "what_to_do": where}


def _left(signature: Signature, now: datetime.datetime) -> str:
    left = signature.expires - now
    if signature.is_over(now):
        return "ran out"
    days = left.days
    return f"{days:,} day{'' if days == 1 else 's'} left" if days else "less than a day left"


# Jinja.


def _environment(now: datetime.datetime) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tfx_mobile.registry", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters |= {
        "utc": lambda moment: f"{moment:%Y-%m-%d %H:%M} UTC",
        "when": site_figures.when,
        "size": site_figures.size,
        "share": site_figures.share,
        "targeting": site_figures.targeting,
        "whole": lambda value: f"{value:,}",
        "expiry_words": lambda one: _left(one, now),
        "expiry_colour": lambda one: "bad" if one.is_over(now) else "odd" if one.is_near(now) else "",
    }
    return environment


def _shown(value: Any) -> Any:
    """Returns what Jinja then escapes: text without characters that turn or hide it."""
    return site_figures.plain(value) if type(value) is str else value


def _template_text(environment: jinja2.Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]
