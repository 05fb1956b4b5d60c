# A service that scores photos, as a user without rights:
#
#   docker build -t charm-hf . && docker run --rm -p 127.0.0.1:8000:8000 charm-hf
#   docker build -t charm-hf:cuda --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 .   # run with --gpus all
#   docker run --rm -v "$PWD/model:/model:ro" -p 127.0.0.1:8000:8000 -e CHARM_HF_TOKEN=… charm-hf --model /model
FROM python:3.11-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG TORCH_VERSION=2.13.0

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app
RUN pip install --index-url "$TORCH_INDEX" "torch==$TORCH_VERSION"
COPY pyproject.toml setup.cfg constraints.txt README.md LICENSE ./
COPY charm_hf charm_hf
COPY charm_hf_cli charm_hf_cli
RUN pip install -c constraints.txt ".[serve]" && useradd --create-home --uid 1000 charm
USER 1000
WORKDIR /home/charm
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=5)"]
# The container's own network is what keeps others out; -p decides who gets in.
ENTRYPOINT ["charm-hf", "serve", "--host", "0.0.0.0"]
