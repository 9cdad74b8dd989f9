# Every verb a newcomer needs. `make demo` and `make test` set everything up by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

# A recipe that was cut off leaves no empty secret that counts as made.
.DELETE_ON_ERROR:

.PHONY: demo test test-long containers-test zoo bench gate mutations secrets check lint lock up clean

demo: $(INSTALLED)  ## train on photographs by HTTP and ask about ten that no training saw; DEMO_DATA=FOLDER gives it yours
	$(BIN)/catdog demo $(if $(DEMO_DATA),--data "$(DEMO_DATA)")

test: $(INSTALLED)  ## all tests that take less than fifteen minutes together
	$(BIN)/pytest -n 2 --dist loadfile -m "not long and not gpu and not containers"

test-long: $(INSTALLED)  ## the rest: minutes each
	$(BIN)/pytest -m "long and not containers"

containers-test: $(INSTALLED)  ## build the images and run them for real, in the Docker engine that answers; QUICK=1 leaves out the worker image's gigabytes
	$(BIN)/pytest -m "containers$(if $(QUICK), and not long)" -s --timeout 3600

zoo: $(INSTALLED)  ## the doctor looks at every healthy network there is, an hour or two; what was broken off goes on
	$(BIN)/python -m tests.mutations.zoo --torchvision --out "$(or $(ZOO_OUT),$(VENV)/zoo.jsonl)"

# The peers lie beside the environment, not in it: nothing of catdog may come to need them.
BENCH_DATA ?= $(VENV)/pictures
bench: $(INSTALLED) $(VENV)/bench/installed $(VENV)/servers/installed $(BENCH_DATA)  ## speed beside the peers', an hour on a machine left alone; BENCH_DATA=FOLDER gives it photographs
	$(BIN)/python -m tests.bench.loading --data "$(BENCH_DATA)" $(if $(BENCH_OUT),--out "$(BENCH_OUT)")
	$(BIN)/python -m tests.bench.guards $(if $(BENCH_OUT),--out "$(BENCH_OUT)")
	PYTHONPATH=$(VENV)/bench $(BIN)/python -m tests.bench.training --data "$(BENCH_DATA)" $(if $(BENCH_OUT),--out "$(BENCH_OUT)")
	PYTHONPATH=$(VENV)/servers $(BIN)/python -m tests.bench.serving --data "$(BENCH_DATA)"
	$(BIN)/python -m tests.bench.beside ready --data "$(BENCH_DATA)"
	$(BIN)/python -m tests.bench.beside health --data "$(BENCH_DATA)"
	$(BIN)/python -m tests.bench.beside training --data "$(BENCH_DATA)"

gate: $(INSTALLED)  ## does a model that was trained on wrong labels become the champion? four minutes; GATE_DATA=FOLDER of photographs, train/ val/ test/ with names like cat.12.jpg
	$(BIN)/python -m tests.bench.gate --data "$(or $(GATE_DATA),$(error Expected GATE_DATA=FOLDER of photographs, with train/ val/ test/ and names like cat.12.jpg. Received: none))"

# A second call goes on where the first was broken off, and only shows its tables when all is done; `make clean` forgets.
mutations: $(INSTALLED) $(VENV)/doctors/installed  ## does the doctor find 43 planted faults, name them and leave the healthy alone, and do others? an hour; MUTANTS=FOLDER gives it yours
	$(MUTATIONS) --qa
	$(MUTATIONS) --examiner doctor
	$(MUTATIONS) --examiner torchtest2,preflight-ml,torch-audit,ruff,overfit,curves --seeds 1
MUTATIONS = PYTHONPATH=$(VENV)/doctors $(BIN)/python -m tests.mutations --out $(VENV)/mutations.jsonl $(if $(MUTANTS),--mutants "$(MUTANTS)")

$(VENV)/pictures: | $(INSTALLED)
	$(BIN)/catdog data draw $@ --count 1200 --size 448

$(VENV)/bench/installed: $(INSTALLED) requirements/bench.txt
	rm -rf $(VENV)/bench
	$(PIP) --require-hashes --target $(VENV)/bench -r requirements/bench.txt
	touch $@

$(VENV)/servers/installed: $(INSTALLED) requirements/servers.txt
	rm -rf $(VENV)/servers
	$(PIP) --require-hashes --target $(VENV)/servers -r requirements/servers.txt
	touch $@

$(VENV)/doctors/installed: $(INSTALLED) requirements/doctors.txt
	rm -rf $(VENV)/doctors
	$(PIP) --require-hashes --target $(VENV)/doctors -r requirements/doctors.txt
	touch $@

check: $(INSTALLED)  ## ruff and mypy; changes nothing
	$(BIN)/ruff check
	$(BIN)/mypy

lint: $(INSTALLED)  ## mend what ruff can mend
	$(BIN)/ruff check --fix

lock: $(INSTALLED)  ## write the locks anew from pyproject.toml; no registry address goes into them
	$(BIN)/uv pip compile -q --upgrade pyproject.toml $(LOCK) --extra train --extra track --extra embedded --extra test -o $(VENV)/full.txt
	$(BIN)/uv pip compile -q pyproject.toml $(LOCK) -c $(VENV)/full.txt --extra train -o $(VENV)/worker.txt
	$(BIN)/uv pip compile -q pyproject.toml $(LOCK) -c $(VENV)/full.txt $(NO_SCIPY) -o requirements/service-cpu.txt
	$(BIN)/uv pip compile -q --upgrade pyproject.toml $(LOCK) -c $(VENV)/full.txt --extra cuda --no-emit-package onnxruntime $(NO_SCIPY) -o requirements/service-cuda.txt
	$(BIN)/uv pip compile -q --upgrade --group pyproject.toml:sbom $(LOCK) -o requirements/sbom.txt
	awk '$(TORCH_PARTS) torch' $(VENV)/full.txt > requirements/torch.txt
	awk '$(TORCH_PARTS) !torch' $(VENV)/full.txt > requirements/full.txt
	awk '$(TORCH_PARTS) !torch' $(VENV)/worker.txt > requirements/worker.txt
	$(BIN)/uv pip compile -q --upgrade --group pyproject.toml:bench $(LOCK) -c $(VENV)/full.txt -o $(VENV)/bench.txt
	awk '/^[a-z0-9]/ { more = !seen[$$1]++ && FILENAME == "$(VENV)/bench.txt" } more' $(VENV)/full.txt $(VENV)/bench.txt > requirements/bench.txt
	awk '/^[a-z0-9]/ { more = !/^opentelemetry/ } more' $(VENV)/full.txt > $(VENV)/known.txt
	$(BIN)/uv pip compile -q --upgrade --group pyproject.toml:servers $(LOCK) -c $(VENV)/known.txt -o $(VENV)/servers.txt
	awk '/^[a-z0-9]/ { more = !seen[$$1]++ && FILENAME == "$(VENV)/servers.txt" } more' $(VENV)/full.txt $(VENV)/servers.txt > requirements/servers.txt
	$(BIN)/uv pip compile -q --upgrade --group pyproject.toml:doctors $(LOCK) -c $(VENV)/full.txt -o $(VENV)/doctors.txt
	awk '/^[a-z0-9]/ { more = !seen[$$1]++ && FILENAME == "$(VENV)/doctors.txt" } more' $(VENV)/full.txt $(VENV)/doctors.txt > requirements/doctors.txt
LOCK := --generate-hashes --no-emit-index-url --no-header --no-annotate --python-version 3.11
NO_SCIPY := --no-emit-package scipy  # ImageHash's, for hashes that the service does not ask for
# Torch and the compiled parts of its ordinary build have a lock of their own: with TORCH_INDEX they come from that index instead.
TORCH_PARTS := /^[a-z0-9]/ { torch = /^(torch|torchvision|triton|nvidia-[^=]*|cuda-[^=]*)==/ }

# Words of 256 random bits. The containers' uid must be able to read the files; the folder keeps others on this machine out.
SECRET := od -An -N32 -tx1 /dev/urandom | tr -d ' \n'
secrets: secrets/catdog_token secrets/catdog_database_url secrets/catdog_redis_url  ## the token and passwords that the containers use; made once, in secrets/
	@chmod 644 secrets/*

secrets/catdog_token secrets/postgres_password secrets/redis_password:
	@mkdir -p -m 700 secrets
	$(SECRET) > $@
secrets/catdog_database_url: secrets/postgres_password
	printf 'postgresql+psycopg://catdog:%s@postgres:5432/catdog' "$$(cat $<)" > $@
secrets/redis_conf: secrets/redis_password
	printf 'requirepass %s\n' "$$(cat $<)" > $@
secrets/catdog_redis_url: secrets/redis_password secrets/redis_conf
	printf 'redis://:%s@redis:6379/0' "$$(cat $<)" > $@

up: $(INSTALLED)  ## the service, a worker and a Redis on this machine
	$(BIN)/catdog up

clean:  ## remove the virtual environment
	rm -rf $(VENV)

# Without compiling 5 GB of Python files, of which few are ever imported: the first import of one does it.
PIP := $(BIN)/pip install --quiet --no-deps --no-compile
$(INSTALLED): requirements/full.txt requirements/torch.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	@echo "installing (5.4 GB, about three minutes; TORCH_INDEX=URL takes a smaller torch from an index you name)"
	$(PIP) --require-hashes -r requirements/full.txt
ifdef TORCH_INDEX
	@echo "TORCH_INDEX is set: torch and torchvision of the locked versions come from $(TORCH_INDEX), without their hashes"
	$(PIP) --index-url $(TORCH_INDEX) $$(grep -oE '^torch(vision)?==[^ ]+' requirements/torch.txt)
else
	$(PIP) --require-hashes -r requirements/torch.txt
endif
	$(PIP) --no-build-isolation --editable .
	touch $@
