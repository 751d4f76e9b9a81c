/* The rig: packets go through the impairing network both ways, time jumps to the next event. */
#include "tests/lib/client_rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define START_NS UINT64_C(1000000000)

static int client_sends(void *ctx, const uint8_t *pkt, size_t n)
{
	struct plx_crig *r = ctx;

	if (!r->cut)
		plx_impair_put(r->net, PLX_IMPAIR_UP, 0, pkt, (uint32_t)n, r->now_ns);
	return 0;
}

static void peer_sends(void *ctx, const uint8_t *pkt, size_t n)
{
	struct plx_crig *r = ctx;

	if (!r->cut)
		plx_impair_put(r->net, PLX_IMPAIR_DOWN, 0, pkt, (uint32_t)n, r->now_ns);
}

static uint64_t now_of(void *ctx)
{
	return ((struct plx_crig *)ctx)->now_ns;
}

static void random_of(void *ctx, void *out, size_t n)
{
	struct plx_crig *r = ctx;

	for (size_t i = 0; i < n; i++) {
		r->rng = r->rng * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
		((uint8_t *)out)[i] = (uint8_t)(r->rng >> 33);
	}
}

struct plx_crig *plx_crig_open(const struct plx_client_config *cc, const struct plx_peer_cfg *pc,
                               const struct plx_impair_cfg *net)
{
	static const struct plx_impair_cfg perfect = {.delay_us = 100};
	struct plx_crig *r = calloc(1, sizeof(*r));
	struct plx_client_env env = {
	    .ctx = r, .send = client_sends, .now_ns = now_of, .random = random_of};
	struct plx_peer_cfg peer = *pc;

	PLX_CHECK(r);
	if (!net)
		net = &perfect;
	r->now_ns = START_NS;
	r->reading = true;
	r->rng = net->seed;
	r->client_addr = plx_wire_addr_v4((const uint8_t[]){10, 0, 0, 1}, 4000);
	r->net = plx_impair_new((struct plx_impair_cfg[]){*net, *net});
	peer.send = peer_sends;
	peer.ctx = r;
	r->peer = plx_peer_new(&peer, r->now_ns);
	PLX_CHECK(r->net && !plx_client_make(&r->client, cc, &env, NULL));
	return r;
}

void plx_crig_close(struct plx_crig *r)
{
	plx_client_free(r->client);
	plx_peer_free(r->peer);
	plx_impair_free(r->net);
	free(r);
}

struct plx_crig_log *plx_crig_log_of(struct plx_crig *r, uint64_t req)
{
	for (uint32_t i = 0; i < r->n_log; i++)
		if (r->log[i].req == req)
			return &r->log[i];
	PLX_CHECK(r->n_log < PLX_RIG_LOG);
	r->log[r->n_log].req = req;
	return &r->log[r->n_log++];
}

static void log_tokens(struct plx_crig_log *l, const struct plx_client_tokens *t)
{
	size_t have = strlen(l->text);

	l->n_tokens_events++;
	if (t->first_idx != l->n_ids[t->sample])
		l->bad_order = true;
	for (uint32_t i = 0; i < t->count; i++)
		if (t->ids[i] / 10 != 100u * t->sample + t->first_idx + i)
			l->bad_order = true;
	l->n_ids[t->sample] += t->count;
	if (t->sample == 0)
		snprintf(l->text + have, sizeof(l->text) - have, "%.*s", (int)t->text_bytes,
		         t->text);
}

static void log_request(struct plx_crig *r, const struct plx_client_event *ev)
{
	struct plx_crig_log *l = plx_crig_log_of(r, ev->req);

	if (ev->type == PLX_CLIENT_EV_ACCEPT) {
		l->n_accepts++;
	} else if (ev->type == PLX_CLIENT_EV_TOKENS) {
		log_tokens(l, &ev->tokens);
	} else if (ev->type == PLX_CLIENT_EV_RESTART) {
		l->n_restarts++;
		memset(l->n_ids, 0, sizeof(l->n_ids));
		l->text[0] = 0;
	} else if (plx_client_event_final(ev)) {
		l->n_finals++;
		l->final = *ev;
		if (ev->type == PLX_CLIENT_EV_FAILED)
			snprintf(l->why, sizeof(l->why), "%s", ev->failed.why);
		if (ev->type == PLX_CLIENT_EV_REJECT)
			snprintf(l->why, sizeof(l->why), "%s", ev->reject.detail);
	}
}

void plx_crig_take_events(struct plx_crig *r)
{
	struct plx_client_event ev;

	while (plx_client_event(r->client, &ev)) {
		if (ev.req) {
			log_request(r, &ev);
			continue;
		}
		r->n_open += ev.type == PLX_CLIENT_EV_OPEN;
		r->n_lost += ev.type == PLX_CLIENT_EV_LOST;
		r->n_closed += ev.type == PLX_CLIENT_EV_CLOSED;
		r->n_drain += ev.type == PLX_CLIENT_EV_DRAIN;
		r->n_pong += ev.type == PLX_CLIENT_EV_PONG;
		r->n_models += ev.type == PLX_CLIENT_EV_MODELS;
		if (ev.type == PLX_CLIENT_EV_PONG)
			r->last_rtt_ns = ev.pong.rtt_ns;
		if (ev.type == PLX_CLIENT_EV_LOST || ev.type == PLX_CLIENT_EV_CLOSED)
			snprintf(r->why, sizeof(r->why), "%s", ev.failed.why);
	}
}

static void deliver(struct plx_crig *r)
{
	struct plx_impair_packet *p = malloc(sizeof(*p));

	PLX_CHECK(p);
	while (plx_impair_get(r->net, r->now_ns, p)) {
		if (p->dir == PLX_IMPAIR_UP)
			plx_peer_input(r->peer, p->data, p->n_bytes, &r->client_addr, r->now_ns);
		else
			plx_client_input(r->client, p->data, p->n_bytes, r->now_ns);
	}
	free(p);
}

static uint64_t min64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

bool plx_crig_run(struct plx_crig *r, uint64_t ns, bool (*done)(struct plx_crig *, void *),
                  void *arg)
{
	uint64_t end = r->now_ns + ns;

	for (;;) {
		deliver(r);
		plx_client_tick(r->client, r->now_ns);
		plx_peer_tick(r->peer, r->now_ns);
		if (r->reading)
			plx_crig_take_events(r);
		if (done && done(r, arg))
			return true;
		uint64_t next =
		    min64(plx_impair_next_ns(r->net),
		          min64(plx_client_next_ns(r->client), plx_peer_next_ns(r->peer)));

		/* At least a microsecond: a deadline of "now" must not stop the clock. */
		next = next > r->now_ns + 1000 ? next : r->now_ns + 1000;
		if (next > end) {
			r->now_ns = end;
			return false;
		}
		r->now_ns = next;
	}
}

struct plx_crig_log *plx_crig_submit(struct plx_crig *r, const char *text, uint32_t max_new,
                                     enum plx_client_resubmit resubmit)
{
	struct plx_client_request q;
	uint64_t req;

	plx_client_request_init(&q);
	q.text = text;
	q.text_bytes = strlen(text);
	q.max_new = max_new;
	q.resubmit = resubmit;
	PLX_CHECK(!plx_client_submit(r->client, &q, &req, NULL));
	return plx_crig_log_of(r, req);
}

struct plx_client_config plx_crig_client_cfg(void)
{
	struct plx_client_config cc;

	plx_client_config_init(&cc);
	cc.host = "box";
	cc.key_id = 5;
	memset(cc.key, 3, sizeof(cc.key));
	return cc;
}

struct plx_peer_cfg plx_crig_peer_cfg(void)
{
	struct plx_peer_cfg pc = {.key_id = 5, .token_ns = 100000, .seed = 1};

	memset(pc.key, 3, sizeof(pc.key));
	return pc;
}

struct plx_crig *plx_crig_plain(void)
{
	struct plx_client_config cc = plx_crig_client_cfg();
	struct plx_peer_cfg pc = plx_crig_peer_cfg();

	return plx_crig_open(&cc, &pc, NULL);
}

bool plx_crig_all_final(struct plx_crig *r, void *arg)
{
	(void)arg;
	for (uint32_t i = 0; i < r->n_log; i++)
		if (!r->log[i].n_finals)
			return false;
	return true;
}

bool plx_crig_is_open(struct plx_crig *r, void *arg)
{
	(void)arg;
	return r->n_open > 0;
}

bool plx_crig_is_closed(struct plx_crig *r, void *arg)
{
	(void)arg;
	return r->n_closed > 0;
}

bool plx_crig_has_ids(struct plx_crig *r, void *arg)
{
	return r->log[0].n_ids[0] >= *(uint32_t *)arg;
}
