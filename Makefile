# halutd: `make help` lists the targets.
CC ?= gcc
CXX ?= g++
BUILD ?= build
CFLAGS ?= -O2 -g
WARN = -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wstrict-prototypes -Werror
HALUT_CFLAGS = -std=c17 $(WARN) -D_GNU_SOURCE -ffp-contract=off -fno-math-errno -MMD -MP $(CFLAGS)

# The folder decides what a source belongs to; a file named *_<isa>.c gets that ISA's flags and no other does.
CORE_SRC := $(wildcard core/*.c)
CLI_SRC := $(wildcard models/halut.c models/cli.c models/cmd_*.c)
MODEL_SRC := $(filter-out $(CLI_SRC),$(wildcard models/*.c))
SERVER_SRC := $(filter-out server/main.c,$(wildcard server/*.c))
RTL_SRC := $(wildcard rtl/*.c)
TEST_SRC := $(wildcard tests/check_*.c)

object = $(patsubst %.c,$(BUILD)/%.o,$(1))
CORE_LIBS = -lm
MODEL_LIBS = -ljansson -llapacke -lopenblas -lpthread $(CORE_LIBS)
SERVER_LIBS = -lmicrohttpd -luv -lspng -ljpeg -lz $(MODEL_LIBS)

.DEFAULT_GOAL := all
.PHONY: all clean check
all: $(BUILD)/halut $(BUILD)/halutd

$(BUILD)/%_ssse3.o: ISA_FLAGS = -mssse3
$(BUILD)/%_avx2.o: ISA_FLAGS = -mavx2
$(BUILD)/%_avx512.o: ISA_FLAGS = -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vbmi -mavx512vnni
$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(HALUT_CFLAGS) $(ISA_FLAGS) -c -o $@ $<

$(BUILD)/libhalut.a: $(call object,$(CORE_SRC) $(MODEL_SRC) $(RTL_SRC))
	rm -f $@ && ar rcs $@ $^

$(BUILD)/halut: $(call object,$(CLI_SRC)) $(BUILD)/libhalut.a
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(MODEL_LIBS)
$(BUILD)/halutd: $(call object,server/main.c $(SERVER_SRC)) $(BUILD)/libhalut.a
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(SERVER_LIBS)
$(BUILD)/tests/%: $(BUILD)/tests/%.o $(call object,$(SERVER_SRC)) $(BUILD)/libhalut.a
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ -lcheck -lsubunit -lrt $(SERVER_LIBS)

check: all $(patsubst %.c,$(BUILD)/%,$(TEST_SRC))
	tests/run.sh $(BUILD)

clean:
	rm -rf $(BUILD)

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
