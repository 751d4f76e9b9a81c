/* The appliance in this process, put together as fw/main.c does, and clients of it. */
#include "tests/lib/inproc.h"

#include <dlfcn.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <rte_ethdev.h>
#include <rte_launch.h>
#include <rte_lcore.h>
#include <sodium.h>

#include "fw/base/check.h"
#include "fw/base/clock.h"
#include "fw/base/log.h"
#include "fw/config.h"
#include "tests/lib/veth.h"

#define QUEUE_FRAMES 2048
#define MAX_ASKS     16
#define CONNECT_NS   (20 * PLX_NS_PER_S)
#define ASK_NS       (120 * PLX_NS_PER_S)

/* ---- opening ------------------------------------------------------------------------------- */

static int read_config(struct plx_inproc *p, const struct plx_inproc_conf *conf, struct plx_diag *d)
{
	struct plx_machine machine;

	plx_machine_probe(&machine);
	int err = plx_config_load(&p->cfg, conf->board, &machine, d);

	if (err != 0)
		return err;
	p->cfg.insecure = true;
	p->cfg.idle_backoff = conf->backoff;
	p->cfg.weights_cache = false;
	p->cfg.keys_path[0] = '\0';
	snprintf(p->cfg.file_prefix, sizeof(p->cfg.file_prefix), "plx-%d", (int)getpid());
	snprintf(p->cfg.model_path, sizeof(p->cfg.model_path), "%s", conf->model);
	if (!conf->memory) {
		p->cfg.port[0].kind = conf->kind;
		snprintf(p->cfg.port[0].iface, sizeof(p->cfg.port[0].iface), "plxs");
	}
	err = plx_keys_open(&p->keys, NULL, d);
	return err != 0 ? err : plx_assets_open(&p->assets, &p->cfg, d);
}

/* The ring driver is a plug-in of DPDK: its one function is found by name. */
typedef int (*from_rings)(const char *name, struct rte_ring *const rx[], unsigned int n_rx,
                          struct rte_ring *const tx[], unsigned int n_tx, unsigned int node);

static int open_memory_port(struct plx_inproc *p, struct plx_diag *d)
{
	static const uint8_t mac[6] = {2, 0xaa, 0xbb, 0xcc, 0xdd, 0xee};
	static const uint8_t ip[4] = {10, 77, 0, 1}, no_ip6[16];
	void *lib = dlopen("librte_net_ring.so.23", RTLD_NOW);
	from_rings make;

	p->to = rte_ring_create("inproc_to", QUEUE_FRAMES, 0, RING_F_SP_ENQ | RING_F_SC_DEQ);
	p->from = rte_ring_create("inproc_from", QUEUE_FRAMES, 0, RING_F_SP_ENQ | RING_F_SC_DEQ);
	p->pool =
	    rte_pktmbuf_pool_create("inproc", 2047, 0, 0, RTE_MBUF_DEFAULT_BUF_SIZE, SOCKET_ID_ANY);
	if (lib == NULL || p->to == NULL || p->from == NULL || p->pool == NULL)
		return plx_diag_set(d, PLX_E_NOMEM, "no ring driver, or no memory for rings");
	*(void **)&make = dlsym(lib, "rte_eth_from_rings");
	int id = make("inproc", &p->to, 1, &p->from, 1, 0);

	if (id < 0)
		return plx_diag_set(d, PLX_E_IO, "no port from rings");
	int err = plx_port_adopt(&p->app.port[0], &p->cfg, 0, (uint16_t)id, d);

	p->app.n_ports = err == 0;
	plx_net_if_init(&p->net, mac, ip, no_ip6, 40000);
	p->server = (struct plx_net_peer){.family = 4, .port = p->cfg.port[0].udp_port};
	memcpy(p->server.addr, p->cfg.port[0].ipv4, 4);
	memcpy(p->server.mac, p->app.port[0].net.mac, 6);
	return err;
}

static int compose(struct plx_inproc *p, struct plx_diag *d)
{
	p->app.cfg = &p->cfg;
	p->app.assets = &p->assets;
	p->app.keys = &p->keys;
	int err = p->memory ? open_memory_port(p, d) : plx_ports_open(&p->app, d);

	if (err == 0)
		err = plx_memory_open(&p->app, d);
	if (err == 0)
		err = plx_device_open(&p->app, d);
	return err != 0 ? err : plx_stages_open(&p->app, d);
}

static int launch(struct plx_inproc *p, bool watch)
{
	for (uint32_t i = 0; i < p->app.n_lcores; i++) {
		struct plx_lcore *lc = &p->app.lcore[i];

		if (watch && plx_lcore_add(lc, plx_watch_poll, &p->watch[i], &p->watch_page) != 0)
			return PLX_E_FULL;
		if (rte_eal_remote_launch(plx_lcore_run, lc, lc->cpu) != 0)
			return PLX_E_INVAL;
	}
	p->running = true;
	return 0;
}

int plx_inproc_open(struct plx_inproc *p, const struct plx_inproc_conf *conf)
{
	struct plx_diag d = {0};

	memset(p, 0, sizeof(*p));
	p->memory = conf->memory;
	p->wait = conf->wait;
	(void)setvbuf(stdout, NULL, _IOLBF, 0);
	plx_log_init("inproc", PLX_LOG_ERROR);
	if (!conf->memory && plx_test_veth_up() != 0) {
		printf("inproc: needs root, to make a network namespace\n");
		return PLX_E_IO;
	}
	int err = sodium_init() < 0 ? PLX_E_IO : read_config(p, conf, &d);

	if (err == 0)
		err = plx_eal_start(&p->cfg, &d);
	if (err == 0)
		err = compose(p, &d);
	if (err == 0)
		err = launch(p, conf->watch);
	if (err != 0)
		printf("inproc: %d %s\n", err, d.text);
	return err;
}

void plx_inproc_close(struct plx_inproc *p)
{
	atomic_store_explicit(&p->app.stop, true, memory_order_release);
	rte_eal_mp_wait_lcore();
	plx_appliance_close(&p->app);
	plx_eal_stop();
	plx_assets_close(&p->assets);
	plx_keys_close(&p->keys);
}

int plx_inproc_watch(struct plx_inproc *p, int what)
{
	int err = 0;

	/* The first lcore has the io stage: it is the last to begin and the first to end. */
	for (uint32_t k = 0; k < p->app.n_lcores; k++) {
		uint32_t i = what == PLX_WATCH_ON ? p->app.n_lcores - 1 - k : k;
		int e = plx_watch_set(&p->watch[i], what);

		err = err != 0 ? err : e;
	}
	return err;
}

/* ---- clients ------------------------------------------------------------------------------- */

static int ring_send(void *ctx, const uint8_t *pkt, size_t n_bytes)
{
	struct plx_inproc *p = ctx;
	struct rte_mbuf *m = rte_pktmbuf_alloc(p->pool);

	if (m == NULL)
		return PLX_E_AGAIN;
	uint8_t *f = rte_pktmbuf_mtod(m, uint8_t *);

	memcpy(f + plx_net_hdr_bytes(&p->server), pkt, n_bytes);
	m->data_len = (uint16_t)plx_net_output(&p->net, &p->server, f, (uint32_t)n_bytes);
	m->pkt_len = m->data_len;
	if (rte_ring_enqueue(p->to, m) == 0)
		return 0;
	rte_pktmbuf_free(m);
	return PLX_E_AGAIN;
}

static uint64_t ring_now(void *ctx)
{
	(void)ctx;
	return plx_clock_ns();
}

static void ring_random(void *ctx, void *out, size_t n_bytes)
{
	(void)ctx;
	randombytes_buf(out, n_bytes);
}

static void ring_receive(struct plx_inproc *p, struct plx_client *c)
{
	void *obj;

	while (rte_ring_dequeue(p->from, &obj) == 0) {
		struct rte_mbuf *m = obj;
		uint8_t *f = rte_pktmbuf_mtod(m, uint8_t *);
		struct plx_net_rx rx;

		if (plx_net_input(&p->net, f, m->data_len, 2048, false, &rx) == PLX_NET_UDP)
			plx_client_input(c, f + rx.payload_off, rx.payload_bytes, plx_clock_ns());
		rte_pktmbuf_free(m);
	}
}

void plx_inproc_process(struct plx_inproc *p, struct plx_client *c)
{
	if (p->memory) {
		ring_receive(p, c);
		(void)plx_client_tick(c, plx_clock_ns());
	} else if (p->wait) {
		(void)plx_client_wait(c, 1);
	} else {
		(void)plx_client_process(c, plx_clock_ns());
	}
}

/* Spin until an event comes; false after limit_ns. */
static bool next_event(struct plx_inproc *p, struct plx_client *c, struct plx_client_event *ev,
                       uint64_t end_ns)
{
	while (!plx_client_event(c, ev)) {
		if (plx_clock_ns() >= end_ns)
			return false;
		plx_inproc_process(p, c);
	}
	return true;
}

struct plx_client *plx_inproc_client(struct plx_inproc *p)
{
	struct plx_client_env env = {
	    .ctx = p, .send = ring_send, .now_ns = ring_now, .random = ring_random};
	struct plx_client_config cc;
	struct plx_client_event ev;
	struct plx_client *c = NULL;
	struct plx_diag d = {0};

	plx_client_config_init(&cc);
	cc.host = "10.77.0.2";
	cc.insecure = true;
	cc.connect_timeout_ms = CONNECT_NS / PLX_NS_PER_MS;
	int err = p->memory ? plx_client_make(&c, &cc, &env, &d) : plx_client_open(&c, &cc, &d);

	if (err != 0) {
		printf("inproc: client: %s\n", d.text);
		return NULL;
	}
	for (uint64_t end = plx_clock_ns() + CONNECT_NS; next_event(p, c, &ev, end);)
		if (ev.type == PLX_CLIENT_EV_MODELS)
			return c;
	printf("inproc: no session: %s\n", plx_client_why(c));
	plx_client_close(c);
	return NULL;
}

static int submit(struct plx_client *c, struct plx_inproc_ask *a, uint64_t *req)
{
	struct plx_client_message m = {PLX_CLIENT_USER, a->text, strlen(a->text)};
	struct plx_client_request r;
	struct plx_diag d = {0};

	plx_client_request_init(&r);
	r.max_new = a->max_new;
	r.temperature = a->temperature;
	r.ignore_eos = true;
	if (a->raw) {
		r.text = m.text;
		r.text_bytes = m.n_bytes;
	} else {
		r.messages = &m;
		r.n_messages = 1;
	}
	a->submit_ns = plx_clock_ns();
	int err = plx_client_submit(c, &r, req, &d);

	if (err != 0)
		printf("inproc: submit: %d %s\n", err, d.text);
	return err;
}

static void take_tokens(struct plx_inproc_ask *a, const struct plx_client_tokens *t,
                        uint64_t *last_ns, struct plx_inproc_gaps *gaps)
{
	uint64_t now = plx_clock_ns();
	size_t used = strlen(a->head), room = sizeof(a->head) - 1 - used;

	if (a->first_ns == 0)
		a->first_ns = now;
	else
		for (uint32_t i = 0; gaps != NULL && i < t->count; i++)
			if (gaps->n < PLX_INPROC_GAPS)
				gaps->us[gaps->n++] =
				    (uint32_t)((now - *last_ns) / PLX_NS_PER_US / t->count);
	*last_ns = now;
	a->n_tokens += t->count;
	memcpy(a->head + used, t->text, t->text_bytes < room ? t->text_bytes : room);
}

static void take_event(struct plx_inproc_ask *a, const struct plx_client_event *ev,
                       uint64_t *last_ns, struct plx_inproc_gaps *gaps)
{
	if (ev->type == PLX_CLIENT_EV_TOKENS)
		take_tokens(a, &ev->tokens, last_ns, gaps);
	if (!plx_client_event_final(ev))
		return;
	a->end_ns = plx_clock_ns();
	a->done = ev->type == PLX_CLIENT_EV_DONE;
	if (a->done) {
		a->prompt_tokens = ev->done.prompt_tokens;
		a->cached_tokens = ev->done.cached_tokens;
	}
	if (ev->type == PLX_CLIENT_EV_REJECT)
		printf("inproc: rejected: %d %s\n", ev->reject.err, ev->reject.detail);
}

uint32_t plx_inproc_asks(struct plx_inproc *p, struct plx_client *c, struct plx_inproc_ask *ask,
                         uint32_t n, struct plx_inproc_gaps *gaps)
{
	uint64_t req[MAX_ASKS] = {0}, last_ns[MAX_ASKS] = {0};
	uint64_t end = plx_clock_ns() + ASK_NS;
	uint32_t n_left = n, n_done = 0;
	struct plx_client_event ev;

	PLX_CHECK(n <= MAX_ASKS);
	for (uint32_t i = 0; i < n; i++)
		if (submit(c, &ask[i], &req[i]) != 0)
			return 0;
	while (n_left > 0 && next_event(p, c, &ev, end)) {
		for (uint32_t i = 0; i < n; i++)
			if (ev.req == req[i])
				take_event(&ask[i], &ev, &last_ns[i], gaps);
		if (plx_client_event_final(&ev))
			n_left--;
	}
	for (uint32_t i = 0; i < n; i++)
		n_done += ask[i].done;
	return n_done;
}

/* Until something comes for one of them, a millisecond at most; then each looks. */
static void process_all(struct plx_inproc *p, struct plx_client *const *c, uint32_t n)
{
	struct pollfd fd[MAX_ASKS];

	for (uint32_t i = 0; i < n; i++)
		fd[i] = (struct pollfd){.fd = plx_client_fd(c[i]), .events = POLLIN};
	if (p->wait)
		(void)poll(fd, n, 1);
	for (uint32_t i = 0; i < n; i++)
		(void)plx_client_process(c[i], plx_clock_ns());
}

uint32_t plx_inproc_asks_of(struct plx_inproc *p, struct plx_client *const *c,
                            struct plx_inproc_ask *ask, uint32_t n, struct plx_inproc_gaps *gaps)
{
	uint64_t req[MAX_ASKS] = {0}, last_ns[MAX_ASKS] = {0};
	uint64_t end = plx_clock_ns() + ASK_NS;
	uint32_t n_left = n, n_done = 0;
	struct plx_client_event ev;

	PLX_CHECK(n <= MAX_ASKS && !p->memory);
	for (uint32_t i = 0; i < n; i++)
		if (submit(c[i], &ask[i], &req[i]) != 0)
			return 0;
	while (n_left > 0 && plx_clock_ns() < end) {
		process_all(p, c, n);
		for (uint32_t i = 0; i < n; i++)
			while (plx_client_event(c[i], &ev)) {
				if (ev.req == req[i])
					take_event(&ask[i], &ev, &last_ns[i], gaps);
				n_left -= plx_client_event_final(&ev);
			}
	}
	for (uint32_t i = 0; i < n; i++)
		n_done += ask[i].done;
	return n_done;
}

uint64_t plx_inproc_ping(struct plx_inproc *p, struct plx_client *c)
{
	struct plx_client_event ev;
	uint64_t token, begin = plx_clock_ns();

	if (plx_client_ping(c, &token) != 0)
		return 0;
	while (next_event(p, c, &ev, begin + PLX_NS_PER_S))
		if (ev.type == PLX_CLIENT_EV_PONG && ev.pong.token == token)
			return plx_clock_ns() - begin;
	return 0;
}

static int by_value(const void *a, const void *b)
{
	const uint32_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

uint32_t plx_inproc_quantile(uint32_t *v, uint32_t n, double q)
{
	if (n == 0)
		return 0;
	qsort(v, n, sizeof(*v), by_value);
	return v[(uint32_t)(q * (n - 1))];
}
