# `make` alone says what there is. `make dev` and `make test` need nothing but git, make
# and rustup; they install what is missing and say so.
SHELL := /bin/bash
TARGET := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
RELEASE := target/$(TARGET)/release/atoll
NODES ?= 3
DATA_DIR ?= $(HOME)/.local/share/atoll/dev
PORT ?= 6443

.PHONY: help dev build test check fix clean

help:
	@echo 'make dev     build and start a cluster of $(NODES) nodes on this machine'
	@echo 'make test    all tests, lints included (as root: those with namespaces too)'
	@echo 'make check   formatting, lints, layers: what CI looks at first'
	@echo 'make fix     formats, and applies what lints can mend themselves'
	@echo 'make build   the release binary: $(RELEASE)'

build:
	@scripts/prepare build
	cargo build --release --package atoll --target $(TARGET)

dev: build
	@scripts/prepare kubectl
	@scripts/as-root $(RELEASE) dev --nodes $(NODES) --data-dir $(DATA_DIR) --port $(PORT)

test:
	@scripts/prepare test
	@$(MAKE) --no-print-directory check
	@scripts/test $(TARGET)

check:
	@scripts/prepare build
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --target $(TARGET) -- -D warnings
	cargo xtask tidy
	cargo xtask proto --check

fix:
	cargo clippy --workspace --all-targets --target $(TARGET) --fix --allow-dirty --allow-staged
	cargo fmt --all

clean:
	cargo clean
