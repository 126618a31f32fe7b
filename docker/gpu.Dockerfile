# TensorRT 10 for CUDA 12, with cuDNN and Python 3.12.
ARG TENSORRT_IMAGE=nvcr.io/nvidia/tensorrt:25.06-py3

FROM ${TENSORRT_IMAGE} AS build
ARG PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cu126
WORKDIR /src
RUN python3 -m venv --system-site-packages /opt/rtmo-deploy
COPY pyproject.toml README.md LICENSE ./
COPY rtmo_deploy rtmo_deploy
RUN /opt/rtmo-deploy/bin/python -m pip install --no-cache-dir ".[gpu,trt,serve]" "tensorrt<11" "cuda-bindings<13"

FROM ${TENSORRT_IMAGE}
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="rtmo-deploy" \
      org.opencontainers.image.description="Exports, builds and runs RTMO pose models on an NVIDIA GPU" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/rtmo-deploy/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
COPY --from=build /opt/rtmo-deploy /opt/rtmo-deploy
WORKDIR /data
USER 10001:10001
ENTRYPOINT ["rtmo-deploy"]
CMD ["--help"]
