"""What the cutter's config file holds."""

import re
from pathlib import Path
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from detector.config.addresses import ListenAddress
from detector.config.alerts import SECRET_CHARACTERS, MqttSection
from detector.config.config import Config, default_state_dir
from detector.config.crosscheck import Conflict, refuse
from detector.config.ingest import ChosenByKind
from detector.config.loading import top_keys
from detector.config.references import Secret, absolute_path
from detector.config.sections import IngestSection, LogSection, Section
from detector.config.trust import TrustSection
from detector.config.units import Between, Duration
from detector.config.values import EmptyMeansDefault, Name, Switch


class CutterMqttSection(MqttSection):
    """The broker that the services publish to."""

    embedded_broker: Switch = False
    """A cutter needs the broker that its services use: false."""
    keep_session: Annotated[Duration, Between("1m", "30d")] = Duration.parse("1d")
    """How long the broker keeps alerts for the cutter while it is away."""

    @model_validator(mode="after")
    def _is_elsewhere(self) -> Self:
        if self.embedded_broker:
            what = "is true, and a cutter has no broker of its own; name that of the services under url"
            raise refuse(Conflict(("embedded_broker",), what))
        return self


class CutterHttpSection(Section):
    """Health, metrics and the ingest server's hook over HTTP."""

    listen: ListenAddress = ListenAddress("127.0.0.1", 8937)
    """Where it listens."""


class CutterWebhookSection(Section):
    """The second channel: where services post the cuts that the broker does not bring."""

    listen: ListenAddress = ListenAddress("127.0.0.1", 8938)
    """Where it listens, once there is a secret; it speaks no TLS: let a proxy on this machine do that."""
    secret: Secret | None = None
    """The services' `alerts.webhook.secret`: `${NAME}` or `{file: PATH}`; null: nothing listens."""
    answer_within: Annotated[Duration, Between("100ms", "29s")] = Duration.parse("4s")
    """How long a request waits for its cut to be done; below the services' `alerts.webhook.timeout`."""

    @model_validator(mode="after")
    def _is_guarded(self) -> Self:
        secret = self.secret.value if self.secret is not None else None
        if secret is not None and len(secret) < SECRET_CHARACTERS:
            what = f"has less than {SECRET_CHARACTERS} characters; it is the services' alerts.webhook.secret"
            raise refuse(Conflict(("secret",), what))
        return self


class CutterConfig(Section):
    """Everything that an operator may set of a cutter."""

    state_dir: Annotated[Path, BeforeValidator(absolute_path)] = Field(
        default_factory=lambda: default_state_dir().with_name("stopframe-cutter")
    )
    """Folder of its database and its key; of its own, never a service's."""
    node: Name = "cutter"
    """What it is called in topics: the services' `enforcement.cutter`."""
    secret: Secret
    """The services' `state_dir/secrets/deployment`: {file: PATH} of a copy. Whom an alert means is found with it."""
    log: Annotated[LogSection, EmptyMeansDefault()] = LogSection()
    """What it logs."""
    ingest: Annotated[IngestSection, ChosenByKind()]
    """The ingest server whose publishers it cuts; as in the services' config."""
    deadline: Annotated[Duration, Between("1s", "10m")] = Duration.parse("10s")
    """How long one try to cut may take; it is tried again until the alert expires."""
    keep: Annotated[Duration, Between("1d", "3650d")] = Duration.parse("30d")
    """How long incidents are kept, whose rows name publishers; one whose publisher is still denied stays."""
    mqtt: Annotated[CutterMqttSection, EmptyMeansDefault()] = CutterMqttSection()
    """The broker."""
    trust: Annotated[TrustSection, EmptyMeansDefault()] = TrustSection()
    """Whose alerts and commands count: each service's key, with may: [alert, command]."""
    http: Annotated[CutterHttpSection, EmptyMeansDefault()] = CutterHttpSection()
    """Health and metrics over HTTP."""
    webhook: Annotated[CutterWebhookSection, EmptyMeansDefault()] = CutterWebhookSection()
    """The second channel."""

    @model_validator(mode="after")
    def _is_coherent(self) -> Self:
        conflicts = []
        if not any("alert" in key.may for key in self.trust.trusted_keys):
            what = (
                "names nobody whose alerts count; write what 'stopframe keys show' prints at the service, "
                "with may: [alert, command]"
            )
            conflicts.append(Conflict(("trust",), what))
        secret = self.secret.value
        if secret is not None and not re.fullmatch(r"[0-9a-f]{64}", secret):
            what = "is no deployment secret (64 hex digits); copy the service's state_dir/secrets/deployment"
            conflicts.append(Conflict(("secret",), what))
        if self.ingest.kind in {"embedded", "none"}:
            what = f"is {self.ingest.kind}, which runs inside a service; name the server that publishers stream to"
            conflicts.append(Conflict(("ingest", "kind"), what))
        if conflicts:
            raise refuse(*conflicts)
        return self

    @property
    def deployment(self) -> bytes:
        """The services' secret. Raises LookupError when the config was only checked."""
        return bytes.fromhex(self.secret.reveal())


def is_cutters(path: Path | str) -> bool:
    """Whether a config file is a cutter's: more of its keys are known to cutters alone than to services alone."""
    keys = top_keys(path)
    services, cutters = set(Config.model_fields), set(CutterConfig.model_fields)
    return len(keys & (cutters - services)) > len(keys & (services - cutters))


def is_services(path: Path | str) -> bool:
    """Whether a config file is a service's beyond doubt: more of its keys are known to services alone."""
    keys = top_keys(path)
    services, cutters = set(Config.model_fields), set(CutterConfig.model_fields)
    return len(keys & (services - cutters)) > len(keys & (cutters - services))
