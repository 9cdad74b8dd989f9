# Every verb a newcomer needs. `make demo` and `make test` set everything up by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
# The compiled parts of an ordinary torch; with TORCH_INDEX they come from that index instead.
TORCH_PARTS := torch|torchvision|triton|nvidia-.*|cuda-.*

.PHONY: demo test test-long check lint lock up clean

demo: $(INSTALLED)  ## train on photographs by HTTP and ask about ten that no training saw; DEMO_DATA=FOLDER gives it yours
	$(BIN)/catdog demo $(if $(DEMO_DATA),--data "$(DEMO_DATA)")

test: $(INSTALLED)  ## all tests that take less than ten minutes together
	$(BIN)/pytest -m "not long and not gpu"

test-long: $(INSTALLED)  ## the rest: minutes each
	$(BIN)/pytest -m "long"

check: $(INSTALLED)  ## ruff and mypy; changes nothing
	$(BIN)/ruff check
	$(BIN)/mypy

lint: $(INSTALLED)  ## mend what ruff can mend
	$(BIN)/ruff check --fix

lock: $(INSTALLED)  ## write both locks anew from pyproject.toml; no registry address goes into them
	$(BIN)/uv pip compile -q --upgrade pyproject.toml $(LOCK) --all-extras -o requirements/full.txt
	$(BIN)/uv pip compile -q pyproject.toml $(LOCK) -c requirements/full.txt -o requirements/service.txt
LOCK := --generate-hashes --no-emit-index-url --no-header --no-annotate --python-version 3.11

up: $(INSTALLED)  ## the service, a worker and a Redis on this machine
	$(BIN)/catdog up

clean:  ## remove the virtual environment
	rm -rf $(VENV)

$(INSTALLED): requirements/full.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
ifdef TORCH_INDEX
	@echo "TORCH_INDEX is set: torch and torchvision of the locked versions come from $(TORCH_INDEX), without their hashes"
	awk '/^[a-z0-9]/ { skip = ($$0 ~ /^($(TORCH_PARTS))==/) } !skip' requirements/full.txt > $(VENV)/others.txt
	$(BIN)/pip install --quiet --no-deps --require-hashes -r $(VENV)/others.txt
	$(BIN)/pip install --quiet --no-deps --index-url $(TORCH_INDEX) \
		$$(sed -n 's/^\(torch\|torchvision\)\(==[^ ]*\).*/\1\2/p' requirements/full.txt)
else
	@echo "installing (5.4 GB, about three minutes; TORCH_INDEX=URL takes a smaller torch from an index you name)"
	$(BIN)/pip install --quiet --require-hashes -r requirements/full.txt
endif
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@
