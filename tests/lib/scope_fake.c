/* Makes a shared file for tests of plx-scope. */
#include "tests/lib/scope_fake.h"

#include <stdio.h>
#include <string.h>

#include "fw/base/clock.h"
#include "fw/base/config.h"

#define US PLX_NS_PER_US
#define MS PLX_NS_PER_MS

static void name_page(struct plx_page *p, const char *name, uint32_t kind, uint32_t lcore)
{
	p->abi_version = PLX_PAGE_ABI;
	p->kind = kind;
	p->lcore = lcore;
	p->heartbeat = 1000;
	p->regime_ns[PLX_REGIME_BUSY] = 250 * MS;
	p->regime_ns[PLX_REGIME_IDLE] = 750 * MS;
	snprintf(p->name, sizeof(p->name), "%s", name);
}

int plx_fake_share(struct plx_share *s, const char *path)
{
	static const char *const name[] = {"io", "hs", "tok", "batch", "accel", "worker"};
	int err = plx_share_create(s, path, FAKE_PAGES, 1024, NULL);

	if (err != 0)
		return err;
	for (uint32_t i = 0; i < FAKE_PAGES; i++)
		name_page(&s->page[i], name[i], PLX_STAGE_IO + i, i == FAKE_WORKER);
	snprintf(s->head->board, sizeof(s->head->board), "fake");
	snprintf(s->head->model, sizeof(s->head->model), "a \"small\" model");
	struct plx_page *b = &s->page[FAKE_BATCH];

	plx_count(&s->page[FAKE_IO], PLX_M_REQ_OPENED, 4);
	plx_count(b, PLX_M_REQ_DONE, 3);
	plx_count(b, PLX_M_REQ_REJECTED, 1);
	plx_count(b, PLX_M_REJ_QUEUE_FULL, 1);
	plx_count(b, PLX_M_BATCH_DECODE, 104);
	plx_count(&s->page[FAKE_ACCEL], PLX_M_DEV_NS, 1500 * MS);
	plx_gauge_set(b, PLX_G_RUNNING, 2);
	plx_gauge_set(b, PLX_G_KV_BLOCKS, 512);
	plx_gauge_set(b, PLX_G_KV_FREE, 384);
	for (int i = 0; i < 3; i++)
		plx_hist_add(&b->hist[PLX_H_TTFT], 20 * MS);
	for (int i = 0; i < 100; i++)
		plx_hist_add(&b->hist[PLX_H_ITL], 8 * MS);
	plx_hist_add(&b->hist[PLX_H_ITL], 80 * MS);
	plx_share_state_set(s, PLX_SHARE_SERVING);
	return 0;
}

static void put(struct plx_share *s, uint32_t page, uint32_t session, uint64_t req_id,
                struct plx_trace_ev ev)
{
	ev.session = session;
	ev.req_id = req_id;
	plx_trace(&s->page[page], &ev);
}

static void token(struct plx_share *s, uint32_t session, uint64_t req_id, uint32_t index,
                  uint64_t start, uint64_t end)
{
	put(s, FAKE_ACCEL, 0, 0,
	    (struct plx_trace_ev){.ns = end + 10 * US,
	                          .kind = PLX_TR_STEP,
	                          .n = index == 0 ? 20 : 1,
	                          .index = 1,
	                          .a = start,
	                          .b = end,
	                          .c = start - 20 * US});
	put(s, FAKE_BATCH, session, req_id,
	    (struct plx_trace_ev){
		.ns = end + 50 * US, .kind = PLX_TR_TOKEN, .n = 1, .index = index, .a = end});
	put(s, FAKE_TOK, session, req_id,
	    (struct plx_trace_ev){
		.ns = end + 100 * US, .kind = PLX_TR_TEXT, .n = 1, .index = index, .a = end});
	put(s, FAKE_IO, session, req_id,
	    (struct plx_trace_ev){.ns = end + 150 * US,
	                          .kind = PLX_TR_TAKEN_TX,
	                          .n = 1,
	                          .index = index,
	                          .a = end,
	                          .b = end + 100 * US});
	put(s, FAKE_IO, session, req_id,
	    (struct plx_trace_ev){
		.ns = end + 200 * US, .kind = PLX_TR_SENT, .n = 1, .index = index + 1});
}

void plx_fake_request(struct plx_share *s, uint32_t session, uint64_t req_id, uint32_t n_tok,
                      uint64_t begin)
{
	uint64_t at = begin + 1100 * US;

	put(s, FAKE_IO, session, req_id,
	    (struct plx_trace_ev){.ns = begin, .kind = PLX_TR_REQ_WHOLE, .n = 100, .a = begin});
	put(s, FAKE_TOK, session, req_id,
	    (struct plx_trace_ev){
		.ns = begin + MS, .kind = PLX_TR_REQ_ENCODED, .n = 20, .a = begin + 100 * US});
	put(s, FAKE_BATCH, session, req_id,
	    (struct plx_trace_ev){.ns = begin + 1050 * US, .kind = PLX_TR_REQ_TAKEN, .n = 20});
	for (uint32_t i = 0; i < n_tok; i++) {
		uint64_t end = at + (i == 0 ? 10 * MS : 8 * MS);

		token(s, session, req_id, i, at, end);
		at = end;
	}
	put(s, FAKE_BATCH, session, req_id,
	    (struct plx_trace_ev){.ns = at + 300 * US, .kind = PLX_TR_REQ_END, .n = 1});
	put(s, FAKE_IO, session, req_id,
	    (struct plx_trace_ev){.ns = at + 400 * US, .kind = PLX_TR_REQ_GONE, .n = 1});
}
