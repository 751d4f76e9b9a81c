/* Any bytes as a recording: refused with a message, or everything that looks at one works. */
#include <stdlib.h>
#include <string.h>

#include "fw/base/check.h"
#include "tools/scope/rec.h"
#include "tools/scope/view.h"
#include "tools/scope/why.h"

static char body[1 << 20];

static void look(const struct plx_rec *r)
{
	struct plx_tokens tokens;
	struct plx_text t;

	if (plx_tokens_make(&tokens, &r->snap) != 0)
		return;
	struct plx_why_in in = {.snap = &r->snap,
	                        .tokens = &tokens,
	                        .thief = r->thief,
	                        .n_thieves = r->n_thieves,
	                        .watched = r->watched};

	plx_text_init(&t, body, sizeof(body));
	plx_view_top(&t, NULL, &r->snap, r->thief, r->n_thieves);
	plx_view_list(&t, &r->snap, &tokens);
	for (uint32_t i = 0; i < tokens.n_tok && i < 4; i++) {
		struct plx_why w;

		plx_why_token(&w, &in, &tokens.tok[i]);
		plx_why_print(&t, &w, &in, &tokens.tok[i]);
	}
	plx_text_init(&t, body, sizeof(body));
	plx_view_trace(&t, &r->snap, r->thief, r->n_thieves);
	PLX_CHECK(strlen(body) == t.used);
	plx_tokens_free(&tokens);
}

/*
 * The first byte says how many pages there are, the rest is events after a head that fits: so that
 * bytes reach what looks at them and are not all spent on the head. From 8 on: bytes as they are.
 */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	struct plx_rec r;
	struct plx_diag d = {0};

	if (bytes == 0)
		return 0;
	if (data[0] >= 8) {
		if (plx_rec_parse(&r, data, bytes, "rec", &d) == 0) {
			look(&r);
			plx_rec_close(&r);
		} else {
			PLX_CHECK(d.text[0] != '\0');
		}
		return 0;
	}
	size_t n = (bytes - 1) / sizeof(struct plx_scope_ev);
	struct plx_share_head h = {.n_pages = data[0] + 1u, .trace_events = 64};

	if (n > 64 || plx_snap_open(&r.snap, &h, true) != 0)
		return 0;
	r.snap.n_pages = h.n_pages;
	r.snap.n_evs = (uint32_t)n;
	memcpy(r.snap.ev, data + 1, n * sizeof(struct plx_scope_ev));
	for (size_t i = 0; i < n; i++)
		r.snap.ev[i].page %= h.n_pages;
	plx_snap_sort(&r.snap);
	r.thief = NULL;
	r.n_thieves = 0;
	r.watched = false;
	look(&r);
	plx_rec_close(&r);
	return 0;
}
