# One image for every role of the fleet: `docker run dspex-fleet` is a worker, other commands are other roles.

FROM python:3.11-slim AS build
WORKDIR /src
COPY deploy/uv.lock deploy/requirements.lock deploy/
RUN python -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir --require-hashes -r deploy/uv.lock
# Without pip: nothing is installed in the image later on.
RUN python -m venv --without-pip /opt/fleet
ENV VIRTUAL_ENV=/opt/fleet UV_LINK_MODE=copy
# First the pinned packages, which change seldom: a change of the source reuses this layer.
RUN /opt/uv/bin/uv pip install --require-hashes --compile-bytecode -r deploy/requirements.lock
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY examples/questions.jsonl examples/
COPY config config
COPY dspex_fleet dspex_fleet
COPY snakepit_bridge snakepit_bridge
COPY tasks tasks
COPY workers workers
# Without isolation, since an isolated build would fetch an unpinned hatchling.
RUN /opt/uv/bin/uv pip install --no-deps --no-build-isolation --compile-bytecode .
# What the sandbox for LM-written code loads, so that it starts without a network and on a read-only disk.
ENV DENO_DIR=/opt/fleet/deno LITELLM_LOCAL_MODEL_COST_MAP=True DSPY_CACHEDIR=/tmp/dspy_cache
RUN /opt/fleet/bin/python -m snakepit_bridge.dspy_integration.sandbox && chmod -R go=u-w /opt/fleet/deno

FROM python:3.11-slim
RUN groupadd --system --gid 10001 fleet \
    && useradd --system --uid 10001 --gid fleet --home-dir /srv/fleet --shell /usr/sbin/nologin fleet
# Owned by root, so that a worker can't change its own code.
COPY --from=build /opt/fleet /opt/fleet
WORKDIR /srv/fleet
# DSPy and LiteLLM else look a price list up on the network, and cache answers on disk.
ENV PATH=/opt/fleet/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    LITELLM_LOCAL_MODEL_COST_MAP=True \
    DSPY_CACHEDIR=/tmp/dspy_cache \
    DENO_DIR=/opt/fleet/deno
USER 10001:10001
STOPSIGNAL SIGTERM
# No HEALTHCHECK: it would also apply to commands that serve no health endpoints. docker-compose.yml has one per service.
CMD ["dspex-fleet", "worker"]
