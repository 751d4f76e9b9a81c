
# The impairing UDP relay that the end-to-end tests put between client and appliance.
$(O)/relay: $(call obj,tests/relay/main.c) $(O)/libtestlib.a $(O)/libbase.a
	$(if $(V),,@echo "  LD   $@";) $(CC) $(MODELINK) -o $@ $^
tests: $(O)/relay

EXTRA_test_keyfile := tools/key/keyfile.c

# The io stage's rig is the one test library that needs DPDK.
$(O)/obj/tests/lib/iorig.o: EXTRA := $(CFLAGS_DPDK)
