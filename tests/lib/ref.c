/* The double-precision reference pass. */
#include "tests/lib/ref.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "fw/base/check.h"
#include "kernels/quant.h"
#include "tests/lib/par.h"
#include "tests/lib/refmul.h"

#define ROWS 32u /* rows of a matrix that one thread holds at once */

struct plx_ref {
	const struct plx_model *m;
	uint32_t n_ctx;      /* a multiple of 8 */
	uint32_t n;          /* tokens so far */
	uint32_t round;      /* enum plx_ref_round */
	const uint8_t *gone; /* [n] tokens that nobody attends to; NULL: none */
	double *k;           /* [n_layer][n_head_kv][n_ctx][head_dim] */
	double *v;           /* [n_layer][n_head_kv][head_dim][n_ctx] */
};

static double *doubles(size_t n)
{
	double *p = calloc(n, sizeof(double));

	PLX_CHECK(p != NULL);
	return p;
}

struct plx_ref *plx_ref_open(const struct plx_model *m, uint32_t n_ctx)
{
	struct plx_ref *r = calloc(1, sizeof(*r));

	PLX_CHECK(r != NULL && m->head_dim % 8 == 0);
	r->m = m;
	r->n_ctx = (n_ctx + 7) & ~7u;
	r->k = doubles((size_t)m->n_layer * r->n_ctx * m->n_head_kv * m->head_dim);
	r->v = doubles((size_t)m->n_layer * r->n_ctx * m->n_head_kv * m->head_dim);
	return r;
}

void plx_ref_close(struct plx_ref *r)
{
	free(r->k);
	free(r->v);
	free(r);
}

void plx_ref_gone(struct plx_ref *r, const uint8_t *gone)
{
	r->gone = gone;
}

void plx_ref_round(struct plx_ref *r, uint32_t flags)
{
	r->round = flags;
}

/* ---- matrices ------------------------------------------------------------------------------- */

/* What 8 bits leave of n activations; the formula is that of plx_kernels.quantise. */
static void round_a8(double *x, size_t n)
{
	for (size_t b = 0; b < n; b += 32) {
		double top = 0;

		for (size_t i = b; i < b + 32; i++)
			top = fmax(top, fabs(x[i]));
		for (size_t i = b; i < b + 32; i++)
			x[i] = top > 0 ? rint(x[i] * (127 / top)) * (top / 127) : 0;
	}
}

static void round_f16(double *x, size_t n)
{
	for (size_t i = 0; i < n; i++)
		x[i] = (double)plx_f16_to_f32(plx_f32_to_f16((float)x[i]));
}

static bool wants_a8(const struct plx_tensor *w)
{
	return w->type != PLX_Q_F32 && w->type != PLX_Q_F16 && w->type != PLX_Q_BF16;
}

/* Row row of a matrix, exact. */
static void row_read(const struct plx_tensor *w, uint32_t row, float *tmp, double *out)
{
	plx_q_dequant((enum plx_qtype)w->type, w->data + row * w->row_bytes, tmp, w->n_cols);
	for (uint32_t i = 0; i < w->n_cols; i++)
		out[i] = (double)tmp[i];
}

/* y[t][r] = sum over c of w[r][c] x[t][c], plus bias[r] */
struct product {
	const struct plx_tensor *w;
	const float *bias;
	const double *x;
	double *y;
	uint32_t n_tok;
};

/* Rows i * ROWS and on of a product. */
static void product_rows(void *arg, uint32_t i)
{
	const struct product *p = arg;
	const struct plx_tensor *w = p->w;
	uint32_t from = i * ROWS, n = w->n_rows - from < ROWS ? w->n_rows - from : ROWS;
	double *rows = doubles((size_t)n * w->n_cols);
	float *tmp = calloc(w->n_cols, sizeof(float));

	PLX_CHECK(tmp != NULL);
	for (uint32_t r = 0; r < n; r++)
		row_read(w, from + r, tmp, rows + (size_t)r * w->n_cols);
	plx_ref_mul(&(struct plx_ref_mul){.w = rows,
	                                  .x = p->x,
	                                  .y = p->y + from,
	                                  .w_stride = w->n_cols,
	                                  .x_stride = w->n_cols,
	                                  .y_stride = w->n_rows,
	                                  .n_row = n,
	                                  .n_x = p->n_tok,
	                                  .n = w->n_cols});
	for (uint32_t t = 0; p->bias != NULL && t < p->n_tok; t++)
		for (uint32_t r = 0; r < n; r++)
			p->y[(size_t)t * w->n_rows + from + r] += (double)p->bias[from + r];
	free(rows);
	free(tmp);
}

/* a8: the flag that rounds x, which is then rounded in place: it is never used unrounded. */
static void mul(const struct plx_ref *r, uint32_t a8, const struct plx_tensor *w, const float *bias,
                double *x, double *y, uint32_t n_tok)
{
	struct product p = {w, bias, x, y, n_tok};

	if ((r->round & a8) != 0 && wants_a8(w))
		round_a8(x, (size_t)n_tok * w->n_cols);
	plx_t_par((w->n_rows + ROWS - 1) / ROWS, product_rows, &p);
}

/* ---- a layer -------------------------------------------------------------------------------- */

static void rms(const double *x, const float *gain, double eps, double *y, uint32_t n)
{
	double ss = 0;

	for (uint32_t i = 0; i < n; i++)
		ss += x[i] * x[i];
	for (uint32_t i = 0; i < n; i++)
		y[i] = x[i] / sqrt(ss / n + eps) * (double)gain[i];
}

static void rms_all(const struct plx_ref *r, const double *x, const float *gain, double *y,
                    uint32_t n_tok)
{
	uint32_t n = r->m->n_embd;

	for (uint32_t t = 0; t < n_tok; t++)
		rms(x + (size_t)t * n, gain, (double)r->m->rms_eps, y + (size_t)t * n, n);
}

static void rotate(const struct plx_model *m, double *head, uint32_t pos)
{
	for (uint32_t i = 0; i < m->n_rot / 2; i++) {
		double f = m->rope_factors != NULL ? (double)m->rope_factors[i] : 1.0;
		double angle = pos * (double)m->rope_scale *
		               pow((double)m->rope_base, -2.0 * i / m->n_rot) / f;
		double *a = m->pairing == PLX_ROPE_ADJACENT ? &head[2 * i] : &head[i];
		double *b = m->pairing == PLX_ROPE_ADJACENT ? a + 1 : a + m->n_rot / 2;
		double c = cos(angle), s = sin(angle), a0 = *a;

		*a = a0 * c - *b * s;
		*b = *b * c + a0 * s;
	}
}

static void heads(const struct plx_model *m, double *x, uint32_t n_head, const float *norm,
                  uint32_t pos)
{
	for (uint32_t h = 0; h < n_head; h++) {
		double *head = x + (size_t)h * m->head_dim;

		if (norm != NULL)
			rms(head, norm, (double)m->rms_eps, head, m->head_dim);
		rotate(m, head, pos);
	}
}

/* The new tokens of one sequence in one layer. */
struct attn {
	const struct plx_ref *r;
	uint32_t window; /* 0: none */
	double *q;       /* [n_tok][n_head][head_dim] */
	const double *k; /* [n_head_kv][n_ctx][head_dim] */
	const double *v; /* [n_head_kv][head_dim][n_ctx] */
	double *o;       /* as q */
};

/* Those before from count nothing. */
static void softmax(double *s, uint32_t from, uint32_t n, double scale)
{
	double max = (double)-INFINITY, sum = 0;

	for (uint32_t j = from; j < n; j++) {
		s[j] *= scale;
		max = s[j] > max ? s[j] : max;
	}
	for (uint32_t j = 0; j < n; j++)
		sum += s[j] = j < from ? 0 : exp(s[j] - max);
	for (uint32_t j = 0; j < n; j++)
		s[j] /= sum;
}

/* All heads of new token t against positions 0 .. r->n + t. */
static void attend(void *arg, uint32_t t)
{
	const struct attn *a = arg;
	const struct plx_model *m = a->r->m;
	uint32_t n_group = m->n_head / m->n_head_kv, n_ctx = a->r->n_ctx, n = a->r->n + t + 1;
	double *p = doubles((size_t)n_group * n_ctx); /* zero from n on */

	for (uint32_t h = 0; h < m->n_head_kv; h++) {
		size_t at = ((size_t)t * m->n_head + (size_t)h * n_group) * m->head_dim;
		size_t kv = (size_t)h * n_ctx * m->head_dim;

		plx_ref_mul(&(struct plx_ref_mul){a->k + kv, a->q + at, p, m->head_dim, m->head_dim,
		                                  n_ctx, n, n_group, m->head_dim});
		for (uint32_t j = 0; a->r->gone && j < n_group * n; j++)
			if (j % n < a->r->n && a->r->gone[j % n])
				p[(size_t)(j / n) * n_ctx + j % n] = (double)-INFINITY;
		for (uint32_t g = 0; g < n_group; g++)
			softmax(p + (size_t)g * n_ctx,
			        a->window > 0 && n > a->window ? n - a->window : 0, n,
			        1 / sqrt(m->head_dim));
		plx_ref_mul(&(struct plx_ref_mul){a->v + kv, p, a->o + at, n_ctx, n_ctx,
		                                  m->head_dim, m->head_dim, n_group,
		                                  (n + 7) & ~7u});
	}
	free(p);
}

/* Puts the new tokens' k and v, [n_tok][n_head_kv][head_dim], where attend reads them. */
static void kv_keep(const struct plx_ref *r, double *k, double *v, double *k_all, double *v_all,
                    uint32_t n_tok)
{
	uint32_t n_head = r->m->n_head_kv, dim = r->m->head_dim;
	size_t n_kv = (size_t)n_head * dim;

	if ((r->round & PLX_REF_KV16) != 0) {
		round_f16(k, n_tok * n_kv);
		round_f16(v, n_tok * n_kv);
	}
	for (uint32_t t = 0; t < n_tok; t++)
		for (uint32_t h = 0; h < n_head; h++)
			for (uint32_t d = 0; d < dim; d++) {
				size_t from = t * n_kv + (size_t)h * dim + d, pos = r->n + t;

				k_all[((size_t)h * r->n_ctx + pos) * dim + d] = k[from];
				v_all[((size_t)h * dim + d) * r->n_ctx + pos] = v[from];
			}
}

static void attention(struct plx_ref *r, const struct plx_layer *l, uint32_t il, double *x,
                      double *h, uint32_t n_tok)
{
	const struct plx_model *m = r->m;
	size_t n_q = (size_t)m->n_head * m->head_dim, n_kv = (size_t)m->n_head_kv * m->head_dim;
	double *k_all = r->k + il * n_kv * r->n_ctx, *v_all = r->v + il * n_kv * r->n_ctx;
	double *q = doubles(n_tok * n_q), *o = doubles(n_tok * n_q);
	double *k = doubles(n_tok * n_kv), *v = doubles(n_tok * n_kv);
	double *y = doubles((size_t)n_tok * m->n_embd);

	mul(r, PLX_REF_A8_QKV, &l->wq, l->bq, h, q, n_tok);
	mul(r, PLX_REF_A8_QKV, &l->wk, l->bk, h, k, n_tok);
	mul(r, PLX_REF_A8_QKV, &l->wv, l->bv, h, v, n_tok);
	for (uint32_t t = 0; t < n_tok; t++) {
		heads(m, q + t * n_q, m->n_head, l->q_norm, r->n + t);
		heads(m, k + t * n_kv, m->n_head_kv, l->k_norm, r->n + t);
	}
	kv_keep(r, k, v, k_all, v_all, n_tok);
	plx_t_par(n_tok, attend, &(struct attn){r, l->window, q, k_all, v_all, o});
	mul(r, PLX_REF_A8_WO, &l->wo, NULL, o, y, n_tok);
	for (size_t i = 0; i < (size_t)n_tok * m->n_embd; i++)
		x[i] += y[i];
	free(q);
	free(o);
	free(k);
	free(v);
	free(y);
}

/* x += scale[t] * down(silu(gate h) * up h) for each token. */
static void feed_forward(const struct plx_ref *r, const struct plx_tensor mat[3], double *x,
                         double *h, const double *scale, uint32_t n_tok)
{
	size_t n = (size_t)n_tok * mat[0].n_rows, n_embd = r->m->n_embd;
	double *g = doubles(n), *u = doubles(n), *y = doubles(n_tok * n_embd);

	mul(r, PLX_REF_A8_GATE_UP, &mat[0], NULL, h, g, n_tok);
	mul(r, PLX_REF_A8_GATE_UP, &mat[1], NULL, h, u, n_tok);
	for (size_t i = 0; i < n; i++)
		g[i] = g[i] / (1 + exp(-g[i])) * u[i];
	mul(r, PLX_REF_A8_DOWN, &mat[2], NULL, g, y, n_tok);
	for (size_t i = 0; i < n_tok * n_embd; i++)
		x[i] += (scale ? scale[i / n_embd] : 1) * y[i];
	free(g);
	free(u);
	free(y);
}

/* ---- experts --------------------------------------------------------------------------------- */

/* One token's router output to its experts' weights: 0 for those it does not use. */
static void choose_experts(const struct plx_model *m, double *s)
{
	double most = s[0], all = 0, kept = 0, *w = doubles(m->n_expert);

	for (uint32_t e = 1; e < m->n_expert; e++)
		most = fmax(most, s[e]);
	for (uint32_t e = 0; e < m->n_expert; e++)
		all += s[e] = exp(s[e] - most);
	for (uint32_t i = 0; i < m->n_expert_used; i++) {
		uint32_t best = 0;

		for (uint32_t e = 1; e < m->n_expert; e++)
			if (s[e] > s[best])
				best = e;
		w[best] = s[best] / all;
		kept += w[best];
		s[best] = -1;
	}
	for (uint32_t e = 0; e < m->n_expert; e++)
		s[e] = m->expert_norm ? w[e] / kept : w[e];
	free(w);
}

/* Every expert on every token, times its weight, which mostly is 0. */
static void experts(const struct plx_ref *r, const struct plx_layer *l, double *x, double *h,
                    uint32_t n_tok)
{
	const struct plx_model *m = r->m;
	uint32_t n = m->n_expert;
	double *s = doubles((size_t)n_tok * n), *scale = doubles(n_tok);

	mul(r, 0, &l->router, NULL, h, s, n_tok);
	for (uint32_t t = 0; t < n_tok; t++)
		choose_experts(m, s + (size_t)t * n);
	for (uint32_t e = 0; e < n; e++) {
		struct plx_tensor mat[] = {plx_model_expert(m, l, PLX_EXPERT_GATE, e),
		                           plx_model_expert(m, l, PLX_EXPERT_UP, e),
		                           plx_model_expert(m, l, PLX_EXPERT_DOWN, e)};

		for (uint32_t t = 0; t < n_tok; t++)
			scale[t] = s[(size_t)t * n + e];
		feed_forward(r, mat, x, h, scale, n_tok);
	}
	for (uint32_t t = 0; l->shared_gate && t < n_tok; t++) {
		double dot = 0;

		for (uint32_t i = 0; i < m->n_embd; i++)
			dot += (double)l->shared_gate[i] * h[(size_t)t * m->n_embd + i];
		scale[t] = 1 / (1 + exp(-dot));
	}
	if (l->shared_gate)
		feed_forward(r, (struct plx_tensor[]){l->gate, l->up, l->down}, x, h, scale, n_tok);
	free(s);
	free(scale);
}

static void embed(const struct plx_ref *r, const int32_t *ids, double *x, uint32_t n)
{
	const struct plx_tensor *e = &r->m->tok_embd;
	float *tmp = calloc(e->n_cols, sizeof(float));

	PLX_CHECK(tmp != NULL);
	for (uint32_t t = 0; t < n; t++)
		row_read(e, (uint32_t)ids[t], tmp, x + (size_t)t * e->n_cols);
	free(tmp);
}

void plx_ref_run(struct plx_ref *r, const int32_t *ids, uint32_t n, uint32_t n_rows, double *logits)
{
	const struct plx_model *m = r->m;
	double *x = doubles((size_t)n * m->n_embd), *h = doubles((size_t)n * m->n_embd);

	PLX_CHECK(r->n + n <= r->n_ctx && n_rows <= n);
	embed(r, ids, x, n);
	for (uint32_t il = 0; il < m->n_layer; il++) {
		const struct plx_layer *l = &m->layer[il];

		rms_all(r, x, l->attn_norm, h, n);
		attention(r, l, il, x, h, n);
		rms_all(r, x, l->ffn_norm, h, n);
		if (m->n_expert > 0)
			experts(r, l, x, h, n);
		else
			feed_forward(r, (struct plx_tensor[]){l->gate, l->up, l->down}, x, h, NULL,
			             n);
	}
	rms_all(r, x, m->output_norm, h, n);
	mul(r, PLX_REF_A8_HEAD, &m->output, NULL, h + (size_t)(n - n_rows) * m->n_embd, logits,
	    n_rows);
	r->n += n;
	free(x);
	free(h);
}

uint32_t plx_ref_best(const double *x, uint32_t n)
{
	uint32_t best = 0;

	for (uint32_t i = 1; i < n; i++)
		if (x[i] > x[best])
			best = i;
	return best;
}

double plx_ref_margin(const double *x, uint32_t n)
{
	uint32_t best = plx_ref_best(x, n);
	double second = (double)-INFINITY;

	for (uint32_t i = 0; i < n; i++)
		if (i != best && x[i] > second)
			second = x[i];
	return x[best] - second;
}

double plx_ref_log_sum(const double *x, uint32_t n)
{
	double max = x[plx_ref_best(x, n)], sum = 0;

	for (uint32_t i = 0; i < n; i++)
		sum += exp(x[i] - max);
	return max + log(sum);
}
