# make demo         the whole way through, on this machine, with a real small model
# make test         formatting, lints, docs, unit tests, scenarios, and acceptance tests with other people's clients
# make test-extra   longer tests: processes that die, race and are flooded
# make soak         the same for an hour
# make bench        what minting and verifying cost beside the bare signatures, as ratios in one run
# make vectors      DIR=folder: published signature vectors (Wycheproof) through the verifier
# make replay       DIR=folder: recorded exchanges with model servers through the adapter's readers
# make generate     write proto/src/gen anew from the .proto files

ARGS ?=
PYTHON ?= python3
VENV := target/test-venv

.PHONY: demo test test-rust test-acceptance test-extra soak lint generate vectors replay bench

demo:
	@$(PYTHON) deploy/demo/demo.py $(ARGS)

test: lint test-rust test-acceptance

lint: $(VENV)/installed
	cargo fmt --all -- --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items
	cd proto && ../$(VENV)/bin/buf lint

test-rust: $(VENV)/installed
	$(VENV)/bin/python tests/with_postgres.py cargo test --locked --workspace

# The acceptance tests start the demo on free ports, so it may run beside them.
test-acceptance: $(VENV)/installed
	$(VENV)/bin/python -m pytest -q tests/acceptance

# The official JavaScript clients; the system as processes that are killed, stopped, raced and flooded; `make soak` runs the same for as long as it is worth.
test-extra: $(VENV)/installed-extra
	$(VENV)/bin/python -m pytest -q tests/extra tests/chaos

soak: $(VENV)/installed-extra
	POSTERN_SOAK=1 $(VENV)/bin/python -m pytest -q -s --durations=0 tests/chaos

bench:
	cargo test --locked --release -p instance-svc --lib marks -- --nocapture
	cargo run --locked --release -q -p postern-tests --example cancelling

vectors:
	@cargo run --locked --quiet --release -p postern-token --example vectors -- "$(DIR)"

replay:
	@cargo run --locked --quiet --release -p postern-tests --example replay -- "$(DIR)"

generate:
	POSTERN_GENERATE=1 cargo test --locked -p postern-proto --test generated
	POSTERN_GENERATE=1 cargo test --locked -p instance-svc --lib capabilities

$(VENV)/installed-extra: tests/extra/requirements.txt $(VENV)/installed
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: -r $<
	cp $< $@

$(VENV)/installed: tests/acceptance/requirements.txt
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: -r $<
	cp $< $@
