"""The section `alerts`: where alerts go, and what each place needs."""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from detector.config.addresses import MqttUrl
from detector.config.crosscheck import Conflict, refuse
from detector.config.references import Secret
from detector.config.sections import Section
from detector.config.servers import HookUrl
from detector.config.units import Between, Duration, Size
from detector.config.values import EmptyMeansDefault, FilePath, Prefix, Switch, Username

SECRET_CHARACTERS = 16
"""Fewest characters of a secret that requests are signed with."""


class MqttSection(Section):
    """The broker that alerts go to."""

    url: MqttUrl = MqttUrl("127.0.0.1", 1883)
    """The broker: `mqtt://host:port`, or `mqtts://host:port` for TLS; port 0 with `embedded_broker` for a free one."""
    embedded_broker: Switch = True
    """Whether the service starts a small broker of its own there; it speaks to this machine only."""
    prefix: Prefix = "stopframe"
    """What every topic starts with."""
    username: Username | None = None
    """Name to log in with, if the broker asks for one."""
    password: Secret | None = None
    """`${NAME}` for an environment variable or `{file: PATH}` for a file."""
    ca_file: FilePath | None = None
    """With mqtts://: the certificates (PEM) of the authorities that may vouch for the broker; null for the system's."""
    certificate_file: FilePath | None = None
    """With mqtts://: our own certificate (PEM), if the broker asks for one."""
    key_file: FilePath | None = None
    """The key (PEM, not encrypted) of `certificate_file`; null where that file holds it as well."""

    @model_validator(mode="after")
    def _is_coherent(self) -> Self:
        conflicts = list(self._conflicts())
        if conflicts:
            raise refuse(*conflicts)
        return self

    def _conflicts(self) -> Iterator[Conflict]:
        broker = ("embedded_broker",)
        if self.embedded_broker and not self.url.is_loopback:
            what = (
                "names another machine; write embedded_broker: false for a broker elsewhere, or mqtt://127.0.0.1:1883"
            )
            yield Conflict(("url",), what, concerns=(broker,))
        elif self.embedded_broker and self.url.has_tls:
            what = "asks for TLS, which the embedded broker has not; write embedded_broker: false, or mqtt://"
            yield Conflict(("url",), what, concerns=(broker,))
        if not self.embedded_broker and not self.url.port:
            what = "has port 0, which only embedded_broker: true may choose; write the broker's port"
            yield Conflict(("url",), what, concerns=(broker,))
        if self.password is not None and self.username is None:
            yield Conflict(("password",), "has no username; write username as well", concerns=(("username",),))
        for key in ("ca_file", "certificate_file", "key_file"):
            if getattr(self, key) is not None and not self.url.has_tls:
                what = "is for TLS alone; write url: mqtts://HOST:PORT, or leave it out"
                yield Conflict((key,), what, concerns=(("url",),))
        if self.key_file is not None and self.certificate_file is None:
            what = "has no certificate; write certificate_file as well"
            yield Conflict(("key_file",), what, concerns=(("certificate_file",),))


class JsonlSection(Section):
    """A file that takes every alert as a line."""

    path: FilePath | None = None
    """The file; null for none. Its folder must exist."""
    rotate_at: Annotated[Size, Between("64KiB", "16GiB")] = Size.parse("64MiB")
    """A file of this size becomes PATH.1, that one PATH.2, and so on."""
    keep: Annotated[int, Field(strict=True, ge=0, le=1000)] = 8
    """How many such older files stay."""


class WebhookSection(Section):
    """An HTTPS endpoint that alerts are posted to."""

    url: HookUrl | None = None
    """Where: https://, or http:// on this machine alone; `${NAME}` takes it from the environment; null for none."""
    secret: Secret | None = None
    """What each request is signed with: `${NAME}` or `{file: PATH}`, 16 characters or more."""
    takes: Literal["all", "unanswered"] = "all"
    """`all` alerts, or with enforcement.where: remote only cuts that the cutter leaves `unanswered`."""
    timeout: Annotated[Duration, Between("100ms", "30s")] = Duration.parse("5s")
    """How long one answer may take."""
    ca_file: FilePath | None = None
    """The authorities (PEM) that may vouch for the endpoint's certificate; null for the system's."""

    @model_validator(mode="after")
    def _is_coherent(self) -> Self:
        if self.url is not None and self.secret is None:
            what = "has no secret to sign with; write secret as well, such as {file: webhook-secret}"
            raise refuse(Conflict(("url",), what, concerns=(("secret",),)))
        if self.url is not None and self.url.value is not None and not self.url.is_safe:
            raise refuse(Conflict(("url",), "crosses a network that others may read; write https://"))
        secret = self.secret.value if self.secret is not None else None
        if secret is not None and len(secret) < SECRET_CHARACTERS:
            what = f"has less than {SECRET_CHARACTERS} characters; make one with 'openssl rand -hex 32'"
            raise refuse(Conflict(("secret",), what))
        return self


class SecondChannelSection(Section):
    """When cuts that the cutter does not answer go another way as well."""

    after: Annotated[Duration, Between("1s", "10m")] = Duration.parse("5s")
    """How long a cut waits for the cutter's answer, with enforcement.where: remote; then it goes to the webhook."""


class AlertsSection(Section):
    """Telling others."""

    expire_after: Annotated[Duration, Between("10s", "24h")] = Duration.parse("15m")
    """An alert that nobody took is resent this long; then it is counted, kept, and health is red."""
    coverage_every: Annotated[Duration, Between("1s", "1h")] = Duration.parse("10s")
    """How often each stream's coverage is published."""
    retain_ended: Annotated[Duration, Between("0s", "24h")] = Duration.parse("1h")
    """How long the retained status of an ended stream stays."""
    mqtt: Annotated[MqttSection, EmptyMeansDefault()] = MqttSection()
    """The broker."""
    jsonl: Annotated[JsonlSection, EmptyMeansDefault()] = JsonlSection()
    """The file."""
    webhook: Annotated[WebhookSection, EmptyMeansDefault()] = WebhookSection()
    """The endpoint."""
    second_channel: Annotated[SecondChannelSection, EmptyMeansDefault()] = SecondChannelSection()
    """The second channel."""
