ARG PYTHON_IMAGE=docker.io/library/python:3.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
# Builds of PyTorch for the CPU; without it pip takes those for CUDA, which are 4 GB larger.
ARG PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
WORKDIR /src
RUN python -m venv --without-pip /opt/rtmo-deploy
COPY pyproject.toml README.md LICENSE ./
COPY rtmo_deploy rtmo_deploy
RUN python -m pip --python /opt/rtmo-deploy/bin/python install --no-cache-dir ".[cpu]"

FROM ${PYTHON_IMAGE}
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="rtmo-deploy" \
      org.opencontainers.image.description="Exports, converts and runs RTMO pose models on the CPU" \
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
