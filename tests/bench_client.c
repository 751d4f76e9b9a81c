/*
 * The client library and the appliance in a box in one process, on a perfect network: what a token
 * packet and a request cost both ends together, crypto included.
 */
#include <stdio.h>
#include <string.h>

#include "tests/lib/client_rig.h"

#define SECOND UINT64_C(1000000000)

static bool all_final(struct plx_crig *r, void *arg)
{
	(void)arg;
	for (uint32_t i = 0; i < r->n_log; i++)
		if (!r->log[i].n_finals)
			return false;
	return true;
}

static struct plx_crig *open_rig(void)
{
	struct plx_client_config cc;
	struct plx_peer_cfg pc = {.insecure = true, .token_ns = 1000};
	static const struct plx_impair_cfg net = {.delay_us = 1};

	plx_client_config_init(&cc);
	cc.host = "box";
	cc.insecure = true;
	struct plx_crig *r = plx_crig_open(&cc, &pc, &net);

	plx_crig_run(r, SECOND / 100, NULL, NULL);
	return r;
}

static void bench(const char *what, uint32_t n_requests, uint32_t max_new, uint32_t per)
{
	struct plx_crig *r = open_rig();
	uint64_t t0 = plx_clock_ns();

	for (uint32_t i = 0; i < n_requests; i++) {
		plx_crig_submit(r, "hello", max_new, PLX_CLIENT_RESUBMIT_NEVER);
		if (i % 8 == 7)
			PLX_CHECK(plx_crig_run(r, 60 * SECOND, all_final, NULL));
	}
	PLX_CHECK(plx_crig_run(r, 60 * SECOND, all_final, NULL));
	printf("%-36s %10.2f us (both ends, one core)\n", what,
	       (double)(plx_clock_ns() - t0) / 1e3 / per);
	plx_crig_close(r);
}

int main(void)
{
	bench("client: a request of one token", 128, 1, 128);
	bench("client: a TOKENS packet of one token", 8, 4000, 8 * 4000);
	return 0;
}
