# Every command of the project. Each one first makes .venv, if it is missing or older than the lock.
# Another Python than the first of 3.12, 3.11, 3.10 that runs: make tutorial PYTHON=/path/to/python
# Tests on more cores than two: make test WORKERS=4

PYTHON :=
WORKERS := 2
READY := .venv/.ready
BIN := .venv/bin

# in reading order: each notebook may use what the one before it left in runs/
NOTEBOOKS := \
    notebooks/index.ipynb \
    notebooks/setup.ipynb \
    notebooks/problem.ipynb \
    notebooks/data.ipynb \
    notebooks/configuration.ipynb \
    notebooks/sft.ipynb \
    notebooks/rl.ipynb \
    notebooks/evaluation.ipynb \
    notebooks/deploy.ipynb \
    notebooks/troubleshooting.ipynb

RECIPES := \
    notebooks/recipes/video_rewards.ipynb \
    notebooks/recipes/warehouse_spatial.ipynb \
    notebooks/recipes/intelligent_transportation.ipynb \
    notebooks/recipes/av_caption_vqa.ipynb \
    notebooks/recipes/av_3d_grounding.ipynb \
    notebooks/recipes/template.ipynb

# outputs and counts stay, because nbval compares only cells that have both; what a run adds to the metadata goes
STRIP := $(BIN)/nbstripout --keep-output --keep-count --keep-id --extra-keys "metadata.widgets \
    metadata.papermill cell.metadata.papermill cell.metadata.execution metadata.language_info.version"

# looked at by `make lab` only
AS_ROOT = $(if $(filter 0,$(shell id -u)),--allow-root)

# only a set-up in this very call counts as its time, so an earlier figure goes before anything runs
$(shell rm -f .venv/.setup_seconds)

.PHONY: help tutorial recipes test test-slow test-browser test-faults test-gpu deploy-env lab lint notebooks figures lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s  %s\n", $$1, $$2}' Makefile

$(READY): pyproject.toml requirements.lock
	@.ci/setup.sh $(if $(PYTHON),"$(PYTHON)")

# the shell ignores Ctrl-C until the command takes it over: Python, while it starts, would answer with a traceback
tutorial: $(READY) ## the main job, data to report; BASE=FOLDER takes another base
	@trap '' INT; exec $(BIN)/python -m cookbook.tutorial $(if $(BASE),--base "$(BASE)" --name "$(notdir $(BASE))") \
	    --setup-seconds "$$(cat .venv/.setup_seconds 2>/dev/null || echo 0)"

recipes: $(READY) ## five published recipes in miniature, and their page; BASE too
	@trap '' INT; exec $(BIN)/python -m cookbook.tutorial $(if $(BASE),--base "$(BASE)") --recipes

test: lint ## lint, unit tests, and every notebook under nbval
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=15 \
	    --nbval-lax --nbval-current-env $(NOTEBOOKS) $(RECIPES) tests

test-slow: $(READY) ## the tests that take minutes
	$(BIN)/python -m pytest -m "slow and not browser" tests

test-browser: $(READY) ## the notebooks in JupyterLab and Chromium; runs/screenshots
	$(BIN)/python -m pytest -m browser tests

test-faults: $(READY) ## injected faults, the slow ones too, and a table of them
	$(BIN)/python -m pytest -m "fault and not gpu" tests

test-gpu: $(READY) ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu tests

deploy-env: ## .venv-deploy with llm-compressor, 5.7 GB
	@test -x $(BIN)/uv || .ci/setup.sh $(if $(PYTHON),"$(PYTHON)")
	$(BIN)/uv venv --allow-existing .venv-deploy
	$(BIN)/uv pip install --python .venv-deploy/bin/python llmcompressor torchvision

lab: $(READY) ## open JupyterLab at the index; LAB="..." adds its flags
	@test -z "$(AS_ROOT)" || echo "make lab: you are root, as in most containers, so --allow-root is added;" \
	    "to reach it from outside of the container: make lab LAB='--ip 0.0.0.0 --no-browser'"
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks/index.ipynb $(AS_ROOT) $(LAB)

lint: $(READY) ## ruff: rules and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

notebooks: $(READY) ## run the notebooks again, in place, and clean their metadata
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace \
	    --ExecutePreprocessor.kernel_name=python3 $(NOTEBOOKS) $(RECIPES)
	$(STRIP) $(NOTEBOOKS) $(RECIPES)
	$(BIN)/python notebooks/figures/draw.py

figures: $(READY) ## draw the figures again, by what the notebooks have printed
	$(BIN)/python notebooks/figures/draw.py

lock: ## resolve pyproject.toml into requirements.lock; keeps pins
	@test -x $(BIN)/uv || .ci/setup.sh $(if $(PYTHON),"$(PYTHON)")
	$(BIN)/uv pip compile --universal --python-version 3.10 --extra dev --no-header --no-emit-index-url \
	    pyproject.toml -o requirements.lock

clean: ## remove .venv and every cache; runs/ stays
	rm -rf .venv .venv-setup.log .pytest_cache .ruff_cache *.egg-info
	find . -name runs -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -prune -exec rm -rf {} +
