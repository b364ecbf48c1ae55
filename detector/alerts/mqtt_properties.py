"""What a broker with MQTT 5 is told when we connect."""

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from detector.alerts.mqtt_inbox import UNANSWERED_LIMIT


def connect_properties(session_seconds: int) -> Properties | None:
    """Return the properties of a CONNECT; every connection of a kept session says so, else the broker drops it.

    No MaximumPacketSize: mosquitto 2.0.11 withholds longer packets, but now and then forgets that they are not on their
    way any more, and after twenty of them sends us nothing more. Its own max_packet_size refuses them at the sender.
    """
    if not session_seconds:
        return None
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = session_seconds
    properties.ReceiveMaximum = UNANSWERED_LIMIT
    return properties
