# A BIDS App, and the software of this workflow's jobs (Snakemake with --sdm apptainer, or Kubernetes),
# for CPU and GPU. It has the versions of requirements.lock.
#
#   docker build --tag quicknat:0.1.0 .       # torch with CUDA, 8 GB; drivers are the host's
#   docker build --tag quicknat:0.1.0-cpu \
#     --build-arg TORCH="torch==2.13.0+cpu --extra-index-url https://download.pytorch.org/whl/cpu" .
#   docker run --rm --gpus all -v /bids:/in:ro -v /out:/out quicknat:0.1.0 /in /out participant
#   docker run --rm --entrypoint quicknat quicknat:0.1.0 --help
#   apptainer build quicknat.sif docker-daemon://quicknat:0.1.0
#   snakemake --sdm apptainer --config container=$PWD/quicknat.sif
#
# .github/workflows/publish.yml builds and publishes both on a tag.
FROM python:3.11-slim

# git: for sources of that kind; g++: torch.compile
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ git \
    && rm -rf /var/lib/apt/lists/*

# torch first and by itself, as in the Makefile
ARG TORCH=torch==2.13.0
WORKDIR /opt/quicknat
COPY requirements.lock .
RUN pip install --no-cache-dir $TORCH \
    && pip install --no-cache-dir --requirement requirements.lock

COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir --no-deps .

# for users without a name or a home (docker run --user); no Python packages from a mounted home
ENV USER=quicknat XDG_CACHE_HOME=/tmp/cache MPLCONFIGDIR=/tmp/cache/matplotlib PYTHONNOUSERSITE=1

WORKDIR /work
ENTRYPOINT ["quicknat-bids"]
CMD ["--help"]
