# Without make: ./lab and ./test do the same.
.DEFAULT_GOAL := help
.PHONY: lab test notebooks nightly lint lock help clean

lab:        ## open JupyterLab on the notebooks (PORT=, LABARGS=--no-browser)
	@./lab

test:       ## everything CI checks
	@./test

notebooks:  ## run every notebook and store its outputs, normalised
	@./setup
	.venv/bin/python tests/make_notebooks.py

nightly:    ## the tests too slow for every push
	@./setup
	.venv/bin/python -m pytest -m slow -n 2 --timeout 0 -p no:nbval || test $$? -eq 5  # 5: there are none

lint:       ## style and types alone
	@./test lint

lock:       ## choose the newest versions again (needs uv)
	uv pip compile --universal --python-version 3.11 --upgrade --no-header --no-annotate \
	    --extra lab --extra sweep --extra test --extra browser pyproject.toml -o requirements.lock

help:       ## this list
	@sed -n 's/^\([a-z]*\): *## /\1\t/p' Makefile | expand -t 12

clean:      ## remove .venv and whatever was built
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
