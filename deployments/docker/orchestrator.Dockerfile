# The image of the `cpu` worker, the ECS worker of the `p4d` pool and the commands; without torch.  Build it from the
# repository root:
#   docker build -f deployments/docker/orchestrator.Dockerfile -t rlhf-orchestrator .
# Run a worker:
#   docker run -e PREFECT_API_URL=... -v /workspace:/workspace rlhf-orchestrator prefect worker start --pool cpu
FROM python:3.11-slim-bookworm

# setpriv (util-linux) ends a stage together with its flow; tini reaps orphaned processes.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini util-linux \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 rlhf

WORKDIR /opt/rlhf
COPY pyproject.toml requirements.lock README.md LICENSE ./
# The lock file lists all dependencies, so packages that the orchestrator never imports can be excluded by name.
RUN grep --invert-match --extended-regexp \
      '^(torch|triton|nvidia-.*|cuda-.*|trl|accelerate|detoxify|alt-profanity-check|scikit-learn|datasets|tensorboard.*|pytest.*|hypothesis|mypy|ruff|moto|playwright)==' \
      requirements.lock > orchestrator.lock \
    && pip install --no-cache-dir --no-deps --requirement orchestrator.lock
COPY flows flows
COPY tasks tasks
COPY rlhf rlhf
COPY deployments deployments
RUN pip install --no-cache-dir --no-deps --editable .

USER rlhf
ENV PREFECT_SERVER_ANALYTICS_ENABLED=false DO_NOT_TRACK=1
ENTRYPOINT ["tini", "--"]
CMD ["rlhf", "--help"]
