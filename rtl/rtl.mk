# rtl.mk: the accelerator's part of the build. Included by the Makefile; works from the root of the tree.
#
# Each Verilated model is one object, $(BUILD)/rtl/<model>.o, made once and kept until its sources change. `unit` is
# the backend's; the others are small ones for the tests, with assertions on.
VERILATOR ?= $(shell command -v verilator)
# What the C++ compiler may use for the simulated accelerator; opening the backend checks that the processor has it.
RTL_MARCH ?= $(if $(filter x86_64,$(shell uname -m)),-march=x86-64-v3)
# Liberty file for `make synth` and `make power`; by default the one of Debian's qflow-tech-osu035.
LIBERTY ?= /usr/share/qflow/tech/osu035/osu035_stdcells.lib

RTL_SV := $(addprefix rtl/,lint.vlt halut_pkg.sv halut_regs_pkg.sv halut_encoder.sv halut_encoders.sv halut_gate.sv \
  halut_rows.sv halut_flow.sv halut_lanes_packed.sv halut_lanes_latch.sv halut_lanes.sv halut_ctrl.sv \
  halut_stream_check.sv halut_top.sv)
PACKAGES_TEST += yosys z3 iverilog opensta qflow-tech-osu035
PACKAGES_LAYOUT = yosys qflow qflow-tech-osu035 graywolf qrouter magic netgen-lvs python3-pil

# Sizes of every model that is built, in one place.
RTL_UNIT = -GP=4 -GM=128 -GR=8 -GC=4096
RTL_TILED = -GP=2 -GM=16 -GR=2 -GC=8
RTL_NARROW = -GP=1 -GM=8 -GR=1 -GC=2 -GLatch="1'b1"
RTL_FLAT = -GP=4 -GM=8 -GR=2 -GC=4 -GAccW=10 -GCountW=32 -GLatch="1'b1"
RTL_TEST_MODELS := tiled narrow flat

# Loops up to 12 turns are written out, longer ones stay loops: halut_lanes_packed counts on it.
RTL_VERILATE = $(VERILATOR) --cc -O3 --x-assign fast --x-initial fast --trace-fst -Wall --unroll-count 12 \
  --unroll-stmts 1000000 --top-module halut_top
# Verilator's headers read and store words where they lie.
RTL_SANITIZE := $(filter -fsanitize% -fno-sanitize%,$(CFLAGS)) -fno-sanitize=alignment
RTL_OPT = -O3 $(RTL_SANITIZE)

ifneq ($(VERILATOR),)
VERILATOR_INCLUDE := $(shell $(VERILATOR) --getenv VERILATOR_ROOT)/include
# Without RTL_MARCH: parts of the runtime run before anything could be checked.
RTL_CXX = $(CXX) -std=c++17 $(RTL_OPT) -DVM_TRACE=1 -DVM_TRACE_FST=1 -DVM_COVERAGE=0 -DVM_SC=0 \
  -isystem $(VERILATOR_INCLUDE) -isystem $(VERILATOR_INCLUDE)/vltstd -MMD -MP

# $(1) model, $(2) sizes, $(3) further options, $(4) how to compile it
define rtl_model
$(BUILD)/rtl/$(1)/V$(1).mk: $(RTL_SV) rtl/rtl.mk
	@mkdir -p $$(@D)
	$(RTL_VERILATE) --prefix V$(1) $(2) $(3) $(RTL_SV) --Mdir $$(@D)
$(BUILD)/rtl/$(1)/V$(1)__ALL.a: $(BUILD)/rtl/$(1)/V$(1).mk
	$$(MAKE) --no-print-directory -s -C $$(@D) -f V$(1).mk CXX="$(CXX)" OPT_FAST="$(4)" OPT_SLOW="-O0 $(RTL_SANITIZE)" \
	  OPT_GLOBAL=-O0 V$(1)__ALL.a
$(BUILD)/rtl/$(1)/sim.o: rtl/sim.cpp $(BUILD)/rtl/$(1)/V$(1).mk
	$(RTL_CXX) $(RTL_MARCH) -Wall -Wextra -Wshadow -Werror -DHALUT_SIM=$(1) -DHALUT_SIM_HEADER='"V$(1).h"' \
	  -isystem $$(@D) -c -o $$@ $$<
$(BUILD)/rtl/$(1).o: $(BUILD)/rtl/$(1)/sim.o $(BUILD)/rtl/$(1)/V$(1)__ALL.a
	$(LD) -r -o $$@ $(BUILD)/rtl/$(1)/sim.o --whole-archive $(BUILD)/rtl/$(1)/V$(1)__ALL.a
endef
$(eval $(call rtl_model,unit,$(RTL_UNIT),--noassert -DSYNTHESIS,$(RTL_OPT) $(RTL_MARCH)))
$(eval $(call rtl_model,tiled,$(RTL_TILED),--assert,-O1 $(RTL_SANITIZE)))
$(eval $(call rtl_model,narrow,$(RTL_NARROW),--assert,-O1 $(RTL_SANITIZE)))
$(eval $(call rtl_model,flat,$(RTL_FLAT),--assert,-O1 $(RTL_SANITIZE)))

RTL_RUNTIME := $(patsubst %,$(BUILD)/rtl/runtime/%.o,verilated verilated_threads verilated_fst_c)
$(BUILD)/rtl/runtime/%.o: $(VERILATOR_INCLUDE)/%.cpp rtl/rtl.mk
	@mkdir -p $(@D)
	$(RTL_CXX) -fno-sanitize=undefined -c -o $@ $< # nor is its waveform writer ours

RTL_OBJ := $(BUILD)/rtl/unit.o $(RTL_RUNTIME)
RTL_LIBS = -lstdc++ -lz
$(BUILD)/rtl/backend_rtl.o: HALUT_CFLAGS += -DHALUT_RTL_SIM $(if $(filter %=x86-64-v3,$(RTL_MARCH)),-DHALUT_RTL_V3)
# It is compiled again when Verilator has been installed.
$(BUILD)/rtl/backend_rtl.o: $(RTL_OBJ)
$(BUILD)/tests/check_rtl: $(RTL_TEST_MODELS:%=$(BUILD)/rtl/%.o)
# The daemon with a device that can fall silent in place of `unit`: the first definition is the one that is linked.
TEST_PROGRAMS += $(BUILD)/tests/rtl/halutd_silent
$(BUILD)/tests/rtl/halutd_silent: $(patsubst %.c,$(BUILD)/%.o,tests/rtl/silent.c server/main.c $(SERVER_SRC)) \
  $(BUILD)/rtl/tiled.o $(BUILD)/libhalut.a
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(SERVER_LIBS)
else
$(info Verilator is not installed: building without the rtl backend (`make deps` installs it))
TEST_SRC := $(filter-out tests/check_rtl.c,$(TEST_SRC))
endif

# Every model, as it is built, and the largest size that `make synth` reports.
RTL_LINT = $(VERILATOR) --lint-only -Wall --unroll-count 4096 --unroll-stmts 1000000 --top-module halut_top

.PHONY: regs check-rtl lint-rtl formal synth power layout bench-rtl
regs: ## write the register package and table from rtl/regs.inc
	rtl/regs.sh write
lint-rtl: ## check the hardware sources with Verilator
	rtl/regs.sh check
	$(RTL_LINT) $(RTL_UNIT) --noassert $(RTL_SV)
	$(RTL_LINT) $(RTL_TILED) --assert $(RTL_SV)
	$(RTL_LINT) $(RTL_NARROW) --assert $(RTL_SV)
	$(RTL_LINT) $(RTL_FLAT) --assert $(RTL_SV)
	$(RTL_LINT) -GP=16 -GM=8 -GR=4 -GC=16 -GAccW=12 -GCountW=32 -GLatch="1'b1" --assert $(RTL_SV)
check-rtl: lint-rtl $(BUILD)/tests/check_rtl ## lint the hardware and run its tests alone
	$(BUILD)/tests/check_rtl
formal: ## prove the protocol, the counters and the arithmetic
	rtl/formal/run.sh $(BUILD)/rtl/formal
synth: ## synthesise, time and compare the hardware blocks (LIBERTY=path, BLOCKS=names)
	rtl/synth/table.sh $(BUILD)/rtl/synth $(LIBERTY) $(BLOCKS)
power: ## energy per lookup from simulated netlists (LIBERTY=path, BLOCKS=names)
	rtl/power/power.sh $(BUILD)/rtl/synth $(LIBERTY) $(BLOCKS)
layout: ## place, route, check and draw one encoder (installs qflow, magic and their like)
	@deploy/packages.sh $(PACKAGES_LAYOUT)
	rtl/layout/layout.sh $(abspath $(BUILD)/rtl/layout)

# The learned layers of ResNet-9 with random tables: speed, counters, and the model that predicts them.
$(BUILD)/tests/rtl/network: $(BUILD)/tests/rtl/network.o $(BUILD)/libhalut.a
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(MODEL_LIBS)
bench-rtl: $(BUILD)/tests/rtl/network ## measure the simulated accelerator, compare with rtl/model.py
	$(BUILD)/tests/rtl/network 1
	$(BUILD)/tests/rtl/network 16
	rtl/model.py --validate $(BUILD)/tests/rtl/network
