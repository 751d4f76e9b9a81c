/* The wire is built with ip(8): a test may spend milliseconds and needs no netlink code. */
#include "tests/lib/veth.h"

#include <sched.h>
#include <stdlib.h>

int plx_test_veth_up(void)
{
	if (unshare(CLONE_NEWNET) != 0)
		return -1;
	int rc = system("ip link set lo up && "
	                "ip link add plxc type veth peer name plxs && "
	                "echo 0 > /proc/sys/net/ipv6/conf/plxc/accept_dad && "
	                "ip link set plxc up && ip link set plxs up && "
	                "ip addr add 10.77.0.1/24 dev plxc && "
	                "ip -6 addr add fd77::1/64 dev plxc nodad");

	return rc == 0 ? 0 : -1;
}
