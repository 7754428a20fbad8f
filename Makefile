# halutd: `make help` lists the targets.
CC ?= gcc
CXX ?= g++
BUILD ?= build
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
CFLAGS ?= -O2 -g -fstack-protector-strong
LDFLAGS ?= -Wl,-z,relro,-z,now
WARN = -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wstrict-prototypes -Werror
HALUT_CFLAGS = -std=c17 $(WARN) -D_GNU_SOURCE -ffp-contract=off -fno-math-errno -MMD -MP $(CFLAGS)

# Debian packages: to build, to run the tests. Targets install the missing ones only.
PACKAGES = gcc g++ make libc6-dev libmicrohttpd-dev libuv1-dev libjansson-dev liblapacke-dev \
  libopenblas-dev nettle-dev libgnutls28-dev libspng-dev libjpeg62-turbo-dev zlib1g-dev verilator
PACKAGES_TEST = check libsubunit-dev curl jq git iproute2 openssl shellcheck mandoc python3-numpy python3-pil nodejs \
  python3-venv python3-setuptools python3-wheel mypy gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user
# For models/train and its tests: 1.3 GB unpacked.
PACKAGES_TRAIN = python3-torch python3-matplotlib
# For CI: tools that check deploy/ and build the image. Not for a desktop, where some start services.
PACKAGES_DEPLOY = chromium systemd prometheus haproxy yamllint docker-compose git podman buildah runc netavark \
  aardvark-dns iptables catatonit uidmap mmdebstrap debian-archive-keyring
MODULES_DEPLOY = kubernetes-models@4.5.1 @kubernetes-models/prometheus-operator@6.0.0 typescript@5.9.3 yaml@2.9.1 \
  @stoplight/spectral-cli@6.16.3 @huggingface/inference@4.13.30

# The folder decides what a source belongs to; a file named *_<isa>.c gets that ISA's flags and no other does.
CORE_SRC := $(wildcard core/*.c)
CLI_SRC := $(wildcard models/halut.c models/cli*.c models/cmd_*.c)
MODEL_SRC := $(filter-out $(CLI_SRC),$(wildcard models/*.c))
SERVER_SRC := $(filter-out server/main.c,$(wildcard server/*.c))
RTL_SRC := $(wildcard rtl/*.c)
TEST_SRC := $(wildcard tests/check_*.c)
MODELS := $(wildcard models/*.safetensors)
include rtl/rtl.mk

object = $(patsubst %.c,$(BUILD)/%.o,$(1))
BLAS_LIBS ?= -llapacke -lopenblas
CORE_LIBS = $(RTL_LIBS) -lm
MODEL_LIBS = -ljansson -lnettle $(BLAS_LIBS) -lpthread $(CORE_LIBS)
PICTURE_LIBS = -lspng -ljpeg -lz
SERVER_LIBS = -lmicrohttpd -lgnutls -luv $(PICTURE_LIBS) $(MODEL_LIBS)

# The data set for the accuracy tests: the official binary layout, where `make data` put it or where this points.
export HALUT_CIFAR10 ?= $(abspath $(dir $(wildcard cifar-10-batches-bin/test_batch.bin)))

.DEFAULT_GOAL := all
.PHONY: fuzz soak all tests help deps deps-test deps-train deps-deploy run check test bench bench-http \
  bench-replicas asan tsan lint man docs install container-test data clean
all: $(BUILD)/halut $(BUILD)/halutd ## build the daemon and the command line (the default)

# Elsewhere these files are empty; NEON needs no flag on the processor that has it.
ifneq ($(filter x86_64-%,$(shell $(CC) -dumpmachine)),)
TESTS_X86 = $(BUILD)/tests/bench/avx2.so
$(BUILD)/%_ssse3.o: ISA_FLAGS = -mssse3
$(BUILD)/%_avx2.o: ISA_FLAGS = -mavx2
$(BUILD)/%_avx512.o: ISA_FLAGS = -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vbmi -mavx512vnni
endif
$(BUILD)/server/page.o: $(wildcard server/page/*) server/openapi.json clients/js/halutd.js
$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(HALUT_CFLAGS) $(ISA_FLAGS) -c -o $@ $<

$(BUILD)/libhalut.a: $(call object,$(CORE_SRC) $(MODEL_SRC) $(RTL_SRC)) $(RTL_OBJ)
	rm -f $@ && ar rcs $@ $^

$(BUILD)/halut: $(call object,$(CLI_SRC) server/image.c) $(BUILD)/libhalut.a
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(PICTURE_LIBS) $(MODEL_LIBS)
$(BUILD)/halutd: $(call object,server/main.c $(SERVER_SRC)) $(BUILD)/libhalut.a
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(SERVER_LIBS)
$(BUILD)/tests/%: $(BUILD)/tests/%.o $(call object,$(SERVER_SRC)) $(BUILD)/libhalut.a
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ -lcheck -lsubunit -lrt $(SERVER_LIBS)

# The peers' libraries are installed by `bench`, so this is no part of `tests`.
$(BUILD)/tests/bench/products: $(BUILD)/tests/bench/products.o $(BUILD)/libhalut.a
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ -ldnnl -lopenblas $(MODEL_LIBS)

$(BUILD)/tests/bench/echo $(BUILD)/tests/bench/load: %: %.o
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ -luv

# What a test or a benchmark loads into another program.
$(BUILD)/%.so: %.c
	@mkdir -p $(@D)
	$(CC) $(HALUT_CFLAGS) -fPIC -shared $(SO_FLAGS) -o $@ $<
$(BUILD)/tests/bench/avx2.so: SO_FLAGS = -Wl,-z,initfirst

tests: all $(patsubst %.c,$(BUILD)/%,$(TEST_SRC)) $(TEST_PROGRAMS) $(BUILD)/tests/failmalloc.so \
  $(BUILD)/tests/bench/load $(TESTS_X86)

help: ## this list
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  \1\t\2/p' $(filter-out %.d,$(MAKEFILE_LIST)) | expand -t 18
	@echo "variables: BUILD=$(BUILD) CC=$(CC) CFLAGS PREFIX=$(PREFIX) DESTDIR HALUT_CIFAR10"

deps: ## install the Debian packages that the build needs
	@deploy/packages.sh $(PACKAGES)
deps-test: ## install those and the packages that the tests need
	@deploy/packages.sh $(PACKAGES) $(PACKAGES_TEST)
deps-train: ## install those that models/train and its tests need
	@deploy/packages.sh $(PACKAGES) $(PACKAGES_TEST) $(PACKAGES_TRAIN)
deps-deploy: ## install the tools that check deploy/ and build the container image
	@deploy/packages.sh $(PACKAGES_DEPLOY)
	@if command -v npm >/dev/null; then npm install --silent --no-fund --no-audit --ignore-scripts \
	  --prefix $(BUILD)/deploy $(MODULES_DEPLOY); fi

run: deps ## install packages, build, and serve ./models on 127.0.0.1:8080
	@$(MAKE) --no-print-directory all
	@echo "serving on http://127.0.0.1:8080; in another terminal, in this folder, try:"
	@echo "  curl -T models/photo/cat.jpg http://127.0.0.1:8080/v1/classify"
	@echo "  curl -d '{\"model\":\"signal\",\"a\":[[0,1,2,3,4,5,6,7]]}' http://127.0.0.1:8080/v1/matmul"
	@echo "or open it in a browser"
	@exec $(BUILD)/halutd --listen 127.0.0.1:8080 --models models

check: tests ## build and run the quick tests, or TESTS="NAME..." of them
	tests/run.sh --quick $(BUILD) $(TESTS)
test: deps-test ## install what the tests need, build, run all tests
	@$(MAKE) --no-print-directory tests
	tests/run.sh $(BUILD)

# Other builds of the same tests, each in its own folder beside BUILD.
asan: ## all tests of our programs under the address, leak and undefined behaviour sanitizers
	$(MAKE) BUILD=$(BUILD)-asan tests \
	  CFLAGS="-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all"
	ASAN_OPTIONS=strict_string_checks=1:detect_stack_use_after_return=1 \
	  tests/run.sh --under asan $(BUILD)-asan $(TESTS)
tsan: ## likewise under the thread sanitizer
	$(MAKE) BUILD=$(BUILD)-tsan CFLAGS="-O1 -g -fsanitize=thread" tests
	TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1 tests/run.sh --under tsan $(BUILD)-tsan $(TESTS)

fuzz: ## fuzz what reads outside data, SECS (60) seconds a target (needs clang)
	FUZZ_OUT=$(BUILD)-fuzz tests/fuzz.sh $(or $(SECS),60)

soak: all ## ill-behaved clients for MINUTES (10): answers, memory and descriptors accounted for
	HALUT_BUILD=$(abspath $(BUILD)) /usr/bin/python3 tests/server/chaos.py --minutes $(or $(MINUTES),10)

lint: ## check the sources against the house rules
	tests/tidy.sh

bench: all ## measure against ONNX Runtime, OpenBLAS and oneDNN, interleaved on one core; ISA=avx2 holds all to AVX2
	@deploy/packages.sh libdnnl-dev
	@$(MAKE) --no-print-directory $(BUILD)/tests/bench/products $(if $(ISA),$(BUILD)/tests/bench/$(ISA).so)
	tests/bench/run.sh $(BUILD) $(if $(ISA),--isa $(ISA))
bench-http: all ## what serving costs on top of computing: processor time, throughput, latency
	deploy/packages.sh wrk python3-numpy util-linux
	@$(MAKE) --no-print-directory $(BUILD)/tests/bench/echo $(BUILD)/tests/bench/load
	tests/bench/http.py $(BUILD)
bench-replicas: all ## requests a second through HAProxy against the number of daemons behind it
	HALUT_BUILD=$(abspath $(BUILD)) tests/bench/replicas.sh

man: $(BUILD)/halutd.8 ## write the manual pages, the annotated configuration and the completion
$(BUILD)/halutd.8: all deploy/manual.sh
	deploy/manual.sh $(BUILD)

docs: $(BUILD)/docs/api.html ## write the API reference
$(BUILD)/docs/api.html: server/openapi.json deploy/apidoc.py
	@mkdir -p $(@D)
	/usr/bin/python3 deploy/apidoc.py $< >$@.part && mv $@.part $@

install: all man ## install under PREFIX (and DESTDIR): programs, models, manuals, systemd units
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/sbin
	install $(BUILD)/halut $(DESTDIR)$(PREFIX)/bin/halut
	install $(BUILD)/halutd $(DESTDIR)$(PREFIX)/sbin/halutd
	install -d $(DESTDIR)$(PREFIX)/share/halut/models
	install -m 644 $(MODELS) $(DESTDIR)$(PREFIX)/share/halut/models/
	install -D -m 644 $(BUILD)/halut.1 $(DESTDIR)$(PREFIX)/share/man/man1/halut.1
	install -D -m 644 $(BUILD)/halutd.8 $(DESTDIR)$(PREFIX)/share/man/man8/halutd.8
	install -D -m 644 $(BUILD)/halut.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/halut
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system $(DESTDIR)$(SYSCONFDIR)
	sed 's,@SBIN@,$(PREFIX)/sbin,; s,@CONF@,$(SYSCONFDIR)/halutd.conf,' deploy/systemd/halutd.service \
	  >$(DESTDIR)$(PREFIX)/lib/systemd/system/halutd.service
	install -m 644 deploy/systemd/halutd.socket $(DESTDIR)$(PREFIX)/lib/systemd/system/halutd.socket
	test -e $(DESTDIR)$(SYSCONFDIR)/halutd.conf || \
	  sed 's,^#models = .*,models = $(PREFIX)/share/halut/models,' $(BUILD)/halutd.conf \
	  >$(DESTDIR)$(SYSCONFDIR)/halutd.conf

container-test: deps-deploy ## build the container image for real and test the running container
	@mkdir -p $(BUILD)
	tests/run.sh $(BUILD) container

data: ## fetch CIFAR-10 in the official binary layout and verify it
	@command -v curl >/dev/null || deploy/packages.sh curl ca-certificates
	deploy/cifar10.sh cifar-10-batches-bin

clean: ## remove what was built
	rm -rf $(BUILD) $(BUILD)-asan $(BUILD)-tsan $(BUILD)-fuzz

-include $(shell find $(addprefix $(BUILD)/,core models server rtl tests) -name '*.d' -type f 2>/dev/null)
