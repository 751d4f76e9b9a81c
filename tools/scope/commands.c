/* Runs top, list, why, record, replay and trace. */
#include "tools/scope/commands.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "fw/base/clock.h"
#include "fw/base/err.h"
#include "tools/scope/rec.h"
#include "tools/scope/view.h"
#include "tools/scope/watch.h"
#include "tools/scope/why.h"

#define TEXT_BYTES  ((size_t)4 << 20)
#define POLL_MS     20
#define TRACE_EVENT ((size_t)300) /* bytes of JSON an event, at most */

int plx_scope_path(const struct plx_scope_options *o, char path[PLX_SHARE_PATH_BYTES],
                   struct plx_diag *d)
{
	if (o->file == NULL)
		return plx_scope_find(path, d);
	if (strlen(o->file) >= PLX_SHARE_PATH_BYTES)
		return plx_diag_set(d, PLX_E_LIMIT, "--file %.60s...: the path is too long",
		                    o->file);
	memcpy(path, o->file, strlen(o->file) + 1);
	return PLX_E_OK;
}

/* A recording, or a copy of what a polluxd knows now. */
static int open_path(struct plx_rec *r, const char *path, struct plx_diag *d)
{
	struct plx_scope scope;

	if (plx_rec_is(path))
		return plx_rec_load(r, path, d);
	memset(r, 0, sizeof(*r));
	int err = plx_scope_open(&scope, path, d);

	if (err != 0)
		return err;
	err = plx_snap_open(&r->snap, &scope.head, true);
	if (err == 0)
		plx_snap_take(&r->snap, &scope);
	plx_scope_close(&scope);
	return err;
}

static int open_any(struct plx_rec *r, const struct plx_scope_options *o, struct plx_diag *d)
{
	char path[PLX_SHARE_PATH_BYTES];
	int err = plx_scope_path(o, path, d);

	return err != 0 ? err : open_path(r, path, d);
}

static void nap(double seconds)
{
	uint64_t end = plx_clock_ns() + (uint64_t)(seconds * 1e9);

	while (!plx_scope_stop && plx_clock_ns() < end)
		usleep(POLL_MS * 1000);
}

static int show(const char *text, bool cut)
{
	fputs(text, stdout);
	fflush(stdout);
	return cut ? PLX_E_LIMIT : PLX_E_OK;
}

static char *room(struct plx_text *t, size_t bytes)
{
	char *at = malloc(bytes);

	if (at != NULL)
		plx_text_init(t, at, bytes);
	return at;
}

/* ---- top ---- */

struct pictures {
	struct plx_scope scope;
	struct plx_snap snap[2];
	bool have[2];
	struct plx_watch *watch; /* NULL: the kernel is not looked at */
	struct plx_thief thief[4096];
};

static uint32_t take_thieves(struct pictures *p)
{
	uint32_t n = 0;

	if (p->watch != NULL)
		plx_watch_poll(p->watch, p->thief, sizeof(p->thief) / sizeof(p->thief[0]), &n);
	return n;
}

static int draw(struct pictures *p, uint32_t k, bool clear, struct plx_text *t)
{
	const struct plx_snap *before = p->have[k ^ 1] ? &p->snap[k ^ 1] : NULL;
	uint32_t n;

	plx_snap_take(&p->snap[k], &p->scope);
	p->have[k] = true;
	n = take_thieves(p);
	plx_text_init(t, t->at, t->room);
	if (clear)
		plx_text_add(t, "\033[H\033[J");
	plx_view_top(t, before, &p->snap[k], p->watch != NULL ? p->thief : NULL, n);
	if (p->watch != NULL)
		plx_watch_cost(p->watch, t);
	return show(t->at, t->cut);
}

static int top_live(struct pictures *p, const struct plx_scope_options *o, struct plx_text *t,
                    struct plx_diag *d)
{
	double every = o->seconds > 0 ? o->seconds : 1;
	int err = PLX_E_OK;

	for (uint32_t k = 0; err == 0 && !plx_scope_stop; k ^= 1) {
		err = draw(p, k, !o->once, t);
		if (err == 0 && o->once && o->seconds > 0 && !p->have[1]) {
			nap(every);
			continue;
		}
		if (o->once)
			break;
		nap(every);
		if (plx_scope_again(&p->scope, d) > 0)
			p->have[0] = p->have[1] = false;
	}
	return err;
}

int plx_scope_top(const struct plx_scope_options *o, struct plx_diag *d)
{
	static struct pictures p;
	char path[PLX_SHARE_PATH_BYTES];
	struct plx_text t = {0};
	char *at = room(&t, TEXT_BYTES);
	int err = at == NULL ? PLX_E_NOMEM : plx_scope_path(o, path, d);

	if (err == 0 && plx_rec_is(path)) {
		struct plx_rec r;

		err = plx_rec_load(&r, path, d);
		if (err == 0) {
			plx_view_top(&t, NULL, &r.snap, r.watched ? r.thief : NULL, r.n_thieves);
			err = show(t.at, t.cut);
			plx_rec_close(&r);
		}
		free(at);
		return err;
	}
	if (err == 0)
		err = plx_scope_open(&p.scope, path, d);
	for (int k = 0; k < 2 && err == 0; k++)
		err = plx_snap_open(&p.snap[k], &p.scope.head, false);
	if (err == 0) {
		p.watch = o->once ? NULL : plx_watch_open(&p.scope, stderr);
		err = top_live(&p, o, &t, d);
		plx_watch_close(p.watch);
	}
	plx_snap_close(&p.snap[0]);
	plx_snap_close(&p.snap[1]);
	plx_scope_close(&p.scope);
	free(at);
	return err;
}

/* ---- list and why ---- */

/* What list and why look at: one picture or recording, the tokens in it, room for the text. */
struct look {
	struct plx_rec r;
	struct plx_tokens tokens;
	struct plx_text t;
	char *at;
};

static int look_open(struct look *l, const struct plx_scope_options *o, struct plx_diag *d)
{
	*l = (struct look){0};
	l->at = room(&l->t, TEXT_BYTES);
	int err = l->at == NULL ? PLX_E_NOMEM : open_any(&l->r, o, d);

	return err == 0 ? plx_tokens_make(&l->tokens, &l->r.snap) : err;
}

static void look_close(struct look *l)
{
	plx_tokens_free(&l->tokens);
	plx_rec_close(&l->r);
	free(l->at);
}

int plx_scope_list(const struct plx_scope_options *o, struct plx_diag *d)
{
	struct look l;
	int err = look_open(&l, o, d);

	if (err == 0) {
		plx_view_list(&l.t, &l.r.snap, &l.tokens);
		err = show(l.t.at, l.t.cut);
	}
	look_close(&l);
	return err;
}

/* Which token is meant; NULL: none such. */
static const struct plx_token_times *pick(const struct plx_why_in *in,
                                          const struct plx_scope_options *o, struct plx_diag *d)
{
	uint32_t session = 0;
	uint64_t req_id = 0;
	const struct plx_token_times *t;

	if (plx_scope_request(o->arg[0], &session, &req_id, d) != 0)
		return NULL;
	t = o->n_args > 1 ? plx_tokens_token(in->tokens, session, req_id, 0,
	                                     (uint32_t)strtoul(o->arg[1], NULL, 10))
	                  : plx_why_latest(in, session, req_id);
	if (t == NULL)
		plx_diag_set(d, PLX_E_NOT_FOUND,
		             "nothing is known of %s%s%s; `plx-scope list` shows what is",
		             o->arg[0], o->n_args > 1 ? " token " : "",
		             o->n_args > 1 ? o->arg[1] : "");
	return t;
}

int plx_scope_why(const struct plx_scope_options *o, struct plx_diag *d)
{
	struct look l;
	int err = look_open(&l, o, d);

	if (err == 0) {
		struct plx_why_in in = {.snap = &l.r.snap,
		                        .tokens = &l.tokens,
		                        .thief = l.r.thief,
		                        .n_thieves = l.r.n_thieves,
		                        .watched = l.r.watched};
		const struct plx_token_times *token = pick(&in, o, d);
		struct plx_why w;

		err = token == NULL ? PLX_E_NOT_FOUND : PLX_E_OK;
		if (token != NULL) {
			plx_why_token(&w, &in, token);
			plx_why_print(&l.t, &w, &in, token);
			err = show(l.t.at, l.t.cut);
		}
	}
	look_close(&l);
	return err;
}

/* ---- record, replay, trace ---- */

static int record(struct plx_rec *r, const struct plx_scope *scope,
                  const struct plx_scope_options *o)
{
	struct plx_watch *w;
	static char cost[1024];
	struct plx_text t;

	plx_rec_begin(r, scope);
	w = plx_watch_open(scope, stderr);
	uint64_t end = plx_clock_ns() + (uint64_t)((o->seconds > 0 ? o->seconds : 10) * 1e9);

	r->watched = w != NULL;
	fputs(w != NULL ? "plx-scope: recording\n" : "plx-scope: recording, without the kernel\n",
	      stderr);
	while (!plx_scope_stop && plx_clock_ns() < end) {
		usleep(POLL_MS * 1000);
		plx_rec_poll(r, scope);
		if (w != NULL)
			plx_watch_poll(w, r->thief, PLX_REC_THIEVES, &r->n_thieves);
	}
	plx_rec_end(r, scope);
	plx_text_init(&t, cost, sizeof(cost));
	if (w != NULL)
		plx_watch_cost(w, &t);
	fputs(cost, stderr);
	plx_watch_close(w);
	return PLX_E_OK;
}

int plx_scope_record(const struct plx_scope_options *o, struct plx_diag *d)
{
	char path[PLX_SHARE_PATH_BYTES];
	struct plx_scope scope = {0};
	struct plx_rec r = {0};
	int err = plx_scope_path(o, path, d);

	if (o->out == NULL)
		return plx_diag_set(d, PLX_E_INVAL, "record: name the file with -o FILE");
	if (err == 0)
		err = plx_scope_open(&scope, path, d);
	if (err == 0)
		err = plx_rec_open(&r, &scope);
	if (err == 0)
		err = record(&r, &scope, o);
	if (err == 0)
		err = plx_rec_save(&r, o->out, d);
	if (err == 0)
		fprintf(stderr,
		        "plx-scope: %" PRIu32 " events, %" PRIu32 " of the kernel, %" PRIu64
		        " lost, in %s\n",
		        r.snap.n_evs, r.n_thieves, r.snap.n_lost, o->out);
	plx_rec_close(&r);
	plx_scope_close(&scope);
	return err;
}

int plx_scope_replay(const struct plx_scope_options *o, struct plx_diag *d)
{
	struct plx_rec r = {0};
	char line[256];
	int err = plx_rec_load(&r, o->arg[0], d);

	for (uint32_t i = 0; err == 0 && i < r.snap.n_evs; i++) {
		struct plx_text t;

		plx_text_init(&t, line, sizeof(line));
		plx_view_event(&t, &r.snap, &r.snap.ev[i], r.snap.ev[0].e.ns);
		fputs(line, stdout);
	}
	if (err == 0)
		plx_rec_close(&r);
	return err;
}

int plx_scope_trace(const struct plx_scope_options *o, struct plx_diag *d)
{
	struct plx_rec r = {0};
	struct plx_text t = {0};
	int err = o->n_args > 0 ? open_path(&r, o->arg[0], d) : open_any(&r, o, d);

	if (err != 0)
		return err;
	char *at = room(&t, 65536 + (2 * (size_t)r.snap.n_evs + r.n_thieves) * TRACE_EVENT);
	FILE *f = o->out != NULL ? fopen(o->out, "we") : stdout;

	err = at == NULL ? PLX_E_NOMEM : PLX_E_OK;
	if (err == 0 && f == NULL)
		err = plx_diag_set(d, PLX_E_IO, "-o %.200s can't be written", o->out);
	if (err == 0) {
		plx_view_trace(&t, &r.snap, r.thief, r.n_thieves);
		fputs(t.at, f);
		err = t.cut ? PLX_E_LIMIT : PLX_E_OK;
	}
	if (f != NULL && f != stdout && fclose(f) != 0)
		err = plx_diag_set(d, PLX_E_IO, "-o %.200s can't be written", o->out);
	plx_rec_close(&r);
	free(at);
	return err;
}
