# What a person does with this repository; `make` lists it.

PYTHON ?= python3
VENV    = .venv
BIN     = $(VENV)/bin

DATA   ?= build/demo/topics.txt
STEPS  ?= 400
SAMPLE ?= 400
PROMPT ?= "The "
TESTS  ?= tests
WORKERS ?= auto
SHARED ?= ../shared
BASE   ?= HEAD
SECONDS ?= 60
CASES  ?=
MINUTES ?= 10

.DEFAULT_GOAL = help

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

# A virtual environment with the package in it, made anew when what it depends on changes.
$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "mlc wants Python 3.11 or newer: make PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { echo "no venv module (Debian, Ubuntu: apt-get install python3-venv)"; exit 2; }
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

build/demo/topics.txt:
	@mkdir -p $(@D)
	$(PYTHON) -c 'from pydoc_data.topics import topics; print(*(topics[k] for k in sorted(topics)), sep="\n\n")' > $@

demo: $(VENV)/installed $(DATA) ## Compile a GPT, train it on text (DATA=book.txt, default: Python's manual) and let it write
	$(BIN)/mlc compile examples/gpt.dsl -o build/demo
	build/demo/gpt --data '$(DATA)' --steps $(STEPS) --sample $(SAMPLE) --prompt $(PROMPT)

# What several tests compile is compiled once where there is a ccache; neighbours in a file, which share programs, run in one worker.
CCACHE = $(addsuffix :,$(firstword $(wildcard /usr/lib/ccache /usr/lib64/ccache)))

test: $(VENV)/installed-test ## Run the tests (TESTS=tests/test_cli.py, WORKERS=2; CI=true: the slow ones too)
	PATH="$(CCACHE)$$PATH" $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(if $(CI),,-m "not slow") $(TESTS)

acceptance: $(VENV)/installed ## Measure what the README states (half an hour; wants an idle machine; PEERS as for bench)
	$(BIN)/python benchmarks/acceptance.py $(if $(PEERS),--peers $(SHARED)/bench/pipeline_peers.py --python $(PEERS)) $(FIGURES)

bench: $(VENV)/installed ## Time training steps beside PyTorch and JAX (PEERS=python of an environment that has them)
	$(BIN)/python benchmarks/against_peers.py --peers $(SHARED)/bench/peers.py --python $(or $(PEERS),python3)

# No environment is made: a machine with a GPU may have no network, and its Python has the peers.
gpu-check: ## See what a GPU does with the programs for it, for MINUTES (PYTHON with lark, cffi, click, numpy, pytest, hypothesis)
	@mkdir -p build/packages && ln -sfn ../../compiler build/packages/mlc
	PYTHONPATH=$(CURDIR)/build/packages $(PYTHON) benchmarks/gpu_check.py --minutes $(MINUTES)

attack: $(VENV)/installed ## Play faults on real programs: links, two writers, signals, full disks ... (CASES="checkpoints")
	$(BIN)/python benchmarks/attack.py $(CASES)

fuzz: $(VENV)/installed ## Damage models and data files for SECONDS each; nothing may break
	$(BIN)/python benchmarks/fuzz.py --seconds $(SECONDS)
	$(MAKE) -C runtime fuzz SECONDS=$(SECONDS)

replay: $(VENV)/installed ## Show how the emitted code of every example differs from BASE's (a refactoring: not at all)
	$(BIN)/python benchmarks/replay.py --base $(BASE)

lint: $(VENV)/installed ## Check style and types
	@mkdir -p build/packages && ln -sfn ../../compiler build/packages/mlc
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[lint]'
	$(BIN)/ruff check compiler tests benchmarks
	$(BIN)/basedpyright

docs: $(VENV)/installed ## Write the generated pages of spec/
	$(BIN)/python -m mlc.docs spec

clean: ## Remove what was built, the environment apart
	rm -rf build *.egg-info

.PHONY: help demo test gpu-check attack acceptance bench fuzz replay lint docs clean
