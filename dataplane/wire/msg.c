/*
 * Payloads: a fixed struct copied whole, then what trails it, each length checked before a read.
 */
#include "dataplane/wire/msg.h"

#include <string.h>

#include "dataplane/wire/req.h"
#include "fw/base/check.h"

static bool all_zero(const void *p, size_t n)
{
	const uint8_t *b = p;
	uint8_t any = 0;

	for (size_t i = 0; i < n; i++)
		any |= b[i];
	return any == 0;
}

/* ---- messages that are one fixed struct ----------------------------------------------------- */

/* Size of the fixed struct, and the range of it that must be zero. */
static size_t fixed_layout(uint8_t type, size_t *zero_off, size_t *zero_bytes)
{
	*zero_off = *zero_bytes = 0;
	switch (type) {
	case PLX_T_CANCEL:
		*zero_off = offsetof(struct plx_msg_cancel, zero);
		*zero_bytes = sizeof(((struct plx_msg_cancel *)0)->zero);
		return sizeof(struct plx_msg_cancel);
	case PLX_T_CLOSE:
		*zero_off = offsetof(struct plx_msg_close, zero);
		*zero_bytes = sizeof(uint32_t);
		return sizeof(struct plx_msg_close);
	case PLX_T_DRAIN:
		*zero_off = offsetof(struct plx_msg_drain, zero);
		*zero_bytes = sizeof(uint32_t);
		return sizeof(struct plx_msg_drain);
	case PLX_T_PING:
		return sizeof(struct plx_msg_ping);
	case PLX_T_PONG:
		return sizeof(struct plx_msg_pong);
	case PLX_T_CREDIT:
		return sizeof(struct plx_msg_credit);
	case PLX_T_ACCEPT:
		return sizeof(struct plx_msg_accept);
	case PLX_T_PATH_CHALLENGE:
	case PLX_T_PATH_RESPONSE:
		return sizeof(struct plx_msg_path);
	default:
		return 0;
	}
}

int plx_msg_put(uint8_t type, uint8_t *p, size_t cap, const void *m, size_t bytes)
{
	size_t zo, zn;

	PLX_DCHECK(fixed_layout(type, &zo, &zn) == bytes);
	(void)zo, (void)zn;
	if (cap < bytes)
		return PLX_E_LIMIT;
	memcpy(p, m, bytes);
	return (int)bytes;
}

int plx_msg_get(uint8_t type, void *m, size_t bytes, const uint8_t *p, size_t n_bytes)
{
	size_t zero_off, zero_bytes;
	size_t want = fixed_layout(type, &zero_off, &zero_bytes);

	PLX_DCHECK(want == bytes);
	if (n_bytes < want || (n_bytes > want && type != PLX_T_PING))
		return PLX_E_FORMAT;
	if (!all_zero(p + zero_off, zero_bytes))
		return PLX_E_FORMAT;
	memcpy(m, p, bytes);
	return 0;
}

/* ---- a head and a list of entries ----------------------------------------------------------- */

static int list_encode(uint8_t *p, size_t cap, const void *head, size_t head_bytes, const void *e,
                       size_t e_bytes)
{
	if (cap < head_bytes + e_bytes)
		return PLX_E_LIMIT;
	memcpy(p, head, head_bytes);
	if (e_bytes)
		memcpy(p + head_bytes, e, e_bytes);
	return (int)(head_bytes + e_bytes);
}

static int ack_head_decode(struct plx_msg_ack_head *h, const uint8_t *p, size_t n_bytes,
                           size_t entry_bytes)
{
	if (n_bytes < sizeof(*h))
		return PLX_E_FORMAT;
	memcpy(h, p, sizeof(*h));
	if (h->n_entries > PLX_ACK_MAX || h->zero ||
	    n_bytes != sizeof(*h) + h->n_entries * entry_bytes)
		return PLX_E_FORMAT;
	return 0;
}

int plx_msg_ack_encode(uint8_t *p, size_t cap, const struct plx_msg_ack_head *h,
                       const struct plx_msg_ack_entry *e)
{
	if (h->n_entries > PLX_ACK_MAX)
		return PLX_E_INVAL;
	return list_encode(p, cap, h, sizeof(*h), e, h->n_entries * sizeof(*e));
}

int plx_msg_ack_decode(struct plx_msg_ack_head *h, struct plx_msg_ack_entry *e, const uint8_t *p,
                       size_t n_bytes)
{
	int err = ack_head_decode(h, p, n_bytes, sizeof(*e));

	if (err)
		return err;
	if (h->n_entries)
		memcpy(e, p + sizeof(*h), h->n_entries * sizeof(*e));
	for (uint32_t i = 0; i < h->n_entries; i++)
		if (e[i].first_missing > UINT16_MAX || !all_zero(e[i].zero, sizeof(e[i].zero)))
			return PLX_E_FORMAT;
	return 0;
}

int plx_msg_tok_ack_encode(uint8_t *p, size_t cap, const struct plx_msg_ack_head *h,
                           const struct plx_msg_tok_ack_entry *e)
{
	if (h->n_entries > PLX_ACK_MAX)
		return PLX_E_INVAL;
	return list_encode(p, cap, h, sizeof(*h), e, h->n_entries * sizeof(*e));
}

int plx_msg_tok_ack_decode(struct plx_msg_ack_head *h, struct plx_msg_tok_ack_entry *e,
                           const uint8_t *p, size_t n_bytes)
{
	int err = ack_head_decode(h, p, n_bytes, sizeof(*e));

	if (err)
		return err;
	if (h->n_entries)
		memcpy(e, p + sizeof(*h), h->n_entries * sizeof(*e));
	for (uint32_t i = 0; i < h->n_entries; i++)
		if (e[i].flags & ~(PLX_TOK_ACK_RESEND | PLX_TOK_ACK_LAST) ||
		    e[i].sample >= PLX_SAMPLES_MAX)
			return PLX_E_FORMAT;
	return 0;
}

/* ---- REJECT --------------------------------------------------------------------------------- */

/* Text that may go to a terminal: UTF-8 without control characters. */
static bool printable(const uint8_t *s, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (s[i] < 0x20 || s[i] == 0x7f)
			return false;
	return plx_utf8_valid(s, n);
}

int plx_msg_reject_encode(uint8_t *p, size_t cap, const struct plx_msg_reject *m,
                          const char *detail)
{
	if (m->detail_bytes > PLX_DETAIL_MAX)
		return PLX_E_INVAL;
	return list_encode(p, cap, m, sizeof(*m), detail, m->detail_bytes);
}

int plx_msg_reject_decode(struct plx_msg_reject *m, const char **detail, const uint8_t *p,
                          size_t n_bytes)
{
	if (n_bytes < sizeof(*m))
		return PLX_E_FORMAT;
	memcpy(m, p, sizeof(*m));
	if (plx_err_from_wire(m->code) == PLX_E_FORMAT || m->zero ||
	    !all_zero(m->zero2, sizeof(m->zero2)))
		return PLX_E_FORMAT;
	if (m->detail_bytes > PLX_DETAIL_MAX || n_bytes != sizeof(*m) + m->detail_bytes ||
	    !printable(p + sizeof(*m), m->detail_bytes))
		return PLX_E_FORMAT;
	*detail = (const char *)p + sizeof(*m);
	return 0;
}

/* ---- TOKENS --------------------------------------------------------------------------------- */

size_t plx_msg_tokens_bytes(const struct plx_msg_tokens *m)
{
	size_t n = sizeof(*m) + 4u * (size_t)m->count + m->text_bytes;

	if (m->flags & PLX_TOKENS_LOGPROBS)
		n += m->count * (4u + (size_t)m->n_top * sizeof(struct plx_msg_top));
	return n;
}

static bool tokens_sane(const struct plx_msg_tokens *m)
{
	if (m->flags & ~(PLX_TOKENS_LOGPROBS | PLX_TOKENS_LAST) || m->zero)
		return false;
	if (m->n_top > PLX_LOGPROBS_MAX || m->sample >= PLX_SAMPLES_MAX)
		return false;
	if (!(m->flags & PLX_TOKENS_LOGPROBS) && m->n_top)
		return false;
	return m->first_idx <= UINT32_MAX - m->count;
}

static uint8_t *append(uint8_t *p, const void *src, size_t bytes)
{
	if (bytes)
		memcpy(p, src, bytes);
	return p + bytes;
}

int plx_msg_tokens_encode(uint8_t *p, size_t cap, const struct plx_msg_tokens *m,
                          const uint32_t *ids, const float *logprobs, const struct plx_msg_top *top,
                          const char *text)
{
	size_t n = plx_msg_tokens_bytes(m);

	if (!tokens_sane(m))
		return PLX_E_INVAL;
	if (n > cap || n > PLX_PAYLOAD_MAX)
		return PLX_E_LIMIT;
	p = append(p, m, sizeof(*m));
	p = append(p, ids, 4u * (size_t)m->count);
	if (m->flags & PLX_TOKENS_LOGPROBS) {
		p = append(p, logprobs, 4u * (size_t)m->count);
		p = append(p, top, (size_t)m->count * m->n_top * sizeof(*top));
	}
	append(p, text, m->text_bytes);
	return (int)n;
}

int plx_msg_tokens_decode(struct plx_msg_tokens_view *v, const uint8_t *p, size_t n_bytes)
{
	if (n_bytes < sizeof(v->m))
		return PLX_E_FORMAT;
	memcpy(&v->m, p, sizeof(v->m));
	if (!tokens_sane(&v->m) || n_bytes != plx_msg_tokens_bytes(&v->m))
		return PLX_E_FORMAT;
	p += sizeof(v->m);
	v->ids = p;
	p += 4u * (size_t)v->m.count;
	v->logprobs = v->top = NULL;
	if (v->m.flags & PLX_TOKENS_LOGPROBS) {
		v->logprobs = p;
		p += 4u * (size_t)v->m.count;
		v->top = p;
		p += (size_t)v->m.count * v->m.n_top * sizeof(struct plx_msg_top);
	}
	v->text = (const char *)p;
	return plx_utf8_valid(p, v->m.text_bytes) ? 0 : PLX_E_FORMAT;
}

/* ---- DONE and CANCELLED --------------------------------------------------------------------- */

/* Appends to what is there; n below 0 or too little room is what comes back. */
static int add_tail(uint8_t *p, size_t cap, int n, const void *what, size_t bytes)
{
	if (n < 0)
		return n;
	if (cap - (size_t)n < bytes)
		return PLX_E_LIMIT;
	if (bytes)
		memcpy(p + n, what, bytes);
	return n + (int)bytes;
}

int plx_msg_done_encode(uint8_t *p, size_t cap, const struct plx_msg_done *m,
                        const struct plx_msg_done_sample *s, const struct plx_msg_done_tail *t)
{
	if (m->n_samples > PLX_SAMPLES_MAX)
		return PLX_E_INVAL;
	int n = list_encode(p, cap, m, sizeof(*m), s, m->n_samples * sizeof(*s));

	if (m->flags & PLX_DONE_COMPRESSED)
		n = add_tail(p, cap, n, &t->compress, sizeof(t->compress));
	if (m->flags & PLX_DONE_BEST) {
		n = add_tail(p, cap, n, &t->best, sizeof(t->best));
		n = add_tail(p, cap, n, t->mean, m->n_samples * sizeof(t->mean[0]));
	}
	if (m->flags & PLX_DONE_SPARSE)
		n = add_tail(p, cap, n, &t->sparse, sizeof(t->sparse));
	return n;
}

static size_t done_tail_bytes(const struct plx_msg_done *m)
{
	size_t best = sizeof(struct plx_msg_done_best) + m->n_samples * sizeof(float);

	return (m->flags & PLX_DONE_COMPRESSED ? sizeof(struct plx_msg_done_compress) : 0) +
	       (m->flags & PLX_DONE_BEST ? best : 0) +
	       (m->flags & PLX_DONE_SPARSE ? sizeof(struct plx_msg_done_sparse) : 0);
}

static bool best_sane(const struct plx_msg_done *m, const struct plx_msg_done_tail *t)
{
	if (t->best.n_made < m->n_samples)
		return false;
	for (uint32_t i = 0; i < m->n_samples; i++)
		if (!(t->mean[i] >= -1e30f && t->mean[i] <= 1e30f))
			return false;
	return true;
}

static bool share_sane(float x)
{
	return x >= 0.0f && x <= 1.0f;
}

static int done_tail_decode(const struct plx_msg_done *m, struct plx_msg_done_tail *t,
                            const uint8_t *p)
{
	const struct plx_msg_done_compress *c = &t->compress;

	memset(t, 0, sizeof(*t));
	if (m->flags & PLX_DONE_COMPRESSED) {
		memcpy(&t->compress, p, sizeof(*c));
		p += sizeof(*c);
	}
	if (m->flags & PLX_DONE_BEST) {
		memcpy(&t->best, p, sizeof(t->best));
		memcpy(t->mean, p + sizeof(t->best), m->n_samples * sizeof(t->mean[0]));
		p += sizeof(t->best) + m->n_samples * sizeof(t->mean[0]);
	}
	if (m->flags & PLX_DONE_SPARSE)
		memcpy(&t->sparse, p, sizeof(t->sparse));
	if (!share_sane(t->sparse.mean) || !share_sane(t->sparse.least) ||
	    !share_sane(t->sparse.read) || t->sparse.zero)
		return PLX_E_FORMAT;
	/* Written so that a NaN fails. */
	if (!(c->loss >= 0.0f && c->loss <= 1.0f) || c->zero)
		return PLX_E_FORMAT;
	return !(m->flags & PLX_DONE_BEST) || best_sane(m, t) ? 0 : PLX_E_FORMAT;
}

int plx_msg_done_decode(struct plx_msg_done *m, struct plx_msg_done_sample *s,
                        struct plx_msg_done_tail *t, const uint8_t *p, size_t n_bytes)
{
	const uint16_t known =
	    PLX_DONE_KIND_CHANGED | PLX_DONE_COMPRESSED | PLX_DONE_BEST | PLX_DONE_SPARSE;

	if (n_bytes < sizeof(*m))
		return PLX_E_FORMAT;
	memcpy(m, p, sizeof(*m));
	size_t bytes = sizeof(*m) + m->n_samples * sizeof(*s);

	if (m->n_samples > PLX_SAMPLES_MAX || m->flags & ~known ||
	    n_bytes != bytes + done_tail_bytes(m))
		return PLX_E_FORMAT;
	if (m->n_samples)
		memcpy(s, p + sizeof(*m), m->n_samples * sizeof(*s));
	for (uint32_t i = 0; i < m->n_samples; i++)
		if (s[i].reason < PLX_FINISH_EOS || s[i].reason > PLX_FINISH_FAULT)
			return PLX_E_FORMAT;
	return done_tail_decode(m, t, p + bytes);
}

int plx_msg_cancelled_encode(uint8_t *p, size_t cap, const struct plx_msg_cancelled *m,
                             const uint32_t *n_tokens)
{
	if (m->n_samples > PLX_SAMPLES_MAX)
		return PLX_E_INVAL;
	return list_encode(p, cap, m, sizeof(*m), n_tokens, 4u * (size_t)m->n_samples);
}

int plx_msg_cancelled_decode(struct plx_msg_cancelled *m, uint32_t *n_tokens, const uint8_t *p,
                             size_t n_bytes)
{
	if (n_bytes < sizeof(*m))
		return PLX_E_FORMAT;
	memcpy(m, p, sizeof(*m));
	if (m->n_samples > PLX_SAMPLES_MAX || m->zero || m->cause < PLX_CANCEL_CLIENT ||
	    m->cause > PLX_CANCEL_REVOKED || n_bytes != sizeof(*m) + 4u * (size_t)m->n_samples)
		return PLX_E_FORMAT;
	if (m->n_samples)
		memcpy(n_tokens, p + sizeof(*m), 4u * (size_t)m->n_samples);
	return 0;
}

/* ---- MODELS --------------------------------------------------------------------------------- */

#define MODELS_HEAD 8u

static size_t pad4(size_t n)
{
	return (n + 3u) & ~(size_t)3u;
}

void plx_models_begin(struct plx_models_writer *w, uint8_t *p, size_t cap)
{
	*w = (struct plx_models_writer){.p = p, .cap = cap, .used = MODELS_HEAD};
	if (cap < MODELS_HEAD)
		w->err = PLX_E_LIMIT;
}

void plx_models_add(struct plx_models_writer *w, const struct plx_msg_model *m, const char *name)
{
	size_t n = sizeof(*m) + pad4(m->name_bytes);

	if (m->name_bytes > PLX_MODEL_NAME_MAX || w->n_models >= PLX_MODELS_MAX ||
	    n > w->cap - w->used)
		w->err = w->err ? w->err : PLX_E_LIMIT;
	if (w->err)
		return;
	memcpy(w->p + w->used, m, sizeof(*m));
	memset(w->p + w->used + sizeof(*m), 0, n - sizeof(*m));
	memcpy(w->p + w->used + sizeof(*m), name, m->name_bytes);
	w->used += n;
	w->n_models++;
}

int plx_models_end(struct plx_models_writer *w)
{
	if (w->err)
		return w->err;
	plx_put_u32(w->p, (uint32_t)w->used);
	plx_put_u32(w->p + 4, w->n_models);
	return (int)w->used;
}

/* Read one entry without trusting it; 0 or FORMAT. */
static int model_read(const uint8_t **p, const uint8_t *end, struct plx_msg_model *m,
                      const char **name)
{
	if ((size_t)(end - *p) < sizeof(*m))
		return PLX_E_FORMAT;
	memcpy(m, *p, sizeof(*m));
	*p += sizeof(*m);
	if (m->name_bytes > PLX_MODEL_NAME_MAX || pad4(m->name_bytes) > (size_t)(end - *p) ||
	    m->flags & ~(PLX_MODEL_CHAT | PLX_MODEL_EMBED) || !printable(*p, m->name_bytes))
		return PLX_E_FORMAT;
	*name = (const char *)*p;
	*p += pad4(m->name_bytes);
	return 0;
}

int plx_models_open(struct plx_models_reader *r, const uint8_t *p, size_t n_bytes)
{
	struct plx_msg_model m;
	const char *name;

	if (n_bytes < MODELS_HEAD || plx_get_u32(p) != n_bytes ||
	    plx_get_u32(p + 4) > PLX_MODELS_MAX)
		return PLX_E_FORMAT;
	*r = (struct plx_models_reader){
	    .p = p + MODELS_HEAD, .end = p + n_bytes, .n_models = (uint16_t)plx_get_u32(p + 4)};
	p = r->p;
	for (uint32_t i = 0; i < r->n_models; i++)
		if (model_read(&p, r->end, &m, &name))
			return PLX_E_FORMAT;
	return p == r->end ? 0 : PLX_E_FORMAT;
}

int plx_models_next(struct plx_models_reader *r, struct plx_msg_model *m, const char **name)
{
	if (r->n_read >= r->n_models || model_read(&r->p, r->end, m, name))
		return 0;
	r->n_read++;
	return 1;
}

/* ---- VECTORS -------------------------------------------------------------------------------- */

int plx_msg_vectors_encode(uint8_t *p, size_t cap, const struct plx_msg_vectors *m,
                           const float *values)
{
	uint64_t bytes = (uint64_t)m->n_vectors * m->dim * 4u;

	if (bytes > INT32_MAX - sizeof(*m) || bytes + sizeof(*m) != m->message_bytes)
		return PLX_E_INVAL;
	return list_encode(p, cap, m, sizeof(*m), values, (size_t)bytes);
}

int plx_msg_vectors_decode(struct plx_msg_vectors *m, const uint8_t **values, const uint8_t *p,
                           size_t n_bytes)
{
	if (n_bytes < sizeof(*m))
		return PLX_E_FORMAT;
	memcpy(m, p, sizeof(*m));
	if (m->zero || m->message_bytes != n_bytes ||
	    sizeof(*m) + (uint64_t)m->n_vectors * m->dim * 4u != n_bytes)
		return PLX_E_FORMAT;
	*values = p + sizeof(*m);
	return 0;
}
