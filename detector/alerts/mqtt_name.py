"""Whether the broker's name is known, found out in a thread of its own before the library asks in one of the loop's."""

import asyncio
import socket
from functools import partial

from detector.alerts.mqtt_connection import ConnectionFailed, MqttSettings
from detector.alerts.mqtt_faults import explain_failure
from detector.alerts.own_thread import in_own_thread
from detector.alerts.resolving import is_address

_SECONDS = 5.0


async def must_resolve(settings: MqttSettings) -> None:
    """Return once the broker's name is known. Raises ConnectionFailed where it is not, or nobody says within 5 s."""
    host = settings.host
    if is_address(host):
        return
    work = partial(socket.getaddrinfo, host, settings.port, type=socket.SOCK_STREAM)
    try:
        async with asyncio.timeout(_SECONDS):
            await in_own_thread(work, "stopframe-resolve")
    except TimeoutError:
        raise ConnectionFailed(f"nobody tells the address of {host}; see this machine's resolver (DNS)") from None
    except UnicodeError:
        raise ConnectionFailed(f"the name {host} is none; correct the host in alerts.mqtt.url") from None
    except OSError as error:
        raise ConnectionFailed(explain_failure(error, host=host, has_tls=settings.tls)) from None
