# Reproduces the paper's figures (`docker run IMAGE`) and checks the project (`docker run IMAGE make
# test`). To bring data and to keep what is computed, mount folders that user 1000 may write to:
#
#   docker build -t influence .
#   docker run -v "$PWD/data:/project/data" -v "$PWD/output:/project/output" \
#              -v "$PWD/figures:/project/figures" influence
#
# With settings: docker run influence make figures ARGS="--scale quick --data stand-in"
# The command, on tables of yours: docker run -v "$PWD:/tables" -w /tables influence influence --help
FROM python:3.11-slim-bookworm

RUN apt-get update \
    && apt-get install --yes --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 1000 reader \
    && install --directory --owner=reader --group=reader /project
USER reader
WORKDIR /project
ENV PYTHONUNBUFFERED=1

# Wheels only: nothing is compiled, so there is nothing to compile with. The packages come before
# the source, which changes more often.
COPY --chown=reader:reader requirements.lock ./
RUN python -m venv .venv \
    && .venv/bin/python -m pip install --quiet --no-cache-dir --disable-pip-version-check \
        --only-binary :all: --require-hashes -r requirements.lock

COPY --chown=reader:reader . ./
# The Makefile installs where this file is older than the lock, whose time is that of the checkout.
RUN touch .venv/.installed \
    && mkdir -p output

# The command `influence`, of the source here.
RUN .venv/bin/python -m pip install --quiet --no-index --no-deps --no-build-isolation --editable .
ENV PATH="/project/.venv/bin:$PATH"

VOLUME ["/project/data", "/project/inception", "/project/output", "/project/figures"]
CMD ["make", "figures"]
