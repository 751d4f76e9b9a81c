/*
 * Decoder, stop strings and the tokens that wait for them.
 *
 * Offsets count bytes of the answer's text. The decoder has made n_pushed of them, the stop strings
 * released the first text_off + n_text, and tokens that went carried text_off.
 */
#include "dataplane/detok.h"

#include <string.h>

#include "fw/base/check.h"

static void add_stops(struct plx_detok *a, const struct plx_req_view *v)
{
	uint32_t off = 0;
	struct plx_req_tlv tlv;
	const uint8_t *value;

	while (plx_req_opt_next(v, &off, PLX_OPT_STOP, &tlv, &value) > 0)
		PLX_CHECK(plx_stop_add(&a->stop, value, tlv.bytes) == 0);
}

void plx_detok_init(struct plx_detok *a, const struct plx_tok *t, const struct plx_req *r)
{
	const struct plx_msg_req *m = &r->view.m;

	a->over = a->stopped = a->last_sent = a->told = false;
	a->plain = (m->flags & PLX_REQ_NO_TEXT) && r->view.n_stops == 0;
	a->n_top = m->flags & PLX_REQ_LOGPROBS ? m->n_logprobs : 0;
	a->n_sent = a->n_had = a->n_held = a->n_text = 0;
	a->text_off = a->n_pushed = a->busy_ns = 0;
	/* A chat's answer begins anew; other text goes on from the prompt. */
	plx_tok_stream_init(&a->stream, t, m->flags & PLX_REQ_MESSAGES ? 0u : PLX_TOK_KEEP_SPACE);
	plx_stop_init(&a->stop);
	add_stops(a, &r->view);
}

static uint64_t released(const struct plx_detok *a)
{
	return a->text_off + a->n_text;
}

/* After a hit: only text before it goes, and only tokens that have some or lie wholly before. */
static void cut_at_stop(struct plx_detok *a)
{
	uint64_t start = a->text_off, hit = a->stop.hit_off;
	uint32_t n = 0;

	for (; n < a->n_held; n++) {
		struct plx_detok_tok *k = &a->held[n];

		if (start >= hit && k->text_end > hit)
			break;
		start = k->text_end;
		if (k->text_end > hit)
			k->text_end = hit;
		k->safe_at = 0;
	}
	a->n_held = n;
	a->over = a->stopped = true;
}

/* Text from the decoder through the stop strings. */
static void feed(struct plx_detok *a, const char *in, uint32_t n)
{
	a->n_pushed += n;
	PLX_CHECK(a->n_text + n + a->stop.n_held <= sizeof(a->text));
	a->n_text += plx_stop_feed(&a->stop, in, n, a->text + a->n_text);
	if (a->stop.hit >= 0)
		cut_at_stop(a);
}

/* With a full table the id is left out; its text then goes with the token before. */
static void hold(struct plx_detok *a, int32_t id, float logprob, const struct plx_top *top,
                 uint64_t ns)
{
	if (a->n_held == PLX_DETOK_HOLD)
		return;
	struct plx_top *row = &a->top[a->n_held * a->n_top];

	if (a->n_top && top)
		memcpy(row, top, a->n_top * sizeof(*top));
	else if (a->n_top)
		memset(row, 0, a->n_top * sizeof(*row));
	a->held[a->n_held++] = (struct plx_detok_tok){.id = id, .logprob = logprob, .ns = ns};
}

void plx_detok_push(struct plx_detok *a, int32_t id, float logprob, const struct plx_top *top,
                    uint64_t ns)
{
	char text[PLX_EV_TEXT];

	if (a->over)
		return;
	hold(a, id, logprob, top, ns);
	if (a->plain)
		return;
	int n = plx_tok_stream_push(&a->stream, id, text, sizeof(text));

	PLX_CHECK(n >= 0); /* ids come from a device with this vocabulary; init checked the size */
	struct plx_detok_tok *k = &a->held[a->n_held - 1];

	k->text_end = a->n_pushed + (uint32_t)n;
	k->safe_at = k->text_end + (a->stream.n_held ? 1 : 0);
	feed(a, text, (uint32_t)n);
}

void plx_detok_end(struct plx_detok *a)
{
	char text[PLX_TOK_REPLACE_BYTES];

	if (a->over)
		return;
	if (!a->plain) {
		int n = plx_tok_stream_flush(&a->stream, text, sizeof(text));

		PLX_CHECK(n >= 0);
		if (n > 0 && a->n_held > 0)
			a->held[a->n_held - 1].text_end += (uint32_t)n;
		feed(a, text, (uint32_t)n);
		if (a->over)
			return;
		a->n_text += plx_stop_flush(&a->stop, a->text + a->n_text);
	}
	for (uint32_t i = 0; i < a->n_held; i++)
		a->held[i].safe_at = 0;
	a->over = true;
}

static uint32_t tokens_an_event(const struct plx_detok *a)
{
	uint32_t by_top = a->n_top ? (uint32_t)PLX_EV_TOPS / a->n_top : (uint32_t)PLX_EV_IDS;

	return by_top < PLX_EV_IDS ? by_top : PLX_EV_IDS;
}

uint32_t plx_detok_events(const struct plx_detok *a)
{
	/* Events closed by text: two neighbours hold more than PLX_EV_TEXT together. */
	uint32_t by_text = 2 * (PLX_DETOK_TEXT + PLX_EV_TEXT - 1) / PLX_EV_TEXT;

	return (a->n_held + 1) / tokens_an_event(a) + by_text + 2;
}

static bool may_go(const struct plx_detok *a, uint32_t i)
{
	return i < a->n_held && a->held[i].safe_at <= released(a);
}

/* Tokens at the front that may go and fit one event. */
static uint32_t ready(const struct plx_detok *a)
{
	uint32_t n = 0, most = tokens_an_event(a);

	while (n < most && may_go(a, n) && a->held[n].text_end - a->text_off <= PLX_EV_TEXT)
		n++;
	return n;
}

static void remove_front(struct plx_detok *a, uint32_t n, uint32_t text_bytes)
{
	a->n_held -= n;
	memmove(a->held, a->held + n, a->n_held * sizeof(a->held[0]));
	if (a->n_top)
		memmove(a->top, a->top + n * a->n_top, a->n_held * a->n_top * sizeof(*a->top));
	a->n_text -= text_bytes;
	memmove(a->text, a->text + text_bytes, a->n_text);
	a->text_off += text_bytes;
	a->n_sent += n;
}

/* What the client has already goes without an event. A stop string within it leaves some out. */
static void skip_had(struct plx_detok *a)
{
	while (a->n_sent < a->n_had && may_go(a, 0))
		remove_front(a, 1, (uint32_t)(a->held[0].text_end - a->text_off));
	if (a->over && a->n_held == 0 && a->n_sent < a->n_had)
		a->n_sent = a->n_had;
}

void plx_detok_had(struct plx_detok *a, int32_t id)
{
	a->n_had++;
	plx_detok_push(a, id, 0, NULL, 0);
	skip_had(a);
}

static void fill(const struct plx_detok *a, struct plx_ev *ev, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		ev->id[i] = a->held[i].id;
		ev->logprob[i] = a->held[i].logprob;
		ev->device_ns = a->held[i].ns;
	}
	for (uint32_t i = 0; i < n * a->n_top; i++)
		ev->top[i] = (struct plx_msg_top){(uint32_t)a->top[i].id, a->top[i].logprob};
	memcpy(ev->text, a->text, ev->text_bytes);
}

bool plx_detok_take(struct plx_detok *a, struct plx_ev *ev)
{
	skip_had(a);
	uint32_t n = ready(a);

	if (n == 0 && (!a->over || a->last_sent))
		return false;
	ev->n_ids = (uint16_t)n;
	ev->n_top = a->n_top;
	ev->first_idx = a->n_sent;
	ev->device_ns = 0;
	ev->text_bytes = n ? (uint16_t)(a->held[n - 1].text_end - a->text_off) : 0;
	fill(a, ev, n);
	remove_front(a, n, ev->text_bytes);
	ev->last = a->over && a->n_held == 0;
	a->last_sent = ev->last;
	return true;
}
