# Celosia.  Every target sets up .venv by itself, once; see README.md.
#
#   make [verilog] CONFIG=kv260     Verilog of a configuration, in build/verilog/<config>
#   make demo                       text from the simulated accelerator, checked against the golden model
#   make test                       all tests but the slow ones        make test-all    all tests
#   make sim                        the cocotb benches only            make bench       measured figures (BENCH=--full)
#   make lint                       ruff                               make clean       forget everything built

CONFIG ?= kv260
PROMPT ?= The people of the United States
TOKENS ?= 96
JOBS   ?= 2
BENCH  ?=

STAMP   := .venv/ready-$(shell cat requirements.lock pyproject.toml setup.py tools/setup.sh | sha256sum | cut -c1-16)
PYTEST  := .venv/bin/python -m pytest -q -n $(JOBS)
CELOSIA := .venv/bin/celosia

# Idle OpenMP threads sleep instead of spinning beside the simulator; transformers runs uncompiled.
export OMP_WAIT_POLICY := passive
export TORCHDYNAMO_DISABLE := 1

.PHONY: verilog demo test test-all sim bench lint clean setup

verilog: $(STAMP)
	$(CELOSIA) verilog --config $(CONFIG) -o build/verilog/$(CONFIG)

demo: $(STAMP)
	$(CELOSIA) run --model demo --config tiny --backend sim --prompt "$(PROMPT)" -n $(TOKENS) --temperature 0.6 --seed 1 --check

test: $(STAMP)
	$(PYTEST) -m "not slow"

test-all: $(STAMP)
	$(PYTEST)

sim: $(STAMP)
	$(PYTEST) -m sim

bench: $(STAMP)
	.venv/bin/python -m celosia.sim_tb.performance --jobs $(JOBS) $(BENCH)
	$(CELOSIA) resources --config tiny --write-docs
	$(CELOSIA) resources --config kv260 --write-docs
	$(CELOSIA) resources --config binary-tiny --write-docs
	$(CELOSIA) resources --config binary-kv260 --write-docs

lint: $(STAMP)
	.venv/bin/ruff check .

setup: $(STAMP)

$(STAMP):
	@tools/setup.sh $@

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
