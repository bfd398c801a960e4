# `make demo` and `make test` do everything from a fresh clone: they need Python >= 3.10, a C compiler and the package
# index. `make help` lists all targets.
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= test
BENCH_EXTRAS ?= bench
ARGS ?=
WORKERS ?= 2
FUZZ_EXAMPLES ?= 1000
AMALGAMATION ?= build/amalgamation
AUDIT ?=
NEHALEM := $(patsubst %,tests/face/test_%.py,parity extras textbook optimizers state_dict copies lookahead bind) \
	tests/face/test_minibatches.py tests/face/test_isa.py tests/face/boundary tests/package/test_signatures.py

SOURCES := setup.py pyproject.toml $(shell find csrc fastopt -name '*.[chd]*' -o -name '*.p*x*' -o -name '*.pxd')

.PHONY: help check demo test test-all test-arch test-nehalem bench bench-against coverage fuzz audit amalgamation generate lint clean

help: ## list these
	@sed -nE 's/^([a-z-]+):.* ## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(VENV)/.installed-demo ## train a small network with every method; ARGS are for `python -m fastopt demo`
	$(VENV)/bin/python -m fastopt demo $(ARGS)

# WORKERS processes share the test files; WORKERS=0 runs them in one process, for debuggers. `make test` leaves out the
# tests that are marked slow.
PYTEST = $(VENV)/bin/pytest --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder --benchmark-disable
test: $(VENV)/.installed-$(EXTRAS) ## most tests, in minutes; ARGS are for pytest
	$(PYTEST) -m 'not slow' $(ARGS)

# Compiles in the tree itself, where the editable installation finds the modules: everything the first time, then only
# what has changed. Left out are the tests of arbitrary values, which take as long as all others of a rule.
check: ## compile what has changed and test one rule, in half a minute from the second time on: RULE=adam
	test -e $(VENV)/.installed-build || $(MAKE) $(VENV)/.installed-build
	$(VENV)/bin/python setup.py -q build_ext --inplace
	$(VENV)/bin/pytest -q -n $(WORKERS) --maxfail=3 tests/face/test_textbook.py tests/face/test_parity.py \
		tests/package/test_signatures.py -k '$(RULE) and not any_values' $(ARGS)

test-all: $(VENV)/.installed-$(EXTRAS) ## every test
	$(PYTEST) $(ARGS)

test-arch: $(VENV)/.installed-$(EXTRAS) ## test the core on emulated processors, or say what to install for that
	FASTOPT_TEST_ARCH=1 $(VENV)/bin/pytest tests/core/test_arch.py $(ARGS)

# Left out: tests that compile or start other programs, which would run on the real processor; tests that measure memory
# or time; and norms of millions of elements.
test-nehalem: $(VENV)/.installed-$(EXTRAS) ## test the arithmetic under qemu on an x86-64 processor without AVX, in many minutes
	qemu-x86_64 -cpu Nehalem $(VENV)/bin/python -m pytest -p no:cacheprovider $(NEHALEM) \
		-k 'not 17000003 and not widest and not empty_environment' $(ARGS)

# `make bench BENCH_EXTRAS=bench,peers` also installs the libraries that fastopt is compared with; ARGS are for
# bench/run.py (--help).
bench: $(VENV)/.installed-$(BENCH_EXTRAS) ## measure; ARGS are for bench/run.py
	$(VENV)/bin/python bench/run.py $(ARGS)
	$(VENV)/bin/pytest bench -o python_files='bench_*.py' -o pythonpath=bench --benchmark-group-by=group \
		--benchmark-sort=name --benchmark-columns=median,iqr,rounds

# Measures the hot paths of this tree and of another commit in turns: `make bench-against REV=HEAD~1`. ARGS are for
# bench/against.py (--help).
bench-against: $(VENV)/.installed-build $(VENV)/.installed-$(BENCH_EXTRAS) ## compare the hot paths' speed with another commit's, REV=HEAD~1
	$(VENV)/bin/python bench/against.py $(REV) $(ARGS)

# Counts in a copy of the sources, which is kept, the lines of csrc/ and of the Cython modules that the tests execute.
COVERED := build/coverage
coverage: $(VENV)/.installed-coverage ## count the lines of csrc/ and of the Cython modules that the tests execute
	rm -rf $(COVERED)
	mkdir -p $(COVERED)
	tar -c --exclude='*.so' --exclude=__pycache__ $$(sed -nE 's/^(graft|include) //p' MANIFEST.in) | tar -x -C $(COVERED)
	cd $(COVERED) && export PATH="$(abspath $(VENV))/bin:$$PATH" FASTOPT_COVERAGE=1 PYTHONPATH="$$PWD" && \
		python setup.py -q build_ext --inplace && \
		coverage run -m pytest --basetemp=tests-tmp $(ARGS); coverage combine -q; \
		coverage json -q; coverage report --show-missing --fail-under=100; cython=$$?; \
		gcovr --merge-mode-functions=separate --merge-lines --gcov-suspicious-hits-threshold=0 \
		--filter csrc/ --txt --json-summary csrc.json --fail-under-line=100 . && exit $$cython

# Runs the fuzzer and the state machine for some minutes each. ARGS are for tests/fuzz/fuzz_boundary.py (--help), and
# FUZZ_EXAMPLES is the number of sequences that the state machine tries.
fuzz: $(VENV)/.installed-fuzz ## look for errors with random input, for some minutes
	$(VENV)/bin/python tests/fuzz/fuzz_boundary.py $(ARGS)
	FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(VENV)/bin/pytest tests/face/test_machine.py -m slow --hypothesis-profile=fuzz \
		--hypothesis-show-statistics

# Everything that is too long for `make test-all`, in an hour or two; AUDIT is for nox: AUDIT=--list, AUDIT='-s fuzz'.
audit: $(VENV)/.installed-audit ## run everything that is too long for test-all, in an hour or two
	$(VENV)/bin/nox $(AUDIT)

amalgamation: $(VENV)/.installed-amalgamation ## write the C core as one file
	mkdir -p $(AMALGAMATION)
	$(VENV)/bin/quom --include_guard 'FASTOPT_([A-Z]+_)*H' --stitch rules.c \
		csrc/amalgamation/fastopt.c $(AMALGAMATION)/fastopt.c
	$(VENV)/bin/quom --include_guard FASTOPT_RULES_H csrc/fastopt.h $(AMALGAMATION)/fastopt.h

# Writes the files in csrc/, fastopt/ and tests/, and the part of README.md, that repeat the table of rules.
generate: $(VENV)/.installed-test ## write all code that repeats the table of rules, csrc/rules.toml
	$(VENV)/bin/python tools/generate.py

# The checks are listed in .pre-commit-config.yaml; pre-commit needs a git repository.
lint: $(VENV)/.installed-lint ## check style, and format the files that need it
	PATH="$(abspath $(VENV))/bin:$$PATH" pre-commit run --all-files --show-diff-on-failure

clean: ## remove everything that these targets made
	rm -rf $(VENV) .nox build dist demo-output *.egg-info fastopt/*.so .pytest_cache .hypothesis .benchmarks .mypy_cache .ruff_cache

# There is one environment. A set of extras is installed into it on first use, and again when sources that are compiled
# have changed.
$(VENV)/.installed-%: $(SOURCES)
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable '.[$*]'
	touch '$@'

# The packages that compile extensions in the tree itself, without pip's isolated build environment.
$(VENV)/.installed-build: | $(VENV)/.installed-$(EXTRAS)
	$(VENV)/bin/python -m pip install --quiet 'setuptools>=77' 'cython>=3.1' 'numpy>=2.0'
	touch '$@'
