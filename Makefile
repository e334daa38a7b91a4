# `make figures` reproduces the paper, `make test` checks the project, and `make publish` takes a whole
# run with real data over into figures/published/. All make .venv first.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.installed

.PHONY: figures figures-beyond publish test test-slow lint format benchmark docs package lock clean

figures: $(READY)
	$(RUN) -m scripts.reproduce $(ARGS)

# Beyond the paper, and longer: what scores are worth.
figures-beyond: $(READY)
	$(RUN) -m scripts.datamodeling_mnist $(ARGS)

publish: $(READY)
	$(RUN) -m scripts.publish $(ARGS)

test: $(READY)
	$(RUN) -m pytest -n 2 --dist loadfile $(ARGS)

# What `make test` leaves out: the longest tests, which take longer than all others together.
test-slow: $(READY)
	$(RUN) -m pytest -n 2 --dist loadfile -m slow $(ARGS)

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(READY)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

benchmark: $(READY)
	$(RUN) -m benchmarks.fig2_against_2017 $(ARGS)
	$(RUN) -m benchmarks.cnn_against_2017 $(ARGS)

# The site, in site/: links are checked, and a warning is an error.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

# Wheel and sdist, in dist/.
package: $(READY)
	rm -rf build dist
	$(RUN) -m build --quiet
	ls dist

$(READY): requirements.lock
	$(PYTHON) -m venv --clear $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	touch $@

# Needs uv; every platform and Python version in one file, without index addresses.
lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links --quiet requirements.txt -o requirements.lock

clean:
	rm -rf $(VENV) output build dist site
