"""`stopframe models ...`: which models there are, where their values come from, and whether they answer as promised."""

import asyncio
import time
from pathlib import Path
from typing import Annotated

import typer

from detector.cli.models_quantise import quantise
from detector.cli.options import AsJson, ConfigFile, read_config_quietly
from detector.cli.output import CommandFailed, line, table
from models.manifest import Manifest, load_manifest
from models.manifest_yaml import ManifestError
from models.trial import Choice
from models.zoo.registry import zoo_names

app = typer.Typer(
    help="Models: what they are, and whether they can be used.", no_args_is_help=True, rich_markup_mode=None
)

app.command("quantise")(quantise)

_MOST_SHOWN = 20  # ImageNet has a thousand labels


@app.command("list")
def list_models(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """List the models of the zoo and of the config."""
    configured = [model.reference for model in read_config_quietly(config).models]
    rows = []
    for reference in dict.fromkeys([*zoo_names(), *configured]):
        manifest = _manifest(reference)
        rows.append(
            {
                "name": manifest.name,
                "version": manifest.version,
                "configured": reference in configured,
                "moderates": not manifest.stand_in,
                "labels": len(manifest.model_info.labels),
                "licence": manifest.license.weights,
                "manifest": str(manifest.path),
            }
        )
    if as_json:
        for row in rows:
            line(row)
    elif rows:
        table(tuple(rows[0]), [tuple(row.values()) for row in rows])


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name of the zoo, a model's folder or its file.")],
    config: ConfigFile = None,
) -> None:
    """Show every value of a model and where it stands.

    The manifest's values first, last what the config says of it.
    """
    settings = read_config_quietly(config)
    manifest = _manifest(name)
    info = manifest.model_info
    values: dict[str, object] = {
        "name": manifest.name,
        "version": manifest.version,
        "stand_in": manifest.stand_in,
        "file.path": manifest.file.path,
        "file.sha256": manifest.file.sha256,
        "file.distribution": manifest.file.distribution,
        "license.weights": manifest.license.weights,
        "license.code": manifest.license.code,
        "license.source": manifest.license.source,
        **{f"model_info.{key}": getattr(info, key) for key in info.__dataclass_fields__},
        "notes": manifest.notes or None,
    }
    rows = [
        (key, _listed(value) if isinstance(value, tuple) else value, _place(manifest, key))
        for key, value in values.items()
    ]
    entry = next((one for one in settings.models if _is_same(one.reference, name)), None)
    if entry is not None:
        of_config: dict[str, object] = {
            "provider": entry.provider,
            "after": ", ".join(f"{label} {score:g}" for label, score in entry.after.items()) or None,
            "reuse_for": str(entry.reuse_for),
            "tiles": entry.tiles,
            "jitter": str(entry.jitter),
        }
        rows += [(f"config.{key}", value, "config") for key, value in of_config.items()]
    table(("key", "value", "from"), rows)


@app.command("check")
def check(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Else every model of the config.")] = None,
    config: ConfigFile = None,
) -> None:
    """Load models as at start-up.

    Checks file and sha256, licence, warm-up and the answer that the manifest promises; without NAME, also that a
    model knows each class of the config, and that each model is called for by what another one says.
    """
    from detector.analysis.gpu_messages import ADDRESS_SPACE_BYTES
    from detector.analysis.model_loading import load_classifier
    from detector.analysis.provider_choice import choose_for
    from detector.analysis.setup import MEMORY_LIMIT_BYTES, ModelRefused, load_manifests
    from models.classifier import ModelError
    from models.providers import GPUS, ProviderUnavailable

    settings = read_config_quietly(config)
    rows, faults = [], []
    wanted = {model.reference: model.provider for model in settings.models}
    for reference in [name] if name is not None else list(wanted):
        try:
            manifest = load_manifest(reference)
            provider = wanted.get(reference, "auto")
            processes = settings.analysis.worker_count
            choice = asyncio.run(choose_for(manifest.reference, provider, settings.sandbox, processes))
            limit = ADDRESS_SPACE_BYTES if choice.provider in GPUS else MEMORY_LIMIT_BYTES
            begun_at = time.perf_counter()
            classifier = load_classifier(manifest.reference, memory_limit_bytes=limit, provider=choice.provider)
        except ProviderUnavailable as error:
            faults.append(f"model {manifest.name}: {error}")
            continue
        except (ManifestError, ModelError) as error:
            faults.append(str(error))
            continue
        parity = "answers as promised" if manifest.check else "promises no answer to check"
        seconds = f"{time.perf_counter() - begun_at:.2f}"
        runs_on = f"{classifier.provider.name} {classifier.provider.precision}"
        rows.append((manifest.name, "usable", parity, seconds, runs_on, _trial(choice)))
    if name is None and not faults:  # a model that cannot be used says nothing about its labels
        try:
            load_manifests(settings)
        except ModelRefused as error:
            faults.append(str(error))
    if rows:
        table(("model", "state", "parity", "seconds", "runs on", "tried, ms of a picture"), rows)
    if faults:
        raise CommandFailed("\n".join(faults))


def _is_same(reference: str, name: str) -> bool:
    return reference == name or ("/" in reference and Path(reference) == Path(name).absolute())


def _trial(choice: Choice) -> str:
    if not choice.trials:
        return "no choice"
    costs = [f"{provider} {cost:g}" for provider, cost in choice.milliseconds.items()]
    return "; ".join([*costs, *(f"{provider}: {why}" for provider, why in choice.passed_over.items())])


def _manifest(reference: str | Path) -> Manifest:
    try:
        return load_manifest(reference)
    except ManifestError as error:
        raise CommandFailed(str(error)) from None


def _listed(values: tuple[object, ...]) -> str:
    shown = ", ".join(map(str, values[:_MOST_SHOWN]))
    return shown if len(values) <= _MOST_SHOWN else f"{shown} and {len(values) - _MOST_SHOWN} more"


def _place(manifest: Manifest, key: str) -> str:
    return manifest.provenance.get(key, "default")
