"""What a cutter elsewhere needs of the rest of the config."""

from collections.abc import Iterator

from detector.config.alerts import AlertsSection
from detector.config.crosscheck import Conflict
from detector.config.sections import EnforcementSection
from detector.config.trust import TrustSection


def remote_conflicts(enforcement: EnforcementSection, alerts: AlertsSection, trust: TrustSection) -> Iterator[Conflict]:
    """A cutter that nobody could hear or believe, and a second channel without a first."""
    where, broker, keys = ("enforcement", "where"), ("alerts", "mqtt", "embedded_broker"), ("trust", "trusted_keys")
    if enforcement.where == "local":
        if alerts.webhook.takes == "unanswered":
            what = "is unanswered, and only a remote cutter is waited for; write all, or enforcement.where: remote"
            yield Conflict(("alerts", "webhook", "takes"), what, concerns=(where,))
        return
    if alerts.mqtt.embedded_broker:
        what = "is remote, and the embedded broker speaks to this machine alone; name a broker under alerts.mqtt"
        yield Conflict(where, what, concerns=(broker,))
    if not any("ack" in key.may for key in trust.trusted_keys):
        what = (
            "is remote, and no key may acknowledge; write the key that 'stopframe cutter' shows under "
            "trust.trusted_keys, with may: [ack, alert]"
        )
        yield Conflict(where, what, concerns=(keys,))
