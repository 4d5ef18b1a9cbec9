# The image of the `cpu` worker, the ECS worker of the `p4d` pool and the commands; without torch.  Build it from the
# repository root:
#   docker build -f deployments/docker/orchestrator.Dockerfile -t rlhf-orchestrator --build-arg BASE_DIGEST=sha256:... .
# with the digest of the base image that you have checked, which this prints:
#   docker buildx imagetools inspect python:3.11-slim-bookworm --format '{{.Manifest.Digest}}'
# Run a worker:
#   docker run -e PREFECT_API_URL=... -v /workspace:/workspace rlhf-orchestrator prefect worker start --pool cpu
ARG BASE_DIGEST
FROM python:3.11-slim-bookworm@${BASE_DIGEST}

# tini reaps orphaned processes.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 1000 rlhf \
    && useradd --create-home --uid 1000 --gid 1000 rlhf

WORKDIR /opt/rlhf
COPY pyproject.toml requirements.lock development.lock README.md LICENSE ./
# The lock files list all dependencies, so packages that the orchestrator never imports can be excluded by name, and the
# ECS worker added; an entry goes on while its lines end in a backslash.
RUN sed -E '/^(trl|accelerate|detoxify|alt-profanity-check|scikit-learn|datasets|tensorboard.*)==/,/[^\\]$/d' \
      requirements.lock > orchestrator.lock \
    && sed -nE '/^(prefect-aws|mypy-boto3-.*|tenacity)==/,/[^\\]$/p' development.lock >> orchestrator.lock
RUN pip install --no-cache-dir --no-deps --only-binary=:all: --require-hashes --requirement orchestrator.lock
COPY flows flows
COPY tasks tasks
COPY rlhf rlhf
COPY deployments deployments
RUN pip install --no-cache-dir --no-deps --no-build-isolation --editable .

USER 1000:1000
ENV PREFECT_SERVER_ANALYTICS_ENABLED=false DO_NOT_TRACK=1
ENTRYPOINT ["tini", "--"]
CMD ["rlhf", "--help"]
