/*
 * What of a sequence's KV is attended to, and rows of it that go: the tokens behind move down in
 * their blocks, byte by byte, and keep the positions that their K was rotated to. A layer with a
 * window goes on reading what stands in it by those positions (plx_fwd_window), and is looked at
 * no further back.
 */
#include "accel/forward_int.h"

#include <string.h>

#include "accel/cut.h"
#include "accel/forward_pick.h"
#include "fw/base/check.h"

#define EVERY     3u       /* of so many layers with a window, or without, one is looked at */
#define UNIT      65536.0f /* of a share of attention: sums of integers have no order */
#define ROW_COST  3.0      /* a float of a row that moves, in those of element-wise work */
#define LOAD_COST 8.0      /* a float of K that is read one by one, in those of a product */

/* ---- looking -------------------------------------------------------------------------------- */

void plx_fwd_observe(struct plx_fwd *f, uint32_t seq)
{
	struct plx_fwd_observe *o = &f->observe;
	const struct plx_fwd_seq *q = &f->seq[seq];
	uint32_t n = q->n_tok < PLX_OBSERVE_QUERIES ? q->n_tok : PLX_OBSERVE_QUERIES;

	*o = (struct plx_fwd_observe){
	    .seq = seq, .n_query = n, .first_tok = q->first_tok + q->n_tok - n};
	o->n_pos = f->pos[o->first_tok] + n;
	for (uint32_t l = 0; l < f->lim.n_threads; l++)
		memset(f->lane[l].seen, 0, o->n_pos * sizeof(*f->lane[l].seen));
}

/* Of both sorts, since what one never reads the other may live by. */
bool plx_fwd_observes(const struct plx_fwd *f)
{
	bool wide = f->m->layer[f->il].window == 0;
	uint32_t before = 0, all = 0;

	if (f->observe.n_query == 0)
		return false;
	for (uint32_t i = 0; i < f->m->n_layer; i++)
		if ((f->m->layer[i].window == 0) == wide) {
			before += i < f->il;
			all++;
		}
	return before % EVERY == EVERY - 1 || all < EVERY;
}

struct plx_cut plx_fwd_observe_cut(const struct plx_fwd *f)
{
	const struct plx_fwd_observe *o = &f->observe;
	uint32_t n_units = o->n_query * f->m->n_head_kv;
	double group = (double)f->m->n_head / f->m->n_head_kv;
	double macs = (double)n_units * o->n_pos * f->m->head_dim * (group + LOAD_COST);

	return plx_cut_op(macs / plx_fwd_rates_of(f)->floats, n_units);
}

/* Eight sums, so that they are added in a fixed order and several at a time. */
static float dot(const float *a, const float *b, uint32_t n)
{
	float s[8] = {0};

	for (uint32_t i = 0; i < n; i += 8)
		for (uint32_t j = 0; j < 8; j++)
			s[j] += a[i + j] * b[i + j];
	return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

/* e^x for x <= 0 within 1e-6: 2^k times a polynomial, the same bits on every machine. */
static float exp_below(float x)
{
	float y = x * 0x1.715476p+0f;

	if (!(y > -126.0f))
		return 0;
	int32_t k = (int32_t)(y - 0.5f);
	float r = (y - (float)k) * 0x1.62e43p-1f;
	float p =
	    1 +
	    r * (1 + r * (0.5f + r * (0x1.555556p-3f + r * (0x1.555556p-5f + r * 0x1.111112p-7f))));
	uint32_t bits = (uint32_t)(127 + k) << 23;
	float scale;

	memcpy(&scale, &bits, sizeof(scale));
	return p * scale;
}

/* Shares of one query over n scores, added to what the lane has seen. */
static void add_shares(uint32_t *seen, float *score, uint32_t n)
{
	float most = score[0], sum = 0;

	for (uint32_t p = 1; p < n; p++)
		most = score[p] > most ? score[p] : most;
	for (uint32_t p = 0; p < n; p++) {
		score[p] = exp_below(score[p] - most);
		sum += score[p];
	}
	for (uint32_t p = 0; p < n && sum > 0; p++)
		seen[p] += (uint32_t)(score[p] / sum * UNIT + 0.5f);
}

static void observe_unit(struct plx_fwd *f, uint32_t u, const struct plx_fwd_lane *s)
{
	const struct plx_model *m = f->m;
	uint32_t head = u % m->n_head_kv, t = f->observe.first_tok + u / m->n_head_kv;
	uint32_t group = m->n_head / m->n_head_kv, hd = m->head_dim, n = f->pos[t] + 1;
	struct plx_k_kv kv = plx_fwd_kv_view(f, f->seq[f->observe.seq].table, f->il, head);
	const float *q = f->qkv + (size_t)t * f->qkv_width + (size_t)head * group * hd;
	uint32_t window =
	    m->layer[f->il].window > 0 ? plx_fwd_window(f, &f->seq[f->observe.seq], f->pos[t]) : 0;
	uint32_t from = window > 0 && n > window ? n - window : 0;
	size_t stride = f->observe_stride;
	float k[PLX_K_HEAD_DIM_MAX];

	for (uint32_t p = from; p < n; p++) {
		f->k->k_load(&kv, p, k);
		for (uint32_t g = 0; g < group; g++)
			s->score[g * stride + p] = f->attn_scale * dot(q + (size_t)g * hd, k, hd);
	}
	for (uint32_t g = 0; g < group; g++)
		add_shares(s->seen + from, s->score + g * stride + from, n - from);
}

void plx_fwd_observe_units(struct plx_fwd *f, struct plx_range u, uint32_t lane)
{
	for (uint32_t i = u.begin; i < u.end; i++)
		observe_unit(f, i, &f->lane[lane]);
}

void plx_fwd_observed(const struct plx_fwd *f, float *out)
{
	for (uint32_t p = 0; p < f->observe.n_pos; p++) {
		uint64_t sum = 0;

		for (uint32_t l = 0; l < f->lim.n_threads; l++)
			sum += f->lane[l].seen[p];
		out[p] = (float)sum / UNIT;
	}
}

/* ---- going ---------------------------------------------------------------------------------- */

void plx_fwd_evict_add(struct plx_fwd *f, const uint32_t *table, const uint64_t *keep, uint32_t n)
{
	uint32_t bt = f->lim.block_tokens;

	f->evict.n_pos = n;
	f->evict.keep = keep;
	memcpy(f->evict.table, table, (n + bt - 1) / bt * sizeof(*table));
}

struct plx_cut plx_fwd_evict_cut(const struct plx_fwd *f)
{
	uint32_t n_units = f->m->n_layer * f->m->n_head_kv;
	double floats = 2.0 * n_units * f->evict.n_pos * f->m->head_dim;

	return plx_cut_op(ROW_COST * floats / plx_fwd_rates_of(f)->floats, n_units);
}

void plx_fwd_evict_units(const struct plx_fwd *f, struct plx_range u)
{
	const struct plx_fwd_evict *e = &f->evict;

	for (uint32_t i = u.begin; i < u.end; i++) {
		struct plx_k_kv kv =
		    plx_fwd_kv_view(f, e->table, i / f->m->n_head_kv, i % f->m->n_head_kv);
		uint32_t to = 0;

		for (uint32_t p = 0; p < e->n_pos; p++)
			if (e->keep[p / 64] >> (p % 64) & 1)
				plx_k_kv_move(&kv, to++, p);
		plx_fwd_pages_again(f, &kv, 0, to);
	}
}
