# llama4d.  `make` lists the targets.  BUILD, CC and SANITIZE may be set on the command line.
BUILD    ?= build
SANITIZE ?=
WERROR   ?=

DEPS := build-essential pkg-config libmicrohttpd-dev libuv1-dev libcjson-dev libopenblas-pthread-dev libpcre2-dev \
        uthash-dev libgnutls28-dev libinih-dev libxxhash-dev libnuma-dev libcmocka-dev python3-pytest python3-pytest-xdist \
        python3-requests python3-jsonschema python3-prometheus-client clang clang-format libclang-rt-14-dev \
        gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user openssl nodejs
# What the tests drive from outside; npm writes this file last.
CLIENTS := tests/clients/node_modules/.package-lock.json
PKGS := libmicrohttpd gnutls libuv libcjson openblas libpcre2-8 inih libxxhash numa

# Asked once, when first needed: `make deps` may have to install them before.
PKG_CFLAGS = $(eval PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS)))$(PKG_CFLAGS)
PKG_LIBS   = $(eval PKG_LIBS := $(shell pkg-config --libs $(PKGS)))$(PKG_LIBS)
MAKEFLAGS += -j$(shell nproc)

WARN     := -Wall -Wextra -Wpedantic -Wshadow -Wvla -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith \
            -Wcast-qual -Wwrite-strings -Wundef -Wformat=2 $(if $(WERROR),-Werror)
# uthash's macros say typeof where they are used, which clang calls an extension even in gnu11.
WARN     += $(if $(findstring clang,$(CC)),-Wno-language-extension-token)
# No contraction of a*b+c behind our back: a kernel that wants a fused multiply-add says so.
CFLAGS   ?= -O2 -g
ALL_CFLAGS = -std=gnu11 -D_GNU_SOURCE -I. -Iinclude $(PKG_CFLAGS) $(WARN) \
             -ffp-contract=off -fno-math-errno -fvisibility=hidden -pthread $(CFLAGS) \
             $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-omit-frame-pointer -fno-sanitize-recover=undefined)
ALL_LDFLAGS = -pthread $(LDFLAGS) $(if $(SANITIZE),-fsanitize=$(SANITIZE))
LIBS     = $(PKG_LIBS) -lm

CORE_SRC   := $(wildcard core/*.c core/*/*.c)
SERVER_SRC := $(filter-out server/main.c,$(wildcard server/*.c))
LIB_SRC    := $(filter-out tests/lib/fake_engine.c,$(wildcard tests/lib/*.c))
FAKE_SRC   := $(wildcard tests/lib/fake_engine.c)
GOLDEN_SRC := $(wildcard tests/golden/*.c)
UNIT_SRC   := $(wildcard tests/unit/*/test_*.c)
KERNEL_SRC := $(wildcard tests/kernels/test_*.c)
FUZZ_SRC   := $(wildcard tests/fuzz/fuzz_*.c)
BENCH_SRC  := $(wildcard tests/bench/*.c)

obj = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
UNIT_BIN   := $(patsubst %.c,$(BUILD)/%,$(UNIT_SRC))
KERNEL_BIN := $(patsubst %.c,$(BUILD)/%,$(KERNEL_SRC))
BENCH_BIN  := $(patsubst tests/bench/%.c,$(BUILD)/bench/%,$(BENCH_SRC))

.DELETE_ON_ERROR:
.SECONDARY:
.PHONY: help deps debian-packages all run test bench asan tsan fuzz format lint install clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

deps: $(CLIENTS) ## install what is missing: Debian packages, and the clients that the tests drive
	@echo "all packages are installed"

# npm by its command: a Node.js from elsewhere brings its own, which Debian's package conflicts with.
debian-packages:
	@missing=$$(for p in $(DEPS); do \
	    dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done; \
	    command -v npm >/dev/null || echo npm); \
	if [ -z "$$missing" ]; then exit 0; fi; \
	sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	$$sudo apt-get update && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $$missing

$(CLIENTS): tests/clients/package.json tests/clients/package-lock.json | debian-packages
	cd tests/clients && npm ci

all: $(BUILD)/llama4d $(BUILD)/llama4d-fake $(BUILD)/golden $(UNIT_BIN) $(KERNEL_BIN) $(BENCH_BIN) ## build everything

run: $(BUILD)/llama4d ## serve the demo model on 127.0.0.1:8080
	$(BUILD)/llama4d serve --config config/llama4d.conf --model tests/models/demo

# ---- what is built -------------------------------------------------------------------------------------------------
$(BUILD)/obj/%_avx2.o: ISA = -mavx2 -mfma -mf16c
$(BUILD)/obj/%_avx512.o: ISA = -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl
$(BUILD)/obj/%_vnni.o: ISA = -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni
$(BUILD)/obj/%_dpbf16.o: ISA = -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512bf16
$(BUILD)/obj/core/kernels/%.o $(BUILD)/obj/core/sample/%.o: CFLAGS := $(subst -O2,-O3,$(CFLAGS))
# Where each variable of an unrolled tile lies takes as long to write down as the tile takes to compile.
$(BUILD)/obj/core/kernels/%.o: ALL_CFLAGS += $(if $(findstring clang,$(CC)),,-fno-var-tracking)

# No parser in the kernels: a fuzzing build takes them as they are, which compiles in seconds instead of minutes.
$(BUILD)/obj/core/kernels/%.o: override SANITIZE := $(if $(findstring fuzzer,$(SANITIZE)),,$(SANITIZE))
# A sanitizer's look at every vector loaded took most of its run.  The thread sanitizer has it in the reference kernels,
# which the tests of threads run in the same dispatches; the address sanitizer in all that unit and kernel tests run, but
# not in the daemon, whose requests ask nothing of a kernel that those do not.
VECTOR_SRC := $(foreach isa,avx2 avx512 vnni dpbf16 neon,$(wildcard core/kernels/*_$(isa).c))
$(call obj,$(VECTOR_SRC)): override SANITIZE := $(if $(findstring fuzzer,$(SANITIZE)),,$(filter-out thread,$(SANITIZE)))
PLAIN_KERNELS := $(if $(findstring address,$(SANITIZE)),$(VECTOR_SRC:%.c=$(BUILD)/obj/plain/%.o))
$(BUILD)/obj/plain/%.o: override SANITIZE :=

COMPILE = $(CC) $(ALL_CFLAGS) $(ISA) -MMD -MP -c $< -o $@
# `make deps test`: nothing is compiled before the packages are there.
$(BUILD)/obj/%.o: %.c | $(filter deps,$(MAKECMDGOALS))
	@mkdir -p $(@D)
	$(COMPILE)
$(BUILD)/obj/plain/%.o: %.c
	@mkdir -p $(@D)
	$(COMPILE)

$(BUILD)/obj/server/api_openapi.o: server/openapi.json

$(BUILD)/libcore.a: $(call obj,$(CORE_SRC))
	@mkdir -p $(@D)
	rm -f $@ && ar rcs $@ $^
$(BUILD)/libserver.a: $(call obj,$(SERVER_SRC))
	@mkdir -p $(@D)
	rm -f $@ && ar rcs $@ $^
$(BUILD)/libtest.a: $(call obj,$(LIB_SRC))
	@mkdir -p $(@D)
	rm -f $@ && ar rcs $@ $^

# Server tests run on the fake engine, everything else on the real one.  An object wins over its like in a library.
$(BUILD)/llama4d-fake: $(call obj,server/main.c) $(call obj,$(FAKE_SRC)) $(BUILD)/libserver.a $(BUILD)/libcore.a
	$(CC) $(ALL_LDFLAGS) $^ $(LIBS) -o $@
$(BUILD)/llama4d: $(call obj,server/main.c) $(PLAIN_KERNELS) $(BUILD)/libserver.a $(BUILD)/libcore.a
	$(CC) $(ALL_LDFLAGS) $^ $(LIBS) -o $@
$(BUILD)/golden: $(call obj,$(GOLDEN_SRC)) $(BUILD)/libtest.a $(BUILD)/libcore.a
	$(CC) $(ALL_LDFLAGS) $^ $(LIBS) -o $@
$(BUILD)/tests/unit/server/%: $(BUILD)/obj/tests/unit/server/%.o $(call obj,$(FAKE_SRC)) $(BUILD)/libtest.a $(BUILD)/libserver.a $(BUILD)/libcore.a
	@mkdir -p $(@D)
	$(CC) $(ALL_LDFLAGS) $^ $(LIBS) -lcmocka -o $@
$(BUILD)/tests/unit/%: $(BUILD)/obj/tests/unit/%.o $(BUILD)/libtest.a $(BUILD)/libserver.a $(BUILD)/libcore.a
	@mkdir -p $(@D)
	$(CC) $(ALL_LDFLAGS) $^ $(LIBS) -lcmocka -o $@
$(BUILD)/tests/kernels/%: $(BUILD)/obj/tests/kernels/%.o $(BUILD)/libcore.a
	@mkdir -p $(@D)
	$(CC) $(ALL_LDFLAGS) $^ $(LIBS) -o $@
$(BUILD)/bench/%: $(BUILD)/obj/tests/bench/%.o $(BUILD)/libtest.a $(BUILD)/libcore.a
	@mkdir -p $(@D)
	$(CC) $(ALL_LDFLAGS) $^ $(LIBS) -o $@

# The kernel tests for arm64, for qemu-user: without the libraries, which this machine has for itself only.
ARM64_CC  ?= aarch64-linux-gnu-gcc
ARM64_SRC := $(wildcard core/kernels/*.c) $(filter-out core/base/placement.c,$(wildcard core/base/*.c)) core/format/tensor.c $(wildcard core/format/dequant*.c)
ARM64_HDR := $(wildcard tests/kernels/*.h core/kernels/*.h core/base/*.h core/format/tensor.h core/format/dequant*.h include/llama4/*.h)
ARM64_BIN := $(KERNEL_SRC:tests/kernels/%.c=$(BUILD)/arm64/%)
$(BUILD)/arm64/obj/%.o: %.c $(ARM64_HDR)
	@mkdir -p $(@D)
	$(ARM64_CC) -std=gnu11 -D_GNU_SOURCE -DL4_NO_OPENBLAS -I. -Iinclude $(WARN) -ffp-contract=off -fno-math-errno -O2 \
	    -pthread -c $< -o $@
$(ARM64_BIN): $(BUILD)/arm64/%: $(BUILD)/arm64/obj/tests/kernels/%.o $(ARM64_SRC:%.c=$(BUILD)/arm64/obj/%.o)
	$(ARM64_CC) -pthread -static $^ -lm -o $@

# ---- checks --------------------------------------------------------------------------------------------------------
test: all $(ARM64_BIN) ## build and run every test
	BUILD=$(BUILD) tests/run.sh unit kernels arm64 golden http

asan: ## unit and HTTP tests under the address and undefined-behaviour sanitizers
	$(MAKE) BUILD=$(BUILD)/asan SANITIZE=address,undefined CFLAGS='-O1 -g1' STAGES='unit kernels http' sanitized
tsan: ## unit and HTTP tests under the thread sanitizer
	$(MAKE) BUILD=$(BUILD)/tsan SANITIZE=thread CFLAGS='-O1 -g1' STAGES='unit http' sanitized
.PHONY: sanitized
sanitized: $(BUILD)/llama4d $(BUILD)/llama4d-fake $(UNIT_BIN) $(KERNEL_BIN)
	BUILD=$(BUILD) tests/run.sh $(STAGES)

FUZZ_SECONDS ?= 10
FUZZ_BIN := $(patsubst tests/fuzz/%.c,$(BUILD)/bin/%,$(FUZZ_SRC))
fuzz: ## run every fuzz target for FUZZ_SECONDS
	$(MAKE) BUILD=$(BUILD)/fuzz CC=clang SANITIZE=fuzzer-no-link,address,undefined CFLAGS='-O1 -g1' fuzz-run
.PHONY: fuzz-run
fuzz-run: $(FUZZ_BIN)
	BUILD=$(BUILD) FUZZ_SECONDS=$(FUZZ_SECONDS) tests/fuzz/run.sh $(FUZZ_BIN)
$(BUILD)/bin/%: $(BUILD)/obj/tests/fuzz/%.o $(BUILD)/libserver.a $(BUILD)/libcore.a
	@mkdir -p $(@D)
	$(CC) $(subst fuzzer-no-link,fuzzer,$(ALL_LDFLAGS)) $^ $(LIBS) -o $@

# The known-bad samples of `make lint`, by the rules that the sanitized and fuzzed programs are built by.
$(BUILD)/lint/%: $(BUILD)/obj/tests/lint/bad/%/sample.o
	@mkdir -p $(@D)
	$(CC) $(subst fuzzer-no-link,fuzzer,$(ALL_LDFLAGS)) $^ -o $@

bench: all ## print what the engine and the server reach on this machine
	BUILD=$(BUILD) tests/bench/run.sh

format: ## let clang-format have its way
	git ls-files -co --exclude-standard '*.c' '*.h' | grep -v tests/lint/bad | xargs clang-format -i
lint: ## include rules, formatting, headers that compile alone; each gate with its known-bad sample
	tests/lint/lint.sh

PREFIX ?= /usr/local
install: $(BUILD)/llama4d ## install under PREFIX (and DESTDIR)
	install -D -m 755 $(BUILD)/llama4d $(DESTDIR)$(PREFIX)/bin/llama4d
	install -D -m 644 config/llama4d.conf $(DESTDIR)/etc/llama4d/llama4d.conf
	install -D -m 644 deploy/llama4d.service $(DESTDIR)/lib/systemd/system/llama4d.service

clean: ## remove what was built
	rm -rf $(BUILD)

-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)
