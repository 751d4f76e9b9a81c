# Pollux. `make help` lists what can be built; README.md says how the pieces fit.
#
# Every folder's sources are found by pattern, so a new file needs no line here. MODE picks a
# flavour (release, asan, tsan, fuzz), each with its own tree below $(B). Warnings are errors in
# release and fuzz (two compilers); under gcc's sanitizers they are off, since those add false ones.

B    ?= build
MODE ?= release
O    := $(B)/$(MODE)

PKGS_BASE := libsodium jansson libutf8proc libxxhash libcyaml
PKGS_TEST := libpcre2-8 cmocka
PKGS_DPDK := libdpdk

# Vendor headers come in as system headers, so that our warnings stay ours.
sysinc = $(patsubst -I%,-isystem %,$(shell pkg-config --cflags-only-I $(1) 2>/dev/null))

WARN := -Wall -Wextra -Wpedantic -Werror -Wconversion -Wsign-conversion -Wshadow \
        -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wundef -Wcast-qual -Wpointer-arith \
        -Wwrite-strings -Wformat=2 -Wdouble-promotion -Wimplicit-fallthrough -Wswitch-enum \
        -Wnull-dereference
BASEFLAGS := -std=gnu17 -g -fno-common -fstack-protector-strong -ffp-contract=off -fPIC \
             -D_GNU_SOURCE -I. -MMD -MP
ARCHFLAGS := -march=x86-64-v2

ifeq ($(MODE),release)
  CC        := gcc
  MODEFLAGS := -O2
else ifeq ($(MODE),asan)
  CC        := gcc
  MODEFLAGS := -O1 -fno-omit-frame-pointer -fsanitize=address,undefined \
               -fno-sanitize-recover=undefined -DPLX_DEBUG -w
  MODELINK  := -fsanitize=address,undefined
else ifeq ($(MODE),tsan)
  CC        := gcc
  MODEFLAGS := -O1 -fno-omit-frame-pointer -fsanitize=thread -DPLX_DEBUG -DRTE_USE_C11_MEM_MODEL -w
  MODELINK  := -fsanitize=thread
else ifeq ($(MODE),fuzz)
  CC        := clang-14
  MODEFLAGS := -O1 -fno-omit-frame-pointer -fsanitize=fuzzer-no-link,address,undefined \
               -fno-sanitize-recover=undefined -DPLX_DEBUG -Wno-null-dereference
  MODELINK  := -fsanitize=address,undefined
else
  $(error MODE=$(MODE) is not known; give release, asan, tsan or fuzz)
endif

SYSINC_BASE := $(call sysinc,$(PKGS_BASE) $(PKGS_TEST))
CFLAGS_ALL   = $(BASEFLAGS) $(WARN) $(MODEFLAGS) $(SYSINC_BASE)
CFLAGS_DPDK := $(call sysinc,$(PKGS_DPDK)) -include rte_config.h

# ---- sources -------------------------------------------------------------------------------
SRC_base      := $(wildcard fw/base/*.c)
SRC_kernels   := $(wildcard kernels/cpu/*.c kernels/*.c)
SRC_model     := $(wildcard accel/model/*.c)
SRC_accel     := $(filter-out accel/cuda_%.c,$(wildcard accel/*.c))
SRC_wire      := $(wildcard dataplane/wire/*.c)
SRC_batch     := $(wildcard dataplane/batch/*.c)
SRC_dataplane := $(filter-out %.bpf.c,$(wildcard dataplane/*.c))
SRC_fw        := $(filter-out fw/main.c,$(wildcard fw/*.c))
SRC_client    := $(wildcard tools/client/*.c)
SRC_gguf      := $(wildcard tools/gguf/*.c)
SRC_testlib   := $(wildcard tests/lib/*.c)

LIBS_ALL := testlib fw dataplane batch client gguf wire accel model kernels base
LIBFILES := $(foreach l,$(LIBS_ALL),$(O)/lib$(l).a)
NODPDK   := $(filter-out %/libfw.a %/libdataplane.a,$(LIBFILES))

obj = $(patsubst %.c,$(O)/obj/%.o,$(1))

LDLIBS_BASE := -lsodium -lIPSec_MB -ljansson -lutf8proc -lxxhash -lcyaml -lyaml -lm -lpthread -ldl
LDLIBS_TEST := -lpcre2-8 -lcmocka
LDLIBS_DPDK := $(shell pkg-config --libs libdpdk 2>/dev/null) -lbpf -lxdp -lsystemd

# A test, benchmark or fuzz target that includes DPDK or the stages links with them.
needs_dpdk = $(shell grep -lE '"(dataplane/[a-z_0-9]+\.h|fw/[a-z_0-9]+\.h)"|<rte_' $(1) 2>/dev/null)
TESTS      := $(wildcard tests/test_*.c)
BENCHES    := $(wildcard tests/bench_*.c)
FUZZERS    := $(wildcard tests/fuzz_*.c)
DPDK_PROGS := $(call needs_dpdk,$(TESTS) $(BENCHES) $(FUZZERS))
TOOLDIRS   := $(filter-out client,$(patsubst tools/%/main.c,%,$(wildcard tools/*/main.c)))

TEST_BINS  := $(patsubst tests/%.c,$(O)/%,$(TESTS))
BENCH_BINS := $(patsubst tests/%.c,$(O)/%,$(BENCHES))
FUZZ_BINS  := $(patsubst tests/%.c,$(O)/%,$(FUZZERS))
TOOL_BINS  := $(patsubst %,$(O)/plx-%,$(TOOLDIRS))
POLLUXD    := $(if $(wildcard fw/main.c),$(O)/polluxd)

.DEFAULT_GOAL := all
all: $(POLLUXD) $(TOOL_BINS) $(if $(filter release,$(MODE)),plugin) ## build polluxd and the tools
tests: $(TEST_BINS)
benches: $(BENCH_BINS)
fuzzers: $(FUZZ_BINS)
.PHONY: all tests benches fuzzers

# ---- rules ---------------------------------------------------------------------------------
$(O)/obj/%_avx2.o: ARCHFLAGS := -march=x86-64-v3
$(O)/obj/%_avxvnni.o: ARCHFLAGS := -march=x86-64-v3 -mavxvnni
$(O)/obj/%_avx512.o: ARCHFLAGS := -march=x86-64-v4 -mavx512vnni -mprefer-vector-width=512
$(O)/obj/%_avx512bf16.o: ARCHFLAGS := -march=x86-64-v4 -mavx512vnni -mavx512bf16 -mamx-tile \
                                     -mamx-int8 -mprefer-vector-width=512
# The ISA files are thousands of inlined vector operations, and the sanitizers take a minute to
# compile the scalar one: MODE=asan watches the two vector files, all else is built plain.
ISA_PLAIN := $(wildcard kernels/cpu/isa_*.c kernels/cpu/mm_*.c tests/lib/amx_model*.c)
ISA_OBJS := $(call obj,$(if $(filter asan,$(MODE)),$(filter-out %/isa_avx2.c %/isa_avx512.c,$(ISA_PLAIN)),$(ISA_PLAIN)))
$(ISA_OBJS): MODEFLAGS := $(if $(filter release,$(MODE)),-O3,-O2 -w)

$(O)/obj/dataplane/wire/%.o: EXTRA :=
$(O)/obj/dataplane/batch/%.o: EXTRA :=
$(call obj,$(SRC_dataplane) $(SRC_fw) fw/main.c $(DPDK_PROGS)): EXTRA := $(CFLAGS_DPDK)

# The port's XDP program is compiled for the kernel's machine and embedded in port_xdp.o.
XDP_OBJECT := $(O)/obj/dataplane/port_xdp.bpf
$(XDP_OBJECT): dataplane/port_xdp.bpf.c dataplane/port_xdp.h
	@mkdir -p $(@D)
	$(if $(V),,@echo "  BPF  $<";) clang-14 -O2 -g -target bpf -I. -isystem /usr/include/$(shell gcc -print-multiarch) \
	  -Wall -Wextra -Werror -c -o $@ $<
$(O)/obj/dataplane/port_xdp.o: $(XDP_OBJECT)
$(O)/obj/dataplane/port_xdp.o: EXTRA := $(CFLAGS_DPDK) -DPLX_XDP_OBJECT='"$(XDP_OBJECT)"'

# plx-scope's eBPF programs come in as bpftool's skeleton, a header.
SCOPE_BPF := $(O)/obj/tools/scope/thieves.bpf.o
SCOPE_SKEL := $(O)/obj/tools/scope/thieves.skel.h
$(SCOPE_BPF): tools/scope/thieves.bpf.c tools/scope/thieves.h tools/scope/thief.h
	@mkdir -p $(@D)
	$(if $(V),,@echo "  BPF  $<";) clang-14 -O2 -g -target bpf -D__TARGET_ARCH_x86 -I. \
	  -isystem /usr/include/$(shell gcc -print-multiarch) -Wall -Wextra -Wno-unused-parameter -Werror -c -o $@ $<
$(SCOPE_SKEL): $(SCOPE_BPF)
	@bpftool gen skeleton $< name thieves_bpf >$@.new && mv $@.new $@
$(O)/obj/tools/scope/watch.o: $(SCOPE_SKEL)
$(O)/obj/tools/scope/watch.o: EXTRA := -isystem $(O)/obj
LDLIBS_scope := -lbpf

$(O)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(if $(V),,@echo "  CC   $<";) $(CC) $(EXTRA) $(ARCHFLAGS) $(CFLAGS_ALL) -c -o $@ $<

define lib_rule
$(O)/lib$(1).a: $(call obj,$(SRC_$(1)))
	@mkdir -p $$(@D); rm -f $$@; ar rcs $$@ $$^
endef
$(foreach l,$(LIBS_ALL),$(eval $(call lib_rule,$(l))))

# Extra objects for one program (link-seam fakes), as EXTRA_<name> := fake sources.
-include tests/tests.mk
-include tools/client/client.mk

# libFuzzer drives a fuzz target in MODE=fuzz; elsewhere a main of ours feeds it files.
ifeq ($(MODE),fuzz)
  FUZZ_LINK := -fsanitize=fuzzer
else
  FUZZ_MAIN := tests/fuzzmain/main.c
endif

define prog_rule
$(O)/$(1): $(O)/obj/tests/$(1).o $(call obj,$(EXTRA_$(1)) $(if $(filter fuzz_%,$(1)),$(FUZZ_MAIN))) \
           $(if $(filter tests/$(1).c,$(DPDK_PROGS)),$(LIBFILES),$(NODPDK))
	$(if $(V),,@echo "  LD   $$@";) $(CC) $(MODELINK) $(if $(filter fuzz_%,$(1)),$(FUZZ_LINK)) -o $$@ \
	  $$(filter %.o,$$^) -Wl,--start-group $$(filter %.a,$$^) -Wl,--end-group \
	  $(if $(filter tests/$(1).c,$(DPDK_PROGS)),$(LDLIBS_DPDK)) $(LDLIBS_BASE) $(LDLIBS_TEST) $(LDLIBS_$(1))
endef
$(foreach t,$(TESTS) $(BENCHES) $(FUZZERS),$(eval $(call prog_rule,$(patsubst tests/%.c,%,$(t)))))

define tool_rule
$(O)/plx-$(1): $(call obj,$(filter-out %.bpf.c,$(wildcard tools/$(1)/*.c))) $(NODPDK)
	$(if $(V),,@echo "  LD   $$@";) $(CC) $(MODELINK) -o $$@ $$(filter %.o,$$^) \
	  -Wl,--start-group $$(filter-out %/libtestlib.a,$$(filter %.a,$$^)) -Wl,--end-group $(LDLIBS_BASE) $(LDLIBS_$(1))
endef
$(foreach t,$(TOOLDIRS),$(eval $(call tool_rule,$(t))))

$(O)/polluxd: $(call obj,fw/main.c) $(LIBFILES)
	$(if $(V),,@echo "  LD   $@";) $(CC) $(MODELINK) -o $@ $(filter %.o,$^) \
	  -Wl,--start-group $(filter-out %/libtestlib.a,$(filter %.a,$^)) -Wl,--end-group $(LDLIBS_DPDK) $(LDLIBS_BASE)

# ---- the CUDA device ------------------------------------------------------------------------
# A plug-in beside the programs, loaded when a board asks for a GPU; built where nvcc is found, for
# Hopper and, through PTX, what comes after it. Everything else is built without it.
NVCC      ?= $(firstword $(shell command -v nvcc 2>/dev/null) $(wildcard /usr/local/cuda/bin/nvcc))
CUDA_HOME := $(patsubst %/bin/nvcc,%,$(realpath $(NVCC)))
CUDA_RT   := $(firstword $(wildcard $(CUDA_HOME)/lib64/libcudadevrt.a $(CUDA_HOME)/lib/libcudadevrt.a))
CUDA_LIB  := $(firstword $(wildcard $(CUDA_HOME)/lib64/libcudart_static.a $(CUDA_HOME)/lib/libcudart_static.a))
NVCCFLAGS := -O3 -std=c++17 -lineinfo -fmad=false -gencode=arch=compute_90,code=[sm_90,compute_90] \
             -Xcompiler -fPIC,-Wall,-Wextra,-fno-exceptions,-fno-threadsafe-statics -Werror all-warnings -I. -MMD -MP
CUDA_C    := $(call obj,$(wildcard accel/cuda_*.c))
CUDA_CU   := $(patsubst %.cu,$(O)/obj/%.cu.o,$(wildcard accel/cuda_*.cu kernels/cuda/*.cu))
PLUGIN    := $(O)/plx_cuda.so

$(CUDA_C): EXTRA := -isystem $(CUDA_HOME)/include
$(O)/obj/%.cu.o: %.cu
	@mkdir -p $(@D)
	$(if $(V),,@echo "  NVCC $<";) $(NVCC) $(NVCCFLAGS) -c -o $@ $<
# A step's last kernel launches graphs: that file alone is linked with the device's runtime.
CUDA_STEP := $(O)/obj/accel/cuda_step.cu.o
$(CUDA_STEP): NVCCFLAGS += -rdc=true
$(CUDA_STEP:.cu.o=.dlink.o): $(CUDA_STEP)
	$(if $(V),,@echo "  NVCC $@";) $(NVCC) -gencode=arch=compute_90,code=sm_90 -Xcompiler -fPIC -dlink -o $@ $< $(CUDA_RT)
$(PLUGIN): $(CUDA_STEP:.cu.o=.dlink.o)
$(PLUGIN): $(CUDA_C) $(CUDA_CU) $(foreach l,accel kernels base,$(O)/lib$(l).a)
	$(if $(V),,@echo "  LD   $@";) $(CC) -shared -Wl,-Bsymbolic -Wl,-z,defs -Wl,--version-script=accel/cuda.map -o $@ \
	  $(filter %.o,$^) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(CUDA_RT) $(CUDA_LIB) -lm -lpthread -lrt -ldl
plugin: $(if $(CUDA_LIB),$(PLUGIN)) ## build the CUDA device, where nvcc is
	@$(if $(CUDA_LIB),:,echo "  --   $(PLUGIN) is left out: no nvcc; give NVCC=/path/to/nvcc")
.PHONY: plugin

# ---- what people type ----------------------------------------------------------------------
# `run`, `test`, `bench` and `fuzz` install first and then call make again, since what pkg-config
# says is read before the first rule runs.
BOARD  ?= devbox
PROMPT ?= What is the capital of France, and what is it known for?
MODEL  ?=
ASK    ?=
# As typed: a "$" in a prompt is the user's, not make's.
run: export PLX_PROMPT = $(value PROMPT)
board_file = $(if $(wildcard $(BOARD)),$(BOARD),board/$(BOARD)/board.yml)
model_file = $(if $(MODEL),$(MODEL),$$(tools/dev/model.sh))

deps:
	@tools/dev/deps.sh
run: deps ## send PROMPT="..." to polluxd and watch the answer; MODEL=file.gguf BOARD=devbox ASK="--seed 1"
	@$(MAKE) --no-print-directory -j2 all
	@tools/dev/run.sh $(O) "$(model_file)" "$(board_file)" "$$PLX_PROMPT" $(ASK)
test: deps ## lint, then unit, protocol, sanitizer and end-to-end tests
	@tools/dev/test.sh "$(B)" "$(model_file)"
bench: deps ## every figure, each with its unit and this machine
	@$(MAKE) --no-print-directory -j2 all benches
	@tools/dev/bench.sh $(O) "$(model_file)"
fuzz: deps ## run each fuzz target for FUZZ_SECONDS (60)
	@$(MAKE) --no-print-directory MODE=fuzz -j2 fuzzers
	@tools/dev/fuzz.sh $(B)/fuzz $(FUZZ_SECONDS)
# The plug-in is looked for beside the program that loads it.
install: all ## install polluxd and the tools to PREFIX (/usr/local), below DESTDIR
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 $(POLLUXD) $(TOOL_BINS) $(DESTDIR)$(PREFIX)/bin/
	$(if $(CUDA_LIB),install -m 755 $(PLUGIN) $(DESTDIR)$(PREFIX)/bin/)
uninstall: ## remove what install put there
	rm -f $(foreach f,$(notdir $(POLLUXD) $(TOOL_BINS) $(PLUGIN)),$(DESTDIR)$(PREFIX)/bin/$(f))
.PHONY: install uninstall
lint: ## prove the house rules: includes go down only, vendor fences, format
	@tests/lint.sh
help: ## this list
	@grep -hE '^[a-z-]+:.*##' Makefile tools/client/client.mk | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12
clean: ## remove everything that was built
	rm -rf $(B)
.PHONY: deps run test bench fuzz lint help clean
FUZZ_SECONDS ?= 60

DEPS := $(shell find $(O) -name '*.d' 2>/dev/null)
-include $(DEPS)
