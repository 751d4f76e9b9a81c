
# The impairing UDP relay that the end-to-end tests put between client and appliance.
$(O)/relay: $(call obj,tests/relay/main.c) $(O)/libtestlib.a $(O)/libbase.a
	$(if $(V),,@echo "  LD   $@";) $(CC) $(MODELINK) -o $@ $^
tests: $(O)/relay

EXTRA_test_keyfile := tools/key/keyfile.c

# The io stage's rig is the one test library that needs DPDK.
$(O)/obj/tests/lib/iorig.o: EXTRA := $(CFLAGS_DPDK)

# The protocol without a model, on a loopback socket.
$(O)/toy_appliance: $(call obj,tests/toy/main.c) $(O)/libtestlib.a $(O)/libclient.a $(O)/libwire.a $(O)/libbase.a
	$(if $(V),,@echo "  LD   $@";) $(CC) $(MODELINK) -o $@ $(call obj,tests/toy/main.c) \
	  -Wl,--start-group $(filter %.a,$^) -Wl,--end-group -lsodium -lIPSec_MB -lm
tests: $(O)/toy_appliance
