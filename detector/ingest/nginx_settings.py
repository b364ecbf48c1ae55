"""The section `ingest` for nginx with the RTMP module."""

from typing import Annotated, Literal

from detector.config.endpoints import EndpointUrl
from detector.config.hold import HoldingSection
from detector.config.servers import HttpServerUrl, RtmpServerUrl
from detector.config.units import Between, Duration
from detector.config.values import Name

_HERE = HttpServerUrl("http", "127.0.0.1", 8080)


class NginxRtmpSettings(HoldingSection):
    """nginx with the RTMP module."""

    kind: Literal["nginx-rtmp"] = "nginx-rtmp"
    """`nginx-rtmp` is nginx with the RTMP module."""
    control: EndpointUrl = EndpointUrl(_HERE, "/control")
    """Its `rtmp_control` location."""
    stat: EndpointUrl = EndpointUrl(_HERE, "/stat")
    """Its `rtmp_stat` location."""
    rtmp: RtmpServerUrl = RtmpServerUrl("rtmp", "127.0.0.1", 1935)
    """Where streams are read."""
    apps: tuple[Name, ...] = ()
    """Applications that are watched; empty for all."""
    poll: Annotated[Duration, Between("100ms", "1m")] = Duration.parse("1s")
    """How often the stat page is read."""
    update_interval: Annotated[Duration, Between("500ms", "5m")] = Duration.parse("3s")
    """How often nginx calls `on_update`: its `notify_update_timeout`."""
    hook_deadline: Annotated[Duration, Between("0s", "5s")] = Duration.parse("500ms")
    """How long `on_publish` is held until our reader is in place; then it is answered all the same."""
    quarantine: Name | None = None
    """Whom we cut is not dropped but publishes on under this name and a number, where nobody looks; null drops."""
