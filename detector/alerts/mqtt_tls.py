"""TLS to the broker: always verified, and no socket left behind where it fails."""

import ssl


class TlsFileUnusable(Exception):
    """Raised by `tls_context`: one sentence with the option, the file and the remedy."""


def tls_context(ca_file: str | None, certificate_file: str | None, key_file: str | None) -> ssl.SSLContext:
    """Return how to speak TLS: the broker's certificate is verified, and that it is for the host we ask for.

    The authorities are those of `ca_file`, else the system's. `key_file` may be None where `certificate_file` holds
    the key as well.

    Raises:
        TlsFileUnusable: a file is missing, unreadable, no PEM file, or its key is encrypted.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise _unusable("ca_file", ca_file, error) from None
    if certificate_file is not None:
        try:
            # A password of our own, lest OpenSSL ask the terminal for one and wait.
            context.load_cert_chain(certificate_file, key_file, password="")
        except OSError as error:
            raise _unusable("certificate_file or key_file", certificate_file, error) from None
    context.sslsocket_class = _TidySocket
    return context


class _TidySocket(ssl.SSLSocket):
    """Closes itself when the handshake fails: paho forgets it then, with each try of an outage another one."""

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - as ssl declares it
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


def _unusable(option: str, path: str | None, error: OSError) -> TlsFileUnusable:
    why = "is no usable PEM file" if isinstance(error, ssl.SSLError) else str(error.strerror).lower()
    return TlsFileUnusable(f"alerts.mqtt.{option}: {path}: {why}; name a readable PEM file, its key not encrypted")
