/*
 * A wire for tests: this process moves to a network namespace of its own, in which a veth pair
 * plxc - plxs stands. The kernel owns plxc (10.77.0.1/24, fd77::1/64); plxs has no address and is
 * for the port under test. The namespace goes away with the process.
 */
#ifndef PLX_TESTS_LIB_VETH_H
#define PLX_TESTS_LIB_VETH_H

/* plx_test_veth_up - 0, or negative where the host does not let us (no root). Call before EAL. */
int plx_test_veth_up(void);

#endif
