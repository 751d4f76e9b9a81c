/*
 * Reading REQ: one pass checks the block against the limits, then every option by its own rule;
 * after that the iterators only walk what is known to be right.
 */
#include "dataplane/wire/req.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const uint32_t known_flags = PLX_REQ_TEXT | PLX_REQ_IDS | PLX_REQ_MESSAGES | PLX_REQ_STREAM |
                                    PLX_REQ_DETERMINISTIC | PLX_REQ_LOGPROBS | PLX_REQ_COMPRESS |
                                    PLX_REQ_NO_TEXT | PLX_REQ_IGNORE_EOS | PLX_REQ_SPECIAL |
                                    PLX_REQ_NO_DRAFT;

static size_t pad4(size_t n)
{
	return (n + 3u) & ~(size_t)3u;
}

/* Length of the UTF-8 sequence that starts at s, or 0 where it is malformed. */
static size_t utf8_step(const uint8_t *s, size_t left)
{
	uint8_t a = s[0], lo = 0x80, hi = 0xbf;
	size_t n = a < 0x80 ? 1 : a < 0xc2 ? 0 : a < 0xe0 ? 2 : a < 0xf0 ? 3 : a < 0xf5 ? 4 : 0;

	if (n == 0 || n > left)
		return 0;
	if (a == 0xe0)
		lo = 0xa0; /* overlong */
	if (a == 0xed)
		hi = 0x9f; /* surrogates */
	if (a == 0xf0)
		lo = 0x90;
	if (a == 0xf4)
		hi = 0x8f; /* above U+10FFFF */
	if (n > 1 && (s[1] < lo || s[1] > hi))
		return 0;
	for (size_t i = 2; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	return n;
}

bool plx_utf8_valid(const uint8_t *s, size_t bytes)
{
	for (size_t i = 0; i < bytes;) {
		uint64_t word;

		if (bytes - i >= 8) { /* eight ASCII bytes at a time */
			memcpy(&word, s + i, 8);
			if (!(word & UINT64_C(0x8080808080808080))) {
				i += 8;
				continue;
			}
		}
		size_t n = utf8_step(s + i, bytes - i);

		if (n == 0)
			return false;
		i += n;
	}
	return true;
}

__attribute__((format(printf, 4, 5))) static int fault(struct plx_req_fault *f, int err,
                                                       uint16_t option, const char *fmt, ...)
{
	va_list ap;

	f->err = err;
	f->option = option;
	va_start(ap, fmt);
	vsnprintf(f->detail, sizeof(f->detail), fmt, ap);
	va_end(ap);
	return err;
}

#define BAD(...) fault(f, PLX_E_BAD_REQUEST, 0, __VA_ARGS__)

/* ---- the block ------------------------------------------------------------------------------ */

static int check_sampling(const struct plx_msg_req *m, struct plx_req_fault *f)
{
	/* Written so that a NaN fails every one. */
	if (!(m->temperature >= 0.0f && m->temperature <= 100.0f))
		return BAD("temperature is not within 0 to 100");
	if (!(m->top_p > 0.0f && m->top_p <= 1.0f))
		return BAD("top_p is not above 0 and at most 1");
	if (!(m->min_p >= 0.0f && m->min_p < 1.0f))
		return BAD("min_p is not at least 0 and below 1");
	if (!(m->repeat_penalty > 0.0f && m->repeat_penalty <= 100.0f))
		return BAD("repeat_penalty is not above 0 and at most 100");
	return 0;
}

static int check_flags(const struct plx_msg_req *m, struct plx_req_fault *f)
{
	uint32_t form = m->flags & (PLX_REQ_TEXT | PLX_REQ_IDS | PLX_REQ_MESSAGES);

	if (m->kind != PLX_REQ_GENERATE && m->kind != PLX_REQ_EMBED)
		return BAD("kind %u is not known", m->kind);
	if (m->flags & ~known_flags)
		return BAD("flags 0x%x are not known", m->flags & ~known_flags);
	if (form != PLX_REQ_TEXT && form != PLX_REQ_IDS && form != PLX_REQ_MESSAGES)
		return BAD("the prompt must be exactly one of text, ids, messages");
	if ((m->flags & PLX_REQ_SPECIAL) && form != PLX_REQ_TEXT)
		return BAD("the special flag goes with text only");
	if (m->n_logprobs && !(m->flags & PLX_REQ_LOGPROBS))
		return BAD("n_logprobs without the logprobs flag");
	if (m->zero)
		return BAD("a reserved field is not zero");
	return 0;
}

static int check_prompt(const struct plx_msg_req *m, size_t n_bytes, struct plx_req_fault *f)
{
	uint64_t sum = (uint64_t)PLX_REQ_BLOCK_BYTES + m->options_bytes + m->prompt_bytes;

	if (m->message_bytes != n_bytes || sum != n_bytes)
		return BAD("lengths do not add up to the message");
	if (m->options_bytes % 4)
		return BAD("options are not padded to 4 bytes");
	if (m->flags & PLX_REQ_IDS) {
		if (m->prompt_bytes != 4ull * m->prompt_tokens)
			return BAD("prompt_bytes is not 4 times prompt_tokens");
	} else if (m->prompt_tokens) {
		return BAD("prompt_tokens without token ids");
	}
	if ((m->flags & PLX_REQ_MESSAGES) && m->prompt_bytes != 0)
		return BAD("messages and a prompt");
	return 0;
}

static int check_limits(const struct plx_msg_req *m, const struct plx_wire_limits *lim,
                        struct plx_req_fault *f)
{
	if (m->message_bytes > lim->max_request_bytes)
		return fault(f, PLX_E_TOO_LARGE, 0, "more than %u bytes", lim->max_request_bytes);
	if (m->prompt_tokens > lim->max_prompt_tokens)
		return fault(f, PLX_E_TOO_LARGE, 0, "more than %u prompt tokens",
		             lim->max_prompt_tokens);
	if (m->n_samples == 0 || m->n_samples > lim->max_samples || m->n_samples > PLX_SAMPLES_MAX)
		return BAD("n_samples is not within 1 to %u", lim->max_samples);
	if (m->kind == PLX_REQ_GENERATE && (m->max_new == 0 || m->max_new > lim->max_new))
		return BAD("max_new is not within 1 to %u", lim->max_new);
	if (m->n_logprobs > lim->max_logprobs)
		return BAD("n_logprobs is over %u", lim->max_logprobs);
	return 0;
}

static uint32_t needed_features(const struct plx_msg_req *m)
{
	uint32_t need = m->kind == PLX_REQ_EMBED ? PLX_FEAT_EMBED : PLX_FEAT_GENERATE;

	need |= m->flags & PLX_REQ_TEXT ? PLX_FEAT_TEXT : 0;
	need |= m->flags & PLX_REQ_IDS ? PLX_FEAT_IDS : 0;
	need |= m->flags & PLX_REQ_MESSAGES ? PLX_FEAT_MESSAGES : 0;
	need |= m->flags & PLX_REQ_DETERMINISTIC ? PLX_FEAT_DETERMINISTIC : 0;
	need |= m->flags & PLX_REQ_LOGPROBS ? PLX_FEAT_LOGPROBS : 0;
	need |= m->flags & PLX_REQ_STREAM ? 0 : PLX_FEAT_NO_STREAM;
	need |= m->n_samples > 1 ? PLX_FEAT_SAMPLES : 0;
	need |= m->adapter_id ? PLX_FEAT_ADAPTER : 0;
	/* Compression is a permission, not a wish: without the feature nothing is compressed. */
	return m->kind == PLX_REQ_EMBED ? need & ~(uint32_t)PLX_FEAT_NO_STREAM : need;
}

/* ---- options -------------------------------------------------------------------------------- */

/* What the checks of all options have in common. */
struct opt_walk {
	struct plx_req_view *v;
	const struct plx_wire_limits *lim;
	struct plx_req_fault *f;
	uint32_t have;    /* features */
	uint64_t resumed; /* bit a sample */
	bool messages, unique[PLX_OPT_LAST + 1];
};

static int opt_fault(struct opt_walk *w, uint16_t type, const char *why)
{
	return fault(w->f, PLX_E_BAD_REQUEST, type, "option %u: %s", type, why);
}

static int check_stop(struct opt_walk *w, const uint8_t *p, uint32_t n)
{
	if (++w->v->n_stops > w->lim->max_stops)
		return opt_fault(w, PLX_OPT_STOP, "too many stop strings");
	if (n == 0 || n > w->lim->max_stop_bytes)
		return opt_fault(w, PLX_OPT_STOP, "empty or too long");
	return plx_utf8_valid(p, n) ? 0 : opt_fault(w, PLX_OPT_STOP, "not UTF-8");
}

static int check_messages(struct opt_walk *w, const uint8_t *p, uint32_t n)
{
	struct plx_req_message m;
	const uint8_t *end = p + n;

	if (!(w->v->m.flags & PLX_REQ_MESSAGES))
		return opt_fault(w, PLX_OPT_MESSAGES, "without the messages flag");
	if (n < 4 || plx_get_u32(p) == 0 || plx_get_u32(p) > PLX_MESSAGES_MAX)
		return opt_fault(w, PLX_OPT_MESSAGES, "no messages, or too many");
	w->v->n_messages = plx_get_u32(p);
	p += 4;
	for (uint32_t i = 0; i < w->v->n_messages; i++) {
		if ((size_t)(end - p) < sizeof(m))
			return opt_fault(w, PLX_OPT_MESSAGES, "cut short");
		memcpy(&m, p, sizeof(m));
		p += sizeof(m);
		if (m.role > PLX_ROLE_TOOL || m.zero[0] || m.zero[1] || m.zero[2])
			return opt_fault(w, PLX_OPT_MESSAGES, "unknown role");
		if (pad4(m.bytes) > (size_t)(end - p))
			return opt_fault(w, PLX_OPT_MESSAGES, "cut short");
		if (!plx_utf8_valid(p, m.bytes))
			return opt_fault(w, PLX_OPT_MESSAGES, "not UTF-8");
		p += pad4(m.bytes);
	}
	return p == end ? 0 : opt_fault(w, PLX_OPT_MESSAGES, "trailing bytes");
}

static int check_resume(struct opt_walk *w, const uint8_t *p, uint32_t n)
{
	if (n < 8)
		return opt_fault(w, PLX_OPT_RESUME, "cut short");
	uint32_t sample = plx_get_u32(p), count = plx_get_u32(p + 4);

	if (sample >= w->v->m.n_samples || (w->resumed >> sample) & 1)
		return opt_fault(w, PLX_OPT_RESUME, "no such sample, or given twice");
	if (n - 8 != 4ull * count || count >= w->v->m.max_new)
		return opt_fault(w, PLX_OPT_RESUME, "count is wrong or not below max_new");
	w->resumed |= UINT64_C(1) << sample;
	w->v->n_resumed++;
	return 0;
}

static uint64_t req_id_of(const uint8_t *p)
{
	return plx_get_u32(p) | (uint64_t)plx_get_u32(p + 4) << 32;
}

static int check_continue(struct opt_walk *w, const uint8_t *p, uint32_t n)
{
	if (n != 12 || req_id_of(p) == 0)
		return opt_fault(w, PLX_OPT_CONTINUE, "length, or no request");
	if (plx_get_u32(p + 8) >= PLX_SAMPLES_MAX)
		return opt_fault(w, PLX_OPT_CONTINUE, "no such sample");
	w->v->continued = req_id_of(p);
	w->v->continued_sample = plx_get_u32(p + 8);
	return 0;
}

static int check_bias(struct opt_walk *w, const uint8_t *p, uint32_t n)
{
	if (n == 0 || n % 8 || n / 8 > PLX_LOGIT_BIAS_MAX)
		return opt_fault(w, PLX_OPT_LOGIT_BIAS, "length");
	for (uint32_t i = 0; i < n; i += 8)
		if (!(fabsf(plx_get_f32(p + i + 4)) <= 100.0f))
			return opt_fault(w, PLX_OPT_LOGIT_BIAS, "not within -100 to 100");
	return 0;
}

static int check_grammar(struct opt_walk *w, const uint8_t *p, uint32_t n)
{
	if (n < 5 || plx_get_u32(p) < 1 || plx_get_u32(p) > 2)
		return opt_fault(w, PLX_OPT_GRAMMAR, "empty, or unknown syntax");
	return plx_utf8_valid(p + 4, n - 4) ? 0 : opt_fault(w, PLX_OPT_GRAMMAR, "not UTF-8");
}

static int check_image(struct opt_walk *w, const uint8_t *p, uint32_t n)
{
	if (n < 16 || plx_get_u32(p) != 1)
		return opt_fault(w, PLX_OPT_IMAGE, "cut short, or unknown format");
	uint32_t width = plx_get_u32(p + 4), height = plx_get_u32(p + 8);

	if (width == 0 || height == 0 || width > 16384 || height > 16384 ||
	    n - 16 != 3ull * width * height)
		return opt_fault(w, PLX_OPT_IMAGE, "size does not match the pixels");
	if (plx_get_u32(p + 12) > w->v->m.prompt_bytes)
		return opt_fault(w, PLX_OPT_IMAGE, "placed behind the prompt");
	return 0;
}

/* What is said of the prompt itself is checked when all options were seen: check_keep. */
static int check_compress(struct opt_walk *w, const uint8_t *p, uint32_t n)
{
	struct plx_req_compress *c = &w->v->compress;

	if (!(w->v->m.flags & PLX_REQ_COMPRESS))
		return opt_fault(w, PLX_OPT_COMPRESS, "without the compress flag");
	if (n < sizeof(*c))
		return opt_fault(w, PLX_OPT_COMPRESS, "cut short");
	memcpy(c, p, sizeof(*c));
	if (c->n_keep > PLX_REQ_KEEP_MAX ||
	    n != sizeof(*c) + c->n_keep * sizeof(struct plx_req_keep))
		return opt_fault(w, PLX_OPT_COMPRESS, "length, or over 256 spans");
	c->how = c->how ? c->how : PLX_COMPRESS_PROMPT;
	if (c->how > 7 || c->how == PLX_COMPRESS_LATE ||
	    c->how == (PLX_COMPRESS_LATE | PLX_COMPRESS_PROMPT))
		return opt_fault(w, PLX_OPT_COMPRESS, "unknown ways to compress");
	if ((c->how & PLX_COMPRESS_KV) && !(w->have & PLX_FEAT_EVICT))
		return opt_fault(w, PLX_OPT_COMPRESS, "KV is not removed here");
	if (c->zero || c->keep_roles >> (PLX_ROLE_TOOL + 1))
		return opt_fault(w, PLX_OPT_COMPRESS, "unknown role, or a reserved field");
	w->v->keep = p + sizeof(*c);
	/* Written so that a NaN fails both. */
	if (c->by == PLX_COMPRESS_RATIO && !(c->target > 0.0f && c->target <= 1.0f))
		return opt_fault(w, PLX_OPT_COMPRESS, "the ratio is not above 0 and at most 1");
	if (c->by == PLX_COMPRESS_LOSS && !(c->target >= 0.0f && c->target < 1.0f))
		return opt_fault(w, PLX_OPT_COMPRESS, "the loss is not at least 0 and below 1");
	if (c->by != PLX_COMPRESS_RATIO && c->by != PLX_COMPRESS_LOSS)
		return opt_fault(w, PLX_OPT_COMPRESS, "neither a ratio nor a loss");
	return 0;
}

/* How long what a span counts in is; 0 where there is no such message. */
static uint32_t keep_room(const struct plx_req_view *v, uint32_t message)
{
	struct plx_req_message m = {0};
	const char *content;
	uint32_t off = 0;

	if (v->m.flags & PLX_REQ_MESSAGES) {
		for (uint32_t i = 0; i <= message; i++)
			if (!plx_req_message_next(v, &off, &m, &content))
				return 0;
		return m.bytes;
	}
	if (message > 0)
		return 0;
	return v->m.flags & PLX_REQ_IDS ? v->m.prompt_tokens : v->m.prompt_bytes;
}

static int check_keep(struct opt_walk *w)
{
	const struct plx_req_view *v = w->v;

	if (v->compress.by == PLX_COMPRESS_RATIO && (v->m.flags & PLX_REQ_IDS) &&
	    v->compress.target * (float)v->m.prompt_tokens < 1.0f)
		return opt_fault(w, PLX_OPT_COMPRESS, "the ratio removes every token");
	for (uint32_t i = 0; v->compress.by && i < v->compress.n_keep; i++) {
		struct plx_req_keep k = plx_req_keep_at(v, i);

		if (k.first >= k.end || k.end > keep_room(v, k.message))
			return opt_fault(w, PLX_OPT_COMPRESS, "a span is empty or not there");
	}
	return 0;
}

static int check_best_of(struct opt_walk *w, const uint8_t *p, uint32_t n)
{
	struct plx_req_best b;

	if (n != sizeof(b))
		return opt_fault(w, PLX_OPT_BEST_OF, "length");
	memcpy(&b, p, sizeof(b));
	if (w->v->m.kind != PLX_REQ_GENERATE || b.zero)
		return opt_fault(w, PLX_OPT_BEST_OF, "nothing is generated, or a reserved field");
	if (b.n_made < 2 || b.n_made < w->v->m.n_samples || b.n_made > w->lim->max_samples ||
	    b.n_made > PLX_SAMPLES_MAX)
		return opt_fault(w, PLX_OPT_BEST_OF, "below n_samples or 2, or over max_samples");
	w->v->n_made = b.n_made;
	return 0;
}

static int check_sparse(struct opt_walk *w, const uint8_t *p, uint32_t n)
{
	struct plx_req_sparse *s = &w->v->sparse;

	if (n != sizeof(*s))
		return opt_fault(w, PLX_OPT_SPARSE, "length");
	memcpy(s, p, sizeof(*s));
	if (s->mass > 1000 || (s->mass == 0 && s->chunks == 0))
		return opt_fault(w, PLX_OPT_SPARSE, "over 1000 parts, or neither parts nor chunks");
	if (s->mass < 1000 && (w->v->m.flags & PLX_REQ_DETERMINISTIC))
		return opt_fault(w, PLX_OPT_SPARSE, "a deterministic request reads all");
	return 0;
}

static int check_known(struct opt_walk *w, uint16_t type, const uint8_t *p, uint32_t n)
{
	bool once = type == PLX_OPT_MESSAGES || type == PLX_OPT_CONTINUE ||
	            type == PLX_OPT_LOGIT_BIAS || type == PLX_OPT_GRAMMAR ||
	            type == PLX_OPT_COMPRESS || type == PLX_OPT_BEST_OF || type == PLX_OPT_SPARSE;

	if (once && w->unique[type])
		return opt_fault(w, type, "given twice");
	w->unique[type] = true;
	switch ((enum plx_req_opt)type) {
	case PLX_OPT_STOP:
		w->v->features |= PLX_FEAT_STOP;
		return check_stop(w, p, n);
	case PLX_OPT_MESSAGES:
		return check_messages(w, p, n);
	case PLX_OPT_RESUME:
		w->v->features |= PLX_FEAT_RESUME;
		return check_resume(w, p, n);
	case PLX_OPT_CONTINUE:
		w->v->features |= PLX_FEAT_CONTINUE;
		return check_continue(w, p, n);
	case PLX_OPT_LOGIT_BIAS:
		w->v->features |= PLX_FEAT_LOGIT_BIAS;
		return check_bias(w, p, n);
	case PLX_OPT_GRAMMAR:
		w->v->features |= PLX_FEAT_GRAMMAR;
		return check_grammar(w, p, n);
	case PLX_OPT_IMAGE:
		w->v->features |= PLX_FEAT_IMAGE;
		return check_image(w, p, n);
	case PLX_OPT_COMPRESS:
		w->v->features |= PLX_FEAT_PRUNE;
		return check_compress(w, p, n);
	case PLX_OPT_BEST_OF:
		w->v->features |= PLX_FEAT_BEST_OF;
		return check_best_of(w, p, n);
	case PLX_OPT_SPARSE:
		w->v->features |= PLX_FEAT_SPARSE;
		return check_sparse(w, p, n);
	}
	return opt_fault(w, type, "unknown");
}

static uint32_t opt_feature(uint16_t type)
{
	static const uint32_t feat[PLX_OPT_LAST + 1] = {[PLX_OPT_STOP] = PLX_FEAT_STOP,
	                                                [PLX_OPT_MESSAGES] = PLX_FEAT_MESSAGES,
	                                                [PLX_OPT_RESUME] = PLX_FEAT_RESUME,
	                                                [PLX_OPT_CONTINUE] = PLX_FEAT_CONTINUE,
	                                                [PLX_OPT_LOGIT_BIAS] = PLX_FEAT_LOGIT_BIAS,
	                                                [PLX_OPT_GRAMMAR] = PLX_FEAT_GRAMMAR,
	                                                [PLX_OPT_IMAGE] = PLX_FEAT_IMAGE,
	                                                [PLX_OPT_COMPRESS] = PLX_FEAT_PRUNE,
	                                                [PLX_OPT_BEST_OF] = PLX_FEAT_BEST_OF,
	                                                [PLX_OPT_SPARSE] = PLX_FEAT_SPARSE};

	return type <= PLX_OPT_LAST ? feat[type] : 0;
}

static int check_options(struct opt_walk *w, uint32_t features)
{
	const uint8_t *p = w->v->options, *end = p + w->v->m.options_bytes;
	struct plx_req_tlv tlv;

	for (; p != end; p += pad4(tlv.bytes)) {
		if ((size_t)(end - p) < sizeof(tlv))
			return fault(w->f, PLX_E_BAD_REQUEST, 0, "an option is cut short");
		memcpy(&tlv, p, sizeof(tlv));
		p += sizeof(tlv);
		uint16_t type = tlv.type & 0x7fffu;

		if (tlv.zero || pad4(tlv.bytes) > (size_t)(end - p))
			return opt_fault(w, type, "cut short");
		if (!opt_feature(type)) {
			if (tlv.type & PLX_OPT_CRITICAL)
				return opt_fault(w, type, "unknown and critical");
			continue;
		}
		if (!(opt_feature(type) & features))
			return opt_fault(w, type, "not available here");
		int err = check_known(w, type, p, tlv.bytes);

		if (err)
			return err;
	}
	return 0;
}

/* ---- the whole ------------------------------------------------------------------------------ */

int plx_req_peek(struct plx_msg_req *m, const uint8_t *p, size_t n_bytes)
{
	if (n_bytes < sizeof(*m))
		return PLX_E_FORMAT;
	memcpy(m, p, sizeof(*m));
	return 0;
}

static int check_block(const struct plx_msg_req *m, size_t n_bytes,
                       const struct plx_wire_limits *lim, struct plx_req_fault *f)
{
	int err = check_flags(m, f);

	err = err ? err : check_prompt(m, n_bytes, f);
	err = err ? err : check_limits(m, lim, f);
	return err ? err : check_sampling(m, f);
}

int plx_req_decode(struct plx_req_view *v, const uint8_t *p, size_t n_bytes,
                   const struct plx_wire_limits *lim, uint32_t features, struct plx_req_fault *f)
{
	struct opt_walk w = {.v = v, .lim = lim, .f = f, .have = features};

	memset(v, 0, sizeof(*v));
	if (plx_req_peek(&v->m, p, n_bytes))
		return BAD("shorter than the request block");
	int err = check_block(&v->m, n_bytes, lim, f);

	if (err)
		return err;
	v->options = p + PLX_REQ_BLOCK_BYTES;
	v->prompt = v->options + v->m.options_bytes;
	v->features = needed_features(&v->m);
	if (v->features & ~features)
		return BAD("needs features 0x%x that do not run here", v->features & ~features);
	err = check_options(&w, features);
	if (err)
		return err;
	if ((v->m.flags & PLX_REQ_MESSAGES) && v->n_messages == 0)
		return opt_fault(&w, PLX_OPT_MESSAGES, "missing");
	err = check_keep(&w);
	if (err)
		return err;
	if (v->n_made && v->n_resumed)
		return opt_fault(&w, PLX_OPT_RESUME, "the best of several samples begins anew");
	if (!(v->m.flags & PLX_REQ_MESSAGES) && v->m.prompt_bytes == 0 && !v->continued)
		return BAD("the prompt is empty");
	if ((v->m.flags & PLX_REQ_TEXT) && !plx_utf8_valid(v->prompt, v->m.prompt_bytes))
		return BAD("the prompt is not UTF-8");
	return 0;
}

int plx_req_opt_next(const struct plx_req_view *v, uint32_t *off, uint16_t type,
                     struct plx_req_tlv *tlv, const uint8_t **value)
{
	while (*off + sizeof(*tlv) <= v->m.options_bytes) {
		memcpy(tlv, v->options + *off, sizeof(*tlv));
		*value = v->options + *off + sizeof(*tlv);
		*off += (uint32_t)(sizeof(*tlv) + pad4(tlv->bytes));
		tlv->type &= 0x7fffu;
		if (type == 0 || tlv->type == type)
			return 1;
	}
	return 0;
}

const uint8_t *plx_req_resumed(const struct plx_req_view *v, uint16_t sample, uint32_t *count)
{
	uint32_t off = 0;
	struct plx_req_tlv tlv;
	const uint8_t *value;

	*count = 0;
	while (v->n_resumed && plx_req_opt_next(v, &off, PLX_OPT_RESUME, &tlv, &value))
		if (plx_get_u32(value) == sample) {
			*count = plx_get_u32(value + 4);
			return value + 8;
		}
	return NULL;
}

int plx_req_message_next(const struct plx_req_view *v, uint32_t *off, struct plx_req_message *m,
                         const char **content)
{
	uint32_t at = 0;
	struct plx_req_tlv tlv;
	const uint8_t *value;

	if (!plx_req_opt_next(v, &at, PLX_OPT_MESSAGES, &tlv, &value))
		return 0;
	if (*off == 0)
		*off = 4;
	if (*off + sizeof(*m) > tlv.bytes)
		return 0;
	memcpy(m, value + *off, sizeof(*m));
	*content = (const char *)value + *off + sizeof(*m);
	*off += (uint32_t)(sizeof(*m) + pad4(m->bytes));
	return 1;
}
