# mobile_sam for the CPU (`--target cpu`) and for NVIDIA GPUs (`--target cuda`); docs/install.md has
# the commands.
ARG PYTHON=3.11.13-slim-bookworm
ARG TORCH="torch==2.14.1 torchvision==0.29.1"
ARG EXTRAS=onnx

FROM python:${PYTHON} AS wheel
WORKDIR /source
COPY LICENSE README.md Snakefile pyproject.toml ./
COPY configs configs
COPY mobile_sam mobile_sam
COPY profiles profiles
COPY workflow workflow
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON} AS system
RUN python -m venv /opt/mobile_sam \
    && useradd --uid 1000 --home-dir /work --create-home sam
# Caches go to the directory that is mounted; whoever --user names has no name of its own.
ENV PATH=/opt/mobile_sam/bin:$PATH HOME=/work USER=sam PYTHONUNBUFFERED=1
WORKDIR /work
CMD ["mobile-sam", "--help"]

# Torch has a layer of its own: it is gigabytes, and changes less often than the package.
FROM system AS cpu
ARG TORCH
ARG TORCH_INDEX
# The versions stand in TORCH.
# hadolint ignore=DL3013
RUN if [ -z "$TORCH_INDEX" ] && [ "$(uname -m)" = x86_64 ]; then \
        echo "error: give --build-arg TORCH_INDEX=URL, the index of PyTorch's builds for CPUs" >&2; \
        exit 1; \
    fi; \
    pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} $TORCH
ARG EXTRAS
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir "$(echo /wheels/*.whl)[$EXTRAS]" \
    && ln -s "$(dirname "$(mobile-sam where)")" /opt/workflow
USER 1000

# The builds of the default index bring CUDA along; the machine has the driver.
FROM system AS cuda
ARG TORCH
# hadolint ignore=DL3013
RUN pip install --no-cache-dir $TORCH
ARG EXTRAS
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir "$(echo /wheels/*.whl)[$EXTRAS]" \
    && ln -s "$(dirname "$(mobile-sam where)")" /opt/workflow
USER 1000
