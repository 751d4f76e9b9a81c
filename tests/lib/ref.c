/* The double-precision reference pass. */
#include "tests/lib/ref.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fw/base/check.h"
#include "kernels/quant.h"

struct plx_ref {
	const struct plx_model *m;
	uint32_t n_ctx;
	uint32_t n;  /* tokens so far */
	double *k;   /* [n_layer][n_ctx][n_head_kv * head_dim] */
	double *v;   /* the same */
	float *wrow; /* one row of a matrix, dequantised */
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
	size_t kv = (size_t)m->n_layer * n_ctx * m->n_head_kv * m->head_dim;
	size_t widest = m->n_ff > m->n_embd ? m->n_ff : m->n_embd;

	if (widest < (size_t)m->n_head * m->head_dim)
		widest = (size_t)m->n_head * m->head_dim;
	PLX_CHECK(r != NULL);
	r->m = m;
	r->n_ctx = n_ctx;
	r->k = doubles(kv);
	r->v = doubles(kv);
	r->wrow = calloc(widest, sizeof(float));
	PLX_CHECK(r->wrow != NULL);
	return r;
}

void plx_ref_close(struct plx_ref *r)
{
	free(r->k);
	free(r->v);
	free(r->wrow);
	free(r);
}

static double dot(const float *w, const double *x, uint32_t n)
{
	double s[8] = {0};

	for (uint32_t i = 0; i < n; i += 8)
		for (uint32_t j = 0; j < 8; j++)
			s[j] += (double)w[i + j] * x[i + j];
	return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}

/* y[t][r] = sum over c of w[r][c] x[t][c], plus bias[r] */
static void mul(const struct plx_ref *r, const struct plx_tensor *w, const float *bias,
                const double *x, double *y, uint32_t n_tok)
{
	for (uint32_t row = 0; row < w->n_rows; row++) {
		plx_q_dequant((enum plx_qtype)w->type, w->data + row * w->row_bytes, r->wrow,
		              w->n_cols);
		for (uint32_t t = 0; t < n_tok; t++) {
			double s = dot(r->wrow, x + (size_t)t * w->n_cols, w->n_cols);

			y[(size_t)t * w->n_rows + row] = s + (bias != NULL ? (double)bias[row] : 0);
		}
	}
}

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

/* One query head against positions 0..pos of one key head; stride from position to position. */
static void attend(const double *q, const double *k, const double *v, uint32_t pos, size_t stride,
                   uint32_t dim, double *p, double *out)
{
	double max = (double)-INFINITY, sum = 0;

	for (uint32_t j = 0; j <= pos; j++) {
		double s = 0;

		for (uint32_t d = 0; d < dim; d++)
			s += q[d] * k[j * stride + d];
		p[j] = s / sqrt(dim);
		max = p[j] > max ? p[j] : max;
	}
	for (uint32_t j = 0; j <= pos; j++)
		sum += p[j] = exp(p[j] - max);
	memset(out, 0, dim * sizeof(double));
	for (uint32_t j = 0; j <= pos; j++)
		for (uint32_t d = 0; d < dim; d++)
			out[d] += p[j] / sum * v[j * stride + d];
}

static void attention(struct plx_ref *r, const struct plx_layer *l, uint32_t il, double *x,
                      const double *h, uint32_t n_tok)
{
	const struct plx_model *m = r->m;
	size_t n_q = (size_t)m->n_head * m->head_dim, n_kv = (size_t)m->n_head_kv * m->head_dim;
	double *k = r->k + (size_t)il * r->n_ctx * n_kv, *v = r->v + (size_t)il * r->n_ctx * n_kv;
	double *q = doubles(n_tok * n_q), *o = doubles(n_tok * n_q), *p = doubles(r->n_ctx);
	double *y = doubles((size_t)n_tok * m->n_embd);

	mul(r, &l->wq, l->bq, h, q, n_tok);
	mul(r, &l->wk, l->bk, h, k + r->n * n_kv, n_tok);
	mul(r, &l->wv, l->bv, h, v + r->n * n_kv, n_tok);
	for (uint32_t t = 0; t < n_tok; t++) {
		heads(m, q + t * n_q, m->n_head, l->q_norm, r->n + t);
		heads(m, k + (r->n + t) * n_kv, m->n_head_kv, l->k_norm, r->n + t);
	}
	for (uint32_t t = 0; t < n_tok; t++)
		for (uint32_t i = 0; i < m->n_head; i++) {
			size_t off = (size_t)(i / (m->n_head / m->n_head_kv)) * m->head_dim;
			size_t at = t * n_q + (size_t)i * m->head_dim;

			attend(q + at, k + off, v + off, r->n + t, n_kv, m->head_dim, p, o + at);
		}
	mul(r, &l->wo, NULL, o, y, n_tok);
	for (size_t i = 0; i < (size_t)n_tok * m->n_embd; i++)
		x[i] += y[i];
	free(q);
	free(o);
	free(p);
	free(y);
}

static void feed_forward(const struct plx_ref *r, const struct plx_layer *l, double *x,
                         const double *h, uint32_t n_tok)
{
	size_t n = (size_t)n_tok * r->m->n_ff;
	double *g = doubles(n), *u = doubles(n), *y = doubles((size_t)n_tok * r->m->n_embd);

	mul(r, &l->gate, NULL, h, g, n_tok);
	mul(r, &l->up, NULL, h, u, n_tok);
	for (size_t i = 0; i < n; i++)
		g[i] = g[i] / (1 + exp(-g[i])) * u[i];
	mul(r, &l->down, NULL, g, y, n_tok);
	for (size_t i = 0; i < (size_t)n_tok * r->m->n_embd; i++)
		x[i] += y[i];
	free(g);
	free(u);
	free(y);
}

static void embed(const struct plx_ref *r, const int32_t *ids, double *x, uint32_t n)
{
	const struct plx_tensor *e = &r->m->tok_embd;

	for (uint32_t t = 0; t < n; t++) {
		plx_q_dequant((enum plx_qtype)e->type, e->data + (uint32_t)ids[t] * e->row_bytes,
		              r->wrow, e->n_cols);
		for (uint32_t i = 0; i < e->n_cols; i++)
			x[(size_t)t * e->n_cols + i] = (double)r->wrow[i];
	}
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
		feed_forward(r, l, x, h, n);
	}
	rms_all(r, x, m->output_norm, h, n);
	mul(r, &m->output, NULL, h + (size_t)(n - n_rows) * m->n_embd, logits, n_rows);
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
