
# The impairing UDP relay that the end-to-end tests put between client and appliance.
$(O)/relay: $(call obj,tests/relay/main.c) $(O)/libtestlib.a $(O)/libbase.a
	$(if $(V),,@echo "  LD   $@";) $(CC) $(MODELINK) -o $@ $^
tests: $(O)/relay

EXTRA_test_keyfile := tools/key/keyfile.c

# The test libraries that need DPDK.
$(O)/obj/tests/lib/iorig.o $(O)/obj/tests/lib/stagesrig.o: EXTRA := $(CFLAGS_DPDK)

# The protocol without a model, on a loopback socket.
$(O)/toy_appliance: $(call obj,tests/toy/main.c) $(O)/libtestlib.a $(O)/libclient.a $(O)/libwire.a $(O)/libbase.a
	$(if $(V),,@echo "  LD   $@";) $(CC) $(MODELINK) -o $@ $(call obj,tests/toy/main.c) \
	  -Wl,--start-group $(filter %.a,$^) -Wl,--end-group -lsodium -lIPSec_MB -lm
tests: $(O)/toy_appliance

# Many requests at once over the client library, each judged by its text.
$(O)/swarm: $(call obj,tests/swarm/main.c) $(O)/libclient.a $(O)/libwire.a $(O)/libbase.a
	$(if $(V),,@echo "  LD   $@";) $(CC) $(MODELINK) -o $@ $< \
	  -Wl,--start-group $(filter %.a,$^) -Wl,--end-group -lsodium -lIPSec_MB -lm
tests: $(O)/swarm

# The whole appliance inside a test, and the allocator's calls counted.
$(O)/obj/tests/lib/inproc.o: EXTRA := $(CFLAGS_DPDK)
EXTRA_bench_quiet := tests/alloc_hook.c
EXTRA_test_quiet := tests/alloc_hook.c

EXTRA_fuzz_keyfile := tools/key/keyfile.c

# systemd's notify socket, a thread that hangs, a ping: for tests/e2e_daemon.sh.
$(O)/overseer: $(call obj,tests/overseer/main.c)
	$(if $(V),,@echo "  LD   $@";) $(CC) $(MODELINK) -o $@ $^
tests: $(O)/overseer

EXTRA_test_ask := tools/ask/options.c tools/ask/keep.c

# Model files for benchmarks, and what a token of one reads: for tests/bench_cpu.sh.
$(O)/mkmodel: $(call obj,$(wildcard tests/mkmodel/*.c) tools/model/facts.c) $(O)/libtestlib.a $(O)/libgguf.a $(O)/libmodel.a $(O)/libkernels.a $(O)/libbase.a
	$(if $(V),,@echo "  LD   $@";) $(CC) $(MODELINK) -o $@ $(filter %.o,$^) \
	  -Wl,--start-group $(filter %.a,$^) -Wl,--end-group -lutf8proc -lxxhash -lm
benches tests: $(O)/mkmodel

# A disk that takes its time: for tests/e2e_experts.sh.
$(O)/slowdisk.so: tests/slowdisk/slowdisk.c
	$(if $(V),,@echo "  LD   $@";) $(CC) -std=gnu17 -O2 -Wall -Wextra -Werror -fPIC -shared -o $@ $<
tests: $(O)/slowdisk.so

# The simulated H100, its trace and the baselines.
EXTRA_bench_batcher := $(wildcard tests/sim/*.c)
EXTRA_bench_prefix := tests/sim/trace.c
EXTRA_test_sim := $(wildcard tests/sim/*.c)

# plx-model, all but its main.
MODEL_TOOL := $(filter-out tools/model/main.c,$(wildcard tools/model/*.c))
EXTRA_test_assets := $(MODEL_TOOL)
EXTRA_test_convert := $(MODEL_TOOL)
EXTRA_test_experts := $(MODEL_TOOL)
EXTRA_test_experts_store := $(MODEL_TOOL)
EXTRA_test_inspect := $(MODEL_TOOL)
EXTRA_test_model_tool := $(MODEL_TOOL)
EXTRA_test_progress := $(MODEL_TOOL)
EXTRA_test_st := tools/model/st.c
EXTRA_fuzz_st := tools/model/st.c
EXTRA_fuzz_hf := $(filter tools/model/hf_%,$(MODEL_TOOL))

# plx-scope without its main and its eBPF.
SCOPE_TOOL := $(filter-out %/main.c %/commands.c %/watch.c %.bpf.c,$(wildcard tools/scope/*.c))
EXTRA_test_share := tools/scope/attach.c
EXTRA_test_prom := $(SCOPE_TOOL)
EXTRA_test_http := tools/scope/http.c tools/scope/serve.c tools/scope/text.c
EXTRA_fuzz_http := tools/scope/http.c
EXTRA_test_why := $(SCOPE_TOOL)
EXTRA_fuzz_rec := $(SCOPE_TOOL)

# plx-tune, all but its main.
TUNE_TOOL := $(filter-out tools/tune/main.c,$(wildcard tools/tune/*.c))
EXTRA_test_tune := $(TUNE_TOOL) $(MODEL_TOOL)
EXTRA_test_tune_journal := $(TUNE_TOOL) $(MODEL_TOOL)
EXTRA_test_tune_search := $(addprefix tools/tune/,gp.c pareto.c search.c)
EXTRA_fuzz_journal := $(addprefix tools/tune/,journal.c knobs.c)

# What takes an lcore's time, one after another, to order: for tests/e2e_thieves.sh.
$(O)/thief: $(call obj,tests/thief/main.c)
	$(if $(V),,@echo "  LD   $@";) $(CC) $(MODELINK) -o $@ $^
tests: $(O)/thief
