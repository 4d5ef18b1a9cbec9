# A GPU step: what a worker of the `p4d` pool runs.  Build from the repository root on a machine with the CUDA wheels:
#   docker build -f deployments/docker/gpu.Dockerfile -t rlhf-gpu .
# Push it and give its digest to the work pool as `image`.
FROM nvidia/cuda:13.0.1-runtime-ubuntu22.04

# libfabric and the NCCL plug-in come with the EFA installer of the machine image; rdma-core is the user-space half.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini util-linux python3.11 python3.11-venv rdma-core libibverbs1 \
    && rm -rf /var/lib/apt/lists/* \
    && python3.11 -m venv /opt/venv \
    && useradd --create-home --uid 1000 rlhf
ENV PATH=/opt/venv/bin:$PATH

WORKDIR /opt/rlhf
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY flows flows
COPY tasks tasks
COPY rlhf rlhf
COPY deployments deployments
RUN pip install --no-cache-dir --constraint requirements.lock --editable .

USER rlhf
ENV PREFECT_SERVER_ANALYTICS_ENABLED=false DO_NOT_TRACK=1 HF_HOME=/workspace/huggingface
# ECS sends TERM to tini, which passes it on; the flow then gives the ranks time to save a checkpoint.
ENTRYPOINT ["tini", "-g", "--"]
CMD ["prefect", "worker", "start", "--pool", "p4d"]
