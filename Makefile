# make demo     set up and run the main job: train, calibrate, inspect a simulated line live
# make check    lint, types, import contracts and the fast tests: two minutes, while you work
# make test     all of it, end to end as well: a quarter of an hour at most
# make faults   the long faults: a broker away for a minute, rounds of whatever may happen
# make lock     compile the locks anew from pyproject.toml
.PHONY: demo check test faults lint lock clean
.DELETE_ON_ERROR:

BIN := .venv/bin
LOCK_FLAGS := --generate-hashes --no-emit-index-url --no-header --no-annotate --python-version 3.11
TEST_PARTS := tests/plant/kafka-pom.xml tests/plant/asyncapi/package-lock.json
ENVIRONMENT := deploy/environment.sh deploy/uv.lock.txt pyproject.toml

demo: .venv/.runtime
	$(BIN)/clearline demo $(ARGS)

check: lint
	$(BIN)/pytest -q -m "not slow and not endurance"

test: lint
	$(BIN)/pytest -m "not endurance"

faults: .venv/.dev
	$(BIN)/pytest -m endurance

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.venv/.runtime: $(ENVIRONMENT) deploy/requirements.lock
	deploy/environment.sh runtime
	@touch $@

.venv/.dev: $(ENVIRONMENT) deploy/requirements-dev.lock $(TEST_PARTS)
	deploy/environment.sh dev
	@touch $@ .venv/.runtime

lock: .venv/.runtime
	$(BIN)/uv pip compile pyproject.toml --extra build --extra kafka --extra mqtt $(LOCK_FLAGS) -q -o deploy/requirements.lock
	$(BIN)/uv pip compile pyproject.toml --extra build --extra kafka --extra mqtt --extra dev $(LOCK_FLAGS) -q -o deploy/requirements-dev.lock

clean:
	rm -rf .venv
