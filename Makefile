# A fresh machine needs a Rust toolchain, a C compiler, make, perl and python3, and nothing else.
#
#   make          the release binary, target/release/litestream
#   make demo     shows a backup and its restore under load, with a kill in the middle
#   make test     every test; `make check`: style, lints, manual pages
#   make soak     random schedules for SECONDS=3600 (tests/model.rs); a seed that fails is kept in tests/data/model-seeds
#   make install  DESTDIR and PREFIX as usual
#   make static   one file that runs on any Linux of the kind, for each musl target that this machine has

PREFIX ?= /usr/local
DESTDIR ?=
CARGO ?= cargo
PYTHON ?= python3
INSTALL ?= install
STATIC_TARGETS ?= x86_64-unknown-linux-musl aarch64-unknown-linux-musl
NATS_PY ?= nats-py==2.11.0
SECONDS ?= 3600

# OpenSSL is the system's where its headers are, and else built from source.
OPENSSL := $(shell { pkg-config --exists openssl || test -e /usr/include/openssl/ssl.h; } 2>/dev/null && echo system)
FEATURES := $(if $(OPENSSL),,--features vendored)
BUILD := $(CARGO) build --locked --release
BINARY := target/release/litestream
MAN1 := $(wildcard man/*.1)
MAN5 := $(wildcard man/*.5)

.PHONY: all build demo test soak check lint-man install static clean python

all: build

build:
	$(BUILD) $(FEATURES)

demo: build
	$(PYTHON) -B tests/support/demo.py $(BINARY)

# Tests run the debug build, whose dependencies are optimised (Cargo.toml says so).
test: python
	$(CARGO) test --locked --no-fail-fast $(FEATURES)

soak:
	MODEL_SECONDS=$(SECONDS) $(CARGO) test --locked $(FEATURES) --test model -- --nocapture

check: lint-man
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets $(FEATURES) -- -D warnings
	$(CARGO) clippy --locked --all-targets $(FEATURES) --features fault -- -D warnings
	$(CARGO) test --locked $(FEATURES) --test layers

# Whether a referenced page is installed depends on the machine, and says nothing about ours.
lint-man:
	@if ! command -v mandoc >/dev/null; then echo "check: mandoc is not here: manual pages not linted"; \
	elif test -z "$(MAN1)$(MAN5)"; then echo "check: no manual pages yet"; \
	else mandoc -Tlint -W style $(MAN1) $(MAN5) 2>&1 | \
	grep -v -e "referenced manual not found" -e "outdated mandoc.db" || exit 0; exit 1; fi

# Another client of the Object Store, to prove that each reads what the other wrote. Without pip those tests say
# that they were skipped.
python:
	@test -e target/py/nats/__init__.py || { mkdir -p target && \
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target target/py "$(NATS_PY)"; } || \
	echo "test: $(NATS_PY) cannot be installed: tests with another client are skipped"

install: build
	$(INSTALL) -D -m 755 $(BINARY) "$(DESTDIR)$(PREFIX)/bin/litestream"
	for page in $(MAN1); do $(INSTALL) -D -m 644 "$$page" "$(DESTDIR)$(PREFIX)/share/man/man1/$${page##*/}" || exit 1; done
	for page in $(MAN5); do $(INSTALL) -D -m 644 "$$page" "$(DESTDIR)$(PREFIX)/share/man/man5/$${page##*/}" || exit 1; done

static: $(STATIC_TARGETS:%=static-%)

# OpenSSL and SQLite are C: a target needs its part of the Rust toolchain, and a C compiler that knows its musl. That
# also links for a foreign machine; for this one cc does, since musl-gcc's wrapper cannot link a static-pie.
static-%: MACHINE = $(firstword $(subst -, ,$*))
static-%: BUILT = target/$*/release/litestream
static-%:
	@cc=$(MACHINE)-linux-musl-gcc; linker=$$cc; test $(MACHINE) != "$$(uname -m)" || linker=cc; \
	if ! test -d "$$(rustc --print target-libdir --target $* 2>/dev/null)"; then \
	echo "static: $* skipped: its standard library is not installed (rustup target add $*)"; \
	elif ! command -v $$cc >/dev/null; then echo "static: $* skipped: $$cc is not here"; \
	else env CC_$(subst -,_,$*)=$$cc CARGO_TARGET_$$(echo $* | tr a-z- A-Z_)_LINKER=$$linker \
	$(BUILD) --features vendored --target $* || exit 1; \
	if readelf -l $(BUILT) | grep -q INTERP; then echo "static: $(BUILT) is not static"; exit 1; fi; \
	ls -l $(BUILT); fi

clean:
	$(CARGO) clean
