# psik.py needs no compilation: copy it.  This file is for those who change it.
PYTHON ?= python3
DEPS ?= .deps
prefix ?= /usr/local
DEBIAN = rc shellcheck busybox-static at munge slurmctld slurmd slurm-client slurmdbd mariadb-server gridengine-master gridengine-exec gridengine-client procps util-linux openssl curl openssh-server openssh-client chromium wrk zsh fish tcsh nginx-light caddy wget $(shell command -v npm >/dev/null || echo nodejs npm)

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 16

test: ## the tests, on this Python; says what it left out
	$(PYTHON) tests/run.py $(ARGS)

test-all: ## the tests, on every Python found
	$(PYTHON) tests/every_python.py $(DEPS)

test-ends: ## the tests: all on the newest Python found, the portable ones on 3.6, briefly on those between
	$(PYTHON) tests/every_python.py --ends $(DEPS)

test-deps: ## install what the tests need (Debian packages as root; Python environments and node packages in .deps/)
	apt-get update -q
	DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $(DEBIAN)
	sh tests/install_deps.sh $(DEPS)

embed: ## write templates/ into psik.py
	$(PYTHON) templates/embed.py

check: ## templates embedded; shellcheck; ruff; mypy; complexity; unused code
	$(PYTHON) templates/embed.py --check
	sh tests/shellcheck.sh
	$(DEPS)/lint/bin/ruff check --quiet psik.py templates tests
	$(DEPS)/lint/bin/mypy --strict psik.py tests/run.py
	$(DEPS)/lint/bin/mypy --strict --ignore-missing-imports tests/measure.py tests/bench/*.py
	$(DEPS)/lint/bin/mypy --strict --ignore-missing-imports templates/supervisor.py
	$(DEPS)/lint/bin/mypy --strict --follow-imports=silent tests/soak.py tests/storm.py tests/faults.py tests/endurance.py tests/mutants.py
	$(DEPS)/lint/bin/python tests/measure.py --check
	$(DEPS)/lint/bin/vulture

release-check: ## whether this commit can be tagged: all committed, a new version, in the changelog
	PYTHON=$(PYTHON) sh tests/release_check.sh

measure: ## what kind of file psik.py is, in figures, beside its models
	$(DEPS)/lint/bin/python tests/measure.py

cover: ## line coverage of psik.py, subprocesses included
	sh tests/cover.sh $(DEPS)

bench: ## what psik.py costs beside its peers: tables and curves; QUICK=1 in two minutes, to the terminal only
	$(PYTHON) tests/bench/bench.py $(if $(QUICK),--quick) $(DEPS)

pictures: ## README's pictures of the page, made anew
	$(PYTHON) tests/pictures.py tests/page

soak: ## an hour of mixed work with trouble now and then: report and picture; MINUTES=N, SEED=N
	$(PYTHON) tests/endurance.py --minutes $(or $(MINUTES),60) $(if $(SEED),--seed $(SEED)) --out tests/bench

load: ## twenty minutes of mixed load on a server, over TLS and locally; MINUTES=N
	$(PYTHON) tests/soak.py --tls --minutes $(or $(MINUTES),20)
	$(PYTHON) tests/soak.py --local --minutes $(or $(MINUTES),20)

faults: ## jobs broken at every step, on every backend; a thousand random lives; TIMES=N, SEED=N
	$(DEPS)/openapi/bin/python tests/histories.py 1000
	$(PYTHON) tests/faults.py --times $(or $(TIMES),6) $(if $(SEED),--seed $(SEED)) --table tests/bench/FAULTS.md

mutants: ## psik.py broken in places, to see what the tests notice; TIMES=N of each section, SEED=N
	$(PYTHON) tests/mutants.py --times $(or $(TIMES),20) $(if $(SEED),--seed $(SEED)) --table tests/bench/MUTANTS.md

storm: ## a Slurm whose slurmctld dies and hangs, while clients are killed
	$(PYTHON) tests/storm.py

install: ## psik.py to $(prefix)/bin/psik
	install -Dm755 psik.py $(DESTDIR)$(prefix)/bin/psik

clean: ## remove what was made, .deps/ too
	rm -rf $(DEPS) build dist *.egg-info .coverage* htmlcov __pycache__ tests/__pycache__ tests/bench/__pycache__ .mypy_cache .ruff_cache .pytest_cache

.PHONY: help test test-all test-ends test-deps embed check release-check measure cover bench pictures soak load faults mutants storm install clean
