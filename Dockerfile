# CPU image by default; `--build-arg DEVICE=cuda` for NVIDIA GPUs. docs/docker.md explains both.
FROM python:3.11-slim

# git: records name the commit; make: `make test VENV=`. Debian keeps no earlier versions to pin.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/* \
    && git config --system --add safe.directory /workspace

WORKDIR /workspace
COPY . .

# PyTorch's own index has the wheels without CUDA, whose local version (+cpu) pip prefers. Wheels of
# the package index bring CUDA's libraries; the host needs the driver only.
ARG DEVICE=cpu
ENV PIP_NO_CACHE_DIR=1
RUN case "$DEVICE" in \
        cpu) export PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu ;; \
        cuda) ;; \
        *) echo "DEVICE is '$DEVICE', must be cpu or cuda" >&2; exit 2 ;; \
    esac \
    && python requirements/install.py

# for `docker run --user`: caches of an unknown user, directories that it may write to
ENV HOME=/tmp
RUN mkdir -p output datasets && chmod 1777 output datasets

ENTRYPOINT ["mask-rcnn-repro"]
CMD ["--help"]
