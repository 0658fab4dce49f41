# Every verb of an operator, one line each. `make help` lists them.
VENV   := .venv
FLOWERBED := $(VENV)/bin/flowerbed
.DEFAULT_GOAL := help
.PHONY: help host ca images up down status logs run demo simulate clean check test bench bench-rounds lock schema

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F '\t' '{printf "  make %-12s %s\n", $$1, $$2}'

$(VENV)/.ready: pyproject.toml
	@scripts/venv.sh $(VENV)

host: ## find or install Docker Engine and what else is needed
	@scripts/host.sh ensure
	@$(MAKE) --no-print-directory $(VENV)/.ready
	@scripts/host.sh names $$($(FLOWERBED) names --options)

ca: $(VENV)/.ready ## create the authority and every certificate that is due
	@$(FLOWERBED) certificates

images: $(VENV)/.ready ## build what is missing or out of date (TORCH=cuda for GPUs)
	@$(FLOWERBED) images $(if $(TORCH),--torch $(TORCH))

up: $(VENV)/.ready ## start the federation, or apply federation.yaml to it
	@$(FLOWERBED) up

down: $(VENV)/.ready ## stop the federation; data, certificates and secrets stay
	@$(FLOWERBED) down

status: $(VENV)/.ready ## one line per service and site
	@$(FLOWERBED) status

logs: $(VENV)/.ready ## what the containers log (SERVICE=superlink for one)
	@$(FLOWERBED) logs $(SERVICE)

run: $(VENV)/.ready ## submit an app (APP=folder CONFIG="key=value" PIPELINE=demo)
	@$(FLOWERBED) run $(if $(APP),--app '$(APP)') $(if $(CONFIG),--run-config '$(CONFIG)') $(if $(PIPELINE),--as '$(PIPELINE)')

demo: ## from an empty host to a finished private training run
	@scripts/demo.sh

simulate: ## the same app without Docker, under Flower's simulation
	@scripts/simulate.sh $(if $(CONFIG),--run-config '$(CONFIG)')

clean: $(VENV)/.ready ## remove the federation and its volumes (asks first)
	@$(FLOWERBED) clean

check: $(VENV)/.ready ## lint, types, import rules and unit tests, in under a minute
	@scripts/check.sh

test: ## every test, on a stack of its own; installs what it needs
	@scripts/test.sh

bench: $(VENV)/.ready ## measure, beside the alternatives, on this host
	@scripts/bench.sh

bench-rounds: $(VENV)/.ready ## rounds alone, beside stock Flower
	@scripts/bench.sh rounds dp

lock: $(VENV)/.ready ## resolve and pin the images' Python packages again
	@scripts/lock.sh

schema: $(VENV)/.ready ## write networks/federation.schema.json again
	@$(VENV)/bin/python -m flowerbed_topology.schema
