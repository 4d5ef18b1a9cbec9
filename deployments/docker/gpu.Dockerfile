# The image of a GPU stage or of a worker of the `p4d` pool.  Build it from the repository root:
#   docker build -f deployments/docker/gpu.Dockerfile -t rlhf-gpu --build-arg BASE_DIGEST=sha256:... .
# with the digest of the base image that you have checked, which this prints:
#   docker buildx imagetools inspect nvidia/cuda:13.0.1-runtime-ubuntu22.04 --format '{{.Manifest.Digest}}'
# Push it, and set the variable `image` of the work pool to its digest.
ARG BASE_DIGEST
FROM nvidia/cuda:13.0.1-runtime-ubuntu22.04@${BASE_DIGEST}

# rdma-core is the user-space part of EFA.  The machine image has the EFA installer with libfabric and the NCCL plug-in.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini python3.11 python3.11-venv rdma-core libibverbs1 \
    && rm -rf /var/lib/apt/lists/* \
    && python3.11 -m venv /opt/venv \
    && groupadd --gid 1000 rlhf \
    && useradd --create-home --uid 1000 --gid 1000 rlhf
ENV PATH=/opt/venv/bin:$PATH

WORKDIR /opt/rlhf
COPY pyproject.toml requirements.lock torch.lock README.md LICENSE ./
RUN pip install --no-cache-dir --no-deps --only-binary=:all: --require-hashes --requirement torch.lock \
    && pip install --no-cache-dir --no-deps --only-binary=:all: --require-hashes --requirement requirements.lock
COPY flows flows
COPY tasks tasks
COPY rlhf rlhf
COPY deployments deployments
RUN pip install --no-cache-dir --no-deps --no-build-isolation --editable .

USER 1000:1000
ENV PREFECT_SERVER_ANALYTICS_ENABLED=false DO_NOT_TRACK=1 HF_HOME=/workspace/huggingface
# ECS sends SIGTERM to tini, which forwards it; the flow then gives the ranks time to save a checkpoint.
ENTRYPOINT ["tini", "-g", "--"]
CMD ["prefect", "worker", "start", "--pool", "p4d"]
