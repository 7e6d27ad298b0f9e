# svfap serve in a container, on the processor or on an NVIDIA GPU:
#
#   docker build -t svfap .                                                            # CPU
#   docker build -t svfap:gpu --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 .
#   docker run --rm -p 8000:8000 -v svfap:/data svfap                                  # prints the token
#   docker run --rm -p 8000:8000 -v svfap:/data --gpus all svfap:gpu
#   docker run --rm --shm-size 8g -v "$PWD:/data" -u "$(id -u):$(id -g)" svfap svfap finetune --help
#
# Training with --num_workers hands batches over in /dev/shm, of which Docker gives 64 MB: add --shm-size 8g. The server needs none.
# The CUDA libraries come with torch; the machine needs NVIDIA's driver and container toolkit.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY constraints.txt /tmp/
RUN pip install --no-cache-dir --constraint /tmp/constraints.txt --index-url "${TORCH_INDEX}" torch
COPY --from=build /wheels /tmp/wheels
RUN pip install --no-cache-dir --constraint /tmp/constraints.txt "$(echo /tmp/wheels/svfap-*.whl)[app]"
# Models of the Hub and the face detector are kept with the data.
ENV HOME=/data HF_HOME=/data/.cache/huggingface
RUN useradd --uid 1000 --home-dir /data --create-home svfap
USER 1000
WORKDIR /data
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
CMD ["svfap", "serve", "--host", "0.0.0.0", "--port", "8000", "--folder", "/data/jobs"]
