# One image for every role of the fleet: `docker run dspex-fleet` is a worker, other commands are other roles.

FROM python:3.11-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/fleet
WORKDIR /src
# First the pinned packages, which change seldom: a change of the source reuses this layer.
COPY deploy/requirements.lock deploy/
RUN /opt/fleet/bin/pip install --require-hashes -r deploy/requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY snakepit_bridge snakepit_bridge
# Without isolation, since an isolated build would fetch an unpinned hatchling.
RUN /opt/fleet/bin/pip install --no-deps --no-build-isolation .

FROM python:3.11-slim
RUN groupadd --system --gid 10001 fleet \
    && useradd --system --uid 10001 --gid fleet --home-dir /srv/fleet --shell /usr/sbin/nologin fleet
COPY --from=build /opt/fleet /opt/fleet
WORKDIR /srv/fleet
# The wheel ships the library alone; these make it a fleet. Owned by root, so that a worker can't change its own code.
COPY config config
COPY tasks tasks
COPY workers workers
# DSPy and LiteLLM else look a price list up on the network, and cache answers on disk.
ENV PATH=/opt/fleet/bin:$PATH \
    PYTHONPATH=/srv/fleet \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    LITELLM_LOCAL_MODEL_COST_MAP=True \
    DSPY_CACHEDIR=/tmp/dspy_cache
USER 10001:10001
STOPSIGNAL SIGTERM
# No HEALTHCHECK: it would also apply to commands that serve no health endpoints. docker-compose.yml has one per service.
CMD ["dspex-fleet", "worker"]
