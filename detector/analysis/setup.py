"""What the analysis processes are told, from a config: models found and verified, banks, limits, the cage."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from detector.analysis.messages import TEXT_LIMIT_BYTES, BankSetup, ModelSetup, ViewSetup, WorkerSetup
from detector.analysis.pool import PoolSettings
from detector.config.banks import BankKind
from detector.config.config import Config
from detector.config.models import ModelSection
from models.cascade import MOST_MODELS, ModelRule, in_order
from models.hashing.view_table import Tier
from models.manifest import Manifest, load_manifest, read_model
from models.manifest_yaml import ManifestError

_MOST_NAMED = 20
_SCORE_BYTES = 260
"""Of a score in an answer, beside the names of its label and its model."""

_SCORES_BYTES = TEXT_LIMIT_BYTES - 64 * 1024

BANKS_FOLDER = "banks"
"""Where the banks lie inside `state_dir`."""

MEMORY_LIMIT_BYTES = 8 << 30
"""Address space of one analysis process: mapped indexes of tens of millions of rows count in it."""


class ModelRefused(Exception):
    """Raised by `find_models` and `load_manifests`: a configured model cannot be used; one sentence with the remedy."""


@dataclass(frozen=True, slots=True)
class FoundModels:
    """The configured models that can be used; and why others cannot, by the end of what the config calls them."""

    manifests: tuple[Manifest, ...]
    refused: Mapping[str, str]


def find_models(config: Config) -> FoundModels:
    """Return the manifests of the configured models, each model file read once against its sha256.

    A model whose manifest or file is missing or not what it should be is left out: lists and other models must not stop
    acting because of it. What was to wait for its scores looks at every frame.

    Raises:
        ModelRefused: two models share a name, wait for each other, or a class is of a model that is found without it.
    """
    found: dict[str, Manifest] = {}
    refused: dict[str, str] = {}
    for entry in config.models:
        try:
            manifest = load_manifest(entry.reference)
            read_model(manifest)
        except ManifestError as error:
            refused[PurePath(entry.reference).name] = str(error)
            continue
        if manifest.name in found:
            raise ModelRefused(
                f"two models are called {manifest.name}; give one of them another name in its model.yaml"
            )
        found[manifest.name] = manifest
    manifests = tuple(found.values())
    refuse_unknown_classes(config, manifests)
    _refuse_unreachable(config, manifests)
    _refuse_long_answers(manifests)
    return FoundModels(manifests, refused)


def load_manifests(config: Config) -> tuple[Manifest, ...]:
    """As `find_models`, but all or nothing.

    Raises:
        ModelRefused: any of the configured models cannot be used.
    """
    found = find_models(config)
    for sentence in found.refused.values():
        raise ModelRefused(sentence)
    return found.manifests


def pool_settings(
    config: Config, manifests: Iterable[Manifest], *, workers: int | None = None, held: Mapping[str, int] | None = None
) -> PoolSettings:
    """Return what the pool and its processes go by.

    `workers` overrides the config's number; `held` are limits in bits for banks that have outgrown their budget.
    """
    banks = config.state_dir / BANKS_FOLDER
    limits = {name: one.max_distance for name, one in config.banks.items() if one.max_distance != "auto"}
    for name, most_bits in (held or {}).items():
        limits[name] = min(limits.get(name, most_bits), most_bits)
    setup = WorkerSetup(
        banks_folder=str(banks),
        bank_limits=limits,
        models=_models(config, manifests),
        readable_paths=(str(banks),),
        sandbox=config.sandbox.value,
        memory_limit_bytes=MEMORY_LIMIT_BYTES,
        views=_views(config),
        banks={
            name: BankSetup(one.min_quality, one.kind is BankKind.NEGATIVE, one.disabled_until_seconds)
            for name, one in config.banks.items()
        },
    )
    return PoolSettings(
        workers=workers or config.analysis.worker_count,
        queue_limit=config.analysis.queue,
        model_timeout_seconds=config.analysis.model_timeout.seconds,
        setup=setup,
    )


def model_rules(config: Config, manifests: Iterable[Manifest]) -> tuple[ModelRule, ...]:
    """When each model is asked, those that others wait for first.

    Raises:
        ValueError: They wait for each other, or for what is not there; one sentence.
    """
    found = _with_entries(config, manifests)
    is_whole = len(found) == len(config.models)
    known = {manifest.name for _, manifest in found}
    rules = []
    for entry, manifest in found:
        # What waits for the scores of a model that is not there would never be asked, or on half of its grounds.
        is_free = not is_whole and any(name.partition("/")[0] not in known for name in entry.after)
        rules.append(
            ModelRule(
                name=manifest.name,
                after={} if is_free else entry.after,
                reuse_seconds=entry.reuse_for.seconds,
                has_tiles=entry.tiles,
                jitter=entry.jitter.ratio,
            )
        )
    return in_order(rules)


def _with_entries(config: Config, manifests: Iterable[Manifest]) -> list[tuple[ModelSection, Manifest]]:
    """Each manifest with what the config says of it."""
    entries = {entry.reference: entry for entry in config.models}
    return [(entries[manifest.asked_as], manifest) for manifest in manifests if manifest.asked_as in entries]


def _models(config: Config, manifests: Iterable[Manifest]) -> tuple[ModelSetup, ...]:
    found = {manifest.name: (entry, manifest) for entry, manifest in _with_entries(config, manifests)}
    setups = []
    for place, rule in enumerate(model_rules(config, [manifest for _, manifest in found.values()])):
        entry, manifest = found[rule.name]
        setups.append(ModelSetup(rule.name, manifest.reference, provider=entry.provider, place=place, rule=rule))
    return tuple(setups)


def _refuse_unreachable(config: Config, manifests: Sequence[Manifest]) -> None:
    """A model that waits for what nobody says would never be asked."""
    if len(manifests) > MOST_MODELS:
        raise ModelRefused(f"models: {len(manifests)} are too many; name at most {MOST_MODELS}")
    labels = {manifest.name: manifest.model_info.labels for manifest in manifests}
    try:
        rules = model_rules(config, manifests)
    except ValueError as error:
        raise ModelRefused(f"models: {error}") from None
    for rule in rules:
        for name in rule.after:
            model, _, label = name.partition("/")
            if label not in labels[model]:
                known = ", ".join(labels[model][:_MOST_NAMED])
                raise ModelRefused(f"models: {rule.name} waits for {name}, but {model} has only the labels {known}")


def _refuse_long_answers(manifests: Iterable[Manifest]) -> None:
    """An analysis process whose answer is too long is taken for a broken one, whatever was in the frame."""
    count, size = 0, 0
    for manifest in manifests:
        for label in manifest.model_info.labels:
            count += 1
            size += len(json.dumps(label)) + len(manifest.name) + _SCORE_BYTES
    if size > _SCORES_BYTES:
        raise ModelRefused(f"models: together they have {count} labels, too many for one answer; leave one of them out")


def _views(config: Config) -> ViewSetup:
    chosen = {tier.value.upper() for tier in config.matching.tiers}
    tiers = tuple(int(tier) for tier in Tier if tier is Tier.EVERY_SAMPLE or tier.name in chosen)
    return ViewSetup(config.matching.budget.seconds, tiers)


def refuse_unknown_classes(config: Config, manifests: Iterable[Manifest]) -> None:
    """A class that no model knows would never fire: a typo that costs a platform its defence.

    Raises:
        ModelRefused: the config names such a class.
    """
    for _, sentence in unknown_classes(config, manifests):
        raise ModelRefused(f"classes: {sentence}")


def unknown_classes(config: Config, manifests: Iterable[Manifest]) -> list[tuple[str, str]]:
    """The classes of a config that no model knows, each with the sentence that says so.

    Where a configured model is not among the manifests, what belongs to none of them may be its own.
    """
    labels = {manifest.name: manifest.model_info.labels for manifest in manifests}
    is_whole = len(labels) == len(config.models)
    known = {f"{model}/{label}" for model, its in labels.items() for label in its}
    listed = ", ".join(sorted(known)) or "none, as no model is configured"
    return [
        (name, f"{name} is not a class of any configured model; there are {listed}")
        for name in config.classes
        if name not in known and (is_whole or name.partition("/")[0] in labels)
    ]
