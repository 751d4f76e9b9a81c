/*
 * The whole appliance in the process of a test or benchmark: fw/compose with the real model, on a
 * port made of two rings or on a veth of this process's own, its lcores' threads watched; and
 * clients of tools/client to talk to it.
 */
#ifndef PLX_TESTS_LIB_INPROC_H
#define PLX_TESTS_LIB_INPROC_H

#include "fw/compose.h"
#include "tests/lib/watch.h"
#include "tools/client/core.h"

struct plx_inproc_conf {
	const char *board; /* its board file */
	const char *model;
	bool memory;             /* a port of rings; else kind on the veth of tests/lib/veth.h */
	enum plx_port_kind kind; /* AUTO, AF_XDP, AF_PACKET */
	bool backoff;
	bool watch; /* a watch on each lcore */
	bool wait;  /* on a veth: the client sleeps until something comes, and does not spin */
};

struct plx_inproc {
	struct plx_config cfg;
	struct plx_assets assets;
	struct plx_keys keys;
	struct plx_appliance app;
	struct plx_watch watch[PLX_MAX_LCORES]; /* as app.lcore */
	struct plx_page watch_page;
	bool memory, wait;
	struct rte_ring *to, *from; /* memory: frames to and from the appliance */
	struct rte_mempool *pool;   /* memory: the client's buffers */
	struct plx_net_if net;      /* memory: the client's interface */
	struct plx_net_peer server;
	bool running;
};

/* plx_inproc_open - everything made and running; once in a process. Errors are printed. */
int plx_inproc_open(struct plx_inproc *p, const struct plx_inproc_conf *conf);
/* plx_inproc_close - lcores stopped, everything taken apart. */
void plx_inproc_close(struct plx_inproc *p);

/* plx_inproc_watch - every lcore's watch on or off; a negative errno where the kernel refused. */
int plx_inproc_watch(struct plx_inproc *p, int what);

/* plx_inproc_client - a client with an open session; NULL after 20 s without one (printed). */
struct plx_client *plx_inproc_client(struct plx_inproc *p);

/* plx_inproc_process - receive, tick, send; waits a millisecond at most, and only with wait. */
void plx_inproc_process(struct plx_inproc *p, struct plx_client *c);

/* A request and what came of it. */
struct plx_inproc_ask {
	const char *text; /* a user's message */
	uint32_t max_new;
	float temperature;
	bool raw; /* text as it is, no chat template */
	/* out */
	uint32_t n_tokens;
	uint32_t prompt_tokens,
	    cached_tokens; /* cached: of the prompt, found in the prefix cache */
	uint64_t submit_ns, first_ns, end_ns;
	bool done;      /* it ended in DONE */
	char head[512]; /* beginning of the answer */
};

#define PLX_INPROC_GAPS 4096

/* Times between two TOKENS of a sequence, for each token of the later one. */
struct plx_inproc_gaps {
	uint32_t n;
	uint32_t us[PLX_INPROC_GAPS];
};

/*
 * plx_inproc_asks - submit n requests (at most 16) and spin until all have ended. gaps may be NULL.
 * Returns how many ended in DONE.
 */
uint32_t plx_inproc_asks(struct plx_inproc *p, struct plx_client *c, struct plx_inproc_ask *ask,
                         uint32_t n, struct plx_inproc_gaps *gaps);

/* plx_inproc_asks_of - the same, request i by client i. They share a veth; none on rings. */
uint32_t plx_inproc_asks_of(struct plx_inproc *p, struct plx_client *const *c,
                            struct plx_inproc_ask *ask, uint32_t n, struct plx_inproc_gaps *gaps);

/* plx_inproc_ping - one round trip in ns; 0 when none came within a second. */
uint64_t plx_inproc_ping(struct plx_inproc *p, struct plx_client *c);

/* plx_inproc_quantile - of n values, which get sorted. */
uint32_t plx_inproc_quantile(uint32_t *v, uint32_t n, double q);

#endif
