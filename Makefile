# What to type: `make demo` to see it work, `make test` to see that it does.
# PRIVACY_VENV names another folder than .venv for the environment.
PYTHON ?= python3
BIN := $(or $(PRIVACY_VENV),.venv)/bin
SETUP := @$(PYTHON) scripts/setup.py

.PHONY: help demo test test-slow schemathesis check bench faults serve demo-chain slither contracts contracts-tools coverage lock clean
VERIFIER_TESTS := appraise cbor chain collateral composite der device_collateral ear event_log fetch gpu parse policy reference_values tcb vectors vendors verify xmldsig

help: ## say what there is
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' Makefile

demo: ## one model in every mode, through a gateway on this machine
	$(SETUP) demo
	@$(BIN)/python examples/demo.py

demo-chain: contracts-tools ## a contract asks, the gateway proves, the chain verifies
	@$(BIN)/python examples/demo_chain.py

test: ## every test that is not slow, in two processes
	$(SETUP) dev
	@$(BIN)/python scripts/contracts_tools.py
	$(BIN)/pytest -n 2 -m "not slow" $(ARGS)

test-slow: ## the slow tests
	$(SETUP) dev
	@$(BIN)/python scripts/contracts_tools.py
	$(BIN)/pytest -m slow $(ARGS)

schemathesis: ## ten thousand generated requests, judged by the OpenAPI document
	$(SETUP) dev
	$(BIN)/pytest -m slow tests/conformance/test_openapi.py $(ARGS)

coverage: ## every branch of what parses, verifies and appraises evidence
	$(SETUP) dev
	$(BIN)/coverage run -m pytest -q -m "not slow" tests/conformance tests/unit/cli/test_cli_attest.py \
	  $(addprefix tests/unit/tee/test_tee_,$(VERIFIER_TESTS:=.py))
	$(BIN)/coverage report --fail-under=100

check: ## format, lint, types, direction of imports
	$(SETUP) dev
	$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/lint-imports

bench: ## measure, and write benchmarks/out/
	$(SETUP) dev
	$(BIN)/python -m benchmarks $(ARGS)

faults: ## kill gateways and nodes under load; ARGS are those of benchmarks/faults.py
	$(SETUP) all
	$(BIN)/python -m benchmarks.faults $(ARGS)

serve: ## a gateway on this machine; ARGS are those of `privacy serve`
	$(SETUP) demo
	$(BIN)/privacy serve $(ARGS)

slither: contracts-tools ## static analysis of the contracts, with Slither from the path
	@$(BIN)/python scripts/slither.py

contracts: contracts-tools ## compile contracts/src into privacy/chain/contracts.json
	@$(BIN)/python scripts/contracts_build.py

contracts-tools: ## a Solidity compiler and a development chain, from npm
	$(SETUP) dev
	@$(BIN)/python scripts/contracts_tools.py

lock: ## write requirements/*.txt anew; UPGRADE=--upgrade takes newer versions
	$(SETUP) dev
	scripts/lock.sh

clean: ## delete caches and reports, not the environment
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist benchmarks/out
