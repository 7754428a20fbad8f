# halutd: `make help` lists the targets.
CC ?= gcc
BUILD ?= build
CFLAGS ?= -O2 -g
WARN = -std=c17 -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wstrict-prototypes -Werror
HALUT_CFLAGS = $(WARN) -D_GNU_SOURCE -ffp-contract=off -fno-math-errno -MMD -MP $(CFLAGS)

# A source's folder decides what it belongs to; a file named *_<isa>.c gets that ISA's flags and no other.
CORE_SRC := $(wildcard core/*.c)
MODEL_SRC := $(filter-out models/halut.c models/cmd_%.c,$(wildcard models/*.c))
CLI_SRC := $(wildcard models/halut.c models/cmd_*.c models/cli.c)
SERVER_SRC := $(filter-out server/main.c,$(wildcard server/*.c))
RTL_SRC := $(wildcard rtl/*.c)

obj = $(patsubst %.c,$(BUILD)/%.o,$(1))

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(HALUT_CFLAGS) $(ISA_FLAGS) -c -o $@ $<
$(BUILD)/%_ssse3.o: ISA_FLAGS = -mssse3
$(BUILD)/%_avx2.o: ISA_FLAGS = -mavx2
$(BUILD)/%_avx512.o: ISA_FLAGS = -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vbmi -mavx512vnni
