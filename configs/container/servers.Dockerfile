# The broker and the ingest server of compose.yaml: Debian's packages, the ones that Stopframe's tests run against.

FROM debian:12.12-slim AS base

FROM base AS mosquitto
# Debian's security updates are wanted, whatever their versions are called; the release is pinned by the image.
# hadolint ignore=DL3008
RUN groupadd --gid 10002 mosquitto \
 && useradd --uid 10002 --gid 10002 --home-dir /var/lib/mosquitto --shell /usr/sbin/nologin mosquitto \
 && apt-get update \
 && apt-get install --yes --no-install-recommends mosquitto \
 && rm -rf /var/lib/apt/lists/* \
 && chown -R 10002:10002 /var/lib/mosquitto
USER 10002:10002
VOLUME /var/lib/mosquitto
CMD ["mosquitto", "-c", "/etc/mosquitto/mosquitto.conf"]

FROM base AS nginx-rtmp
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends nginx libnginx-mod-rtmp \
 && rm -rf /var/lib/apt/lists/* \
 && ln -sf /dev/stderr /var/log/nginx/error.log
USER 33:33
STOPSIGNAL SIGQUIT
CMD ["nginx", "-g", "daemon off;"]
