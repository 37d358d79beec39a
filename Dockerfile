# The software of this workflow in one image: jobs run in it with `snakemake --sdm apptainer`, and
# `docker run --rm IMAGE quicknat --help` works too. It has the versions of requirements.lock.
#
#   docker build --tag quicknat:0.1.0 .
#   apptainer build quicknat.sif docker-daemon://quicknat:0.1.0
#   snakemake --sdm apptainer --config container=$PWD/quicknat.sif
#
# Nobody has published it, and it has not been built where it was written (there was neither Docker
# nor a registry); tests/unit/test_environments.py compares it with the lock and pyproject.toml.
FROM python:3.11-slim

# git: for sources of that kind; g++: torch.compile
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ git \
    && rm -rf /var/lib/apt/lists/*

# torch first and by itself, as in the Makefile: --build-arg TORCH=... chooses another build
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
CMD ["quicknat", "--help"]
