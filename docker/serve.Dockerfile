ARG PYTHON_IMAGE=docker.io/library/python:3.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
# Builds of PyTorch for the CPU; without it pip takes those for CUDA, which are 4 GB larger.
ARG PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
WORKDIR /src
RUN python -m venv --without-pip /opt/rtmo-deploy
COPY pyproject.toml README.md LICENSE ./
COPY rtmo_deploy rtmo_deploy
RUN python -m pip --python /opt/rtmo-deploy/bin/python install --no-cache-dir ".[cpu,serve]"

FROM ${PYTHON_IMAGE}
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="rtmo-deploy" \
      org.opencontainers.image.description="Serves RTMO pose models over HTTP on the CPU" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/rtmo-deploy/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
COPY --from=build /opt/rtmo-deploy /opt/rtmo-deploy
WORKDIR /models
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import http.client, sys; server = http.client.HTTPConnection('127.0.0.1', 8000, timeout=4); server.request('GET', '/v2/health/ready'); sys.exit(server.getresponse().status != 200)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["rtmo-deploy", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["/models/model.onnx"]
