# One image for the driver and the Ray workers.
#
#   docker build -t maskgen .
#   docker run --gpus all -v /data:/data -v /models:/models maskgen run --split pretrain --data /data --out /data/shards \
#       --set refiner.checkpoint=/models/sam_vit_h_4b8939.pth
#   docker run --gpus all --shm-size=8g -v /data:/data maskgen train --recipe age-vlm ... --out /data/run
#
# Training needs --shm-size: its loader's workers hand batches over in /dev/shm, of which a container has 64 MB. Ray keeps
# what is on the way between processes there too.
#
# On a cluster start `ray start --head` and `ray start --address HEAD:6379` in this image (--entrypoint ray), then
# `maskgen run --address auto`. See docs/cluster.md.
FROM nvidia/cuda:13.0.1-base-ubuntu24.04

# The base image names the release; its packages are pinned by it, and older ones vanish from the archive.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv fonts-dejavu-core \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 maskgen

WORKDIR /opt/maskgen
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1

# The dependencies first: they change rarely and weigh 6 GB.
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY maskgen/__init__.py maskgen/__init__.py
# ray[default] has the job server that KubeRay and `ray job submit` talk to.
RUN pip install --no-cache-dir -c requirements.lock '.[cluster,s3]'
COPY maskgen maskgen
RUN pip install --no-cache-dir --no-deps .

USER 10001
WORKDIR /home/maskgen
ENTRYPOINT ["maskgen"]
CMD ["--help"]
