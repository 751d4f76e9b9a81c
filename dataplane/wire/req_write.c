/*
 * Writing REQ: the block first, options behind it, the prompt last; end fills in the lengths.
 */
#include "dataplane/wire/req.h"

#include <string.h>

struct plx_msg_req plx_msg_req_init(void)
{
	return (struct plx_msg_req){.kind = PLX_REQ_GENERATE,
	                            .n_samples = 1,
	                            .flags = PLX_REQ_STREAM,
	                            .max_new = 128,
	                            .top_p = 1.0f,
	                            .repeat_penalty = 1.0f};
}

/* Room for bytes, zeroed up to the next multiple of 4; NULL and a sticky error when there is none.
 */
static uint8_t *room(struct plx_req_writer *w, size_t bytes)
{
	size_t padded = (bytes + 3u) & ~(size_t)3u;

	if (w->err)
		return NULL;
	if (padded < bytes || padded > w->cap - w->used) {
		w->err = PLX_E_LIMIT;
		return NULL;
	}
	uint8_t *p = w->p + w->used;

	if (padded != bytes)
		memset(p + bytes, 0, padded - bytes);
	w->used += padded;
	return p;
}

static void misuse(struct plx_req_writer *w)
{
	w->err = w->err ? w->err : PLX_E_INVAL;
}

void plx_req_begin(struct plx_req_writer *w, uint8_t *p, size_t cap, const struct plx_msg_req *m)
{
	*w = (struct plx_req_writer){.p = p, .cap = cap, .m = *m};
	w->m.prompt_bytes = w->m.prompt_tokens = 0;
	w->m.flags &= ~(uint32_t)(PLX_REQ_TEXT | PLX_REQ_IDS | PLX_REQ_MESSAGES);
	room(w, sizeof(*m));
}

/* Open an option of that many bytes; returns where its value goes. */
static uint8_t *option(struct plx_req_writer *w, uint16_t type, uint32_t bytes)
{
	struct plx_req_tlv tlv = {.type = type, .bytes = bytes};

	if (w->m.prompt_bytes)
		misuse(w);
	uint8_t *p = room(w, sizeof(tlv));

	if (p)
		memcpy(p, &tlv, sizeof(tlv));
	return room(w, bytes);
}

void plx_req_opt(struct plx_req_writer *w, uint16_t type, const void *value, uint32_t bytes)
{
	w->messages_at = 0;
	uint8_t *p = option(w, type, bytes);

	if (p && bytes)
		memcpy(p, value, bytes);
}

void plx_req_stop(struct plx_req_writer *w, const char *s, size_t bytes)
{
	plx_req_opt(w, PLX_OPT_STOP, s, (uint32_t)bytes);
}

/* The option's head and count grow with every message that is added behind them. */
static void messages_grow(struct plx_req_writer *w)
{
	struct plx_req_tlv tlv = {.type = PLX_OPT_MESSAGES};
	uint8_t *count = w->p + w->messages_at + sizeof(tlv);

	tlv.bytes = (uint32_t)(w->used - w->messages_at - sizeof(tlv));
	memcpy(w->p + w->messages_at, &tlv, sizeof(tlv));
	plx_put_u32(count, plx_get_u32(count) + 1);
}

void plx_req_message(struct plx_req_writer *w, enum plx_req_role role, const char *s, size_t bytes)
{
	struct plx_req_message m = {.role = (uint8_t)role, .bytes = (uint32_t)bytes};

	if (w->m.prompt_bytes)
		misuse(w);
	if (!w->messages_at) {
		size_t at = w->used;
		uint8_t *count = option(w, PLX_OPT_MESSAGES, 4);

		if (count)
			plx_put_u32(count, 0);
		w->messages_at = at;
	}
	uint8_t *head = room(w, sizeof(m));
	uint8_t *text = room(w, bytes);

	if (!text || !head)
		return;
	memcpy(head, &m, sizeof(m));
	if (bytes)
		memcpy(text, s, bytes);
	messages_grow(w);
}

void plx_req_resume(struct plx_req_writer *w, uint16_t sample, const uint32_t *ids, uint32_t count)
{
	w->messages_at = 0;
	if (count > (UINT32_MAX >> 3)) {
		misuse(w);
		return;
	}
	uint8_t *p = option(w, PLX_OPT_RESUME, 8 + 4 * count);

	if (!p)
		return;
	plx_put_u32(p, sample);
	plx_put_u32(p + 4, count);
	if (count)
		memcpy(p + 8, ids, 4u * (size_t)count);
}

void plx_req_continue(struct plx_req_writer *w, uint64_t req_id, uint32_t sample)
{
	uint8_t value[12];

	memcpy(value, &req_id, 8);
	plx_put_u32(value + 8, sample);
	plx_req_opt(w, PLX_OPT_CONTINUE, value, sizeof(value));
	w->continued = true;
}

void plx_req_bias(struct plx_req_writer *w, const struct plx_msg_top *bias, uint32_t count)
{
	if (count > PLX_LOGIT_BIAS_MAX) {
		misuse(w);
		return;
	}
	plx_req_opt(w, PLX_OPT_LOGIT_BIAS, bias, count * (uint32_t)sizeof(*bias));
}

void plx_req_prune(struct plx_req_writer *w, const struct plx_req_compress *c,
                   const struct plx_req_keep *keep)
{
	w->messages_at = 0;
	if (c->n_keep > PLX_REQ_KEEP_MAX) {
		misuse(w);
		return;
	}
	uint32_t spans = c->n_keep * (uint32_t)sizeof(*keep);
	uint8_t *p = option(w, PLX_OPT_COMPRESS, (uint32_t)sizeof(*c) + spans);

	if (!p)
		return;
	memcpy(p, c, sizeof(*c));
	if (spans)
		memcpy(p + sizeof(*c), keep, spans);
	w->m.flags |= PLX_REQ_COMPRESS;
}

void plx_req_best_of(struct plx_req_writer *w, uint16_t n_made)
{
	struct plx_req_best b = {.n_made = n_made};

	plx_req_opt(w, PLX_OPT_BEST_OF, &b, sizeof(b));
}

void plx_req_sparse(struct plx_req_writer *w, uint16_t mass, uint16_t chunks)
{
	struct plx_req_sparse s = {.mass = mass, .chunks = chunks};

	plx_req_opt(w, PLX_OPT_SPARSE, &s, sizeof(s));
}

/* The prompt ends the message: what stands before it are the options. */
static uint8_t *prompt(struct plx_req_writer *w, size_t bytes)
{
	if (w->m.prompt_bytes || (bytes == 0 && !w->continued) || bytes > INT32_MAX) {
		misuse(w);
		return NULL;
	}
	if (w->err || bytes > w->cap - w->used) {
		w->err = w->err ? w->err : PLX_E_LIMIT;
		return NULL;
	}
	uint8_t *p = w->p + w->used;

	w->used += bytes;
	w->m.prompt_bytes = (uint32_t)bytes;
	return p;
}

void plx_req_prompt_text(struct plx_req_writer *w, const char *s, size_t bytes)
{
	uint8_t *p = prompt(w, bytes);

	if (!p)
		return;
	if (bytes)
		memcpy(p, s, bytes);
	w->m.flags |= PLX_REQ_TEXT;
}

void plx_req_prompt_ids(struct plx_req_writer *w, const uint32_t *ids, uint32_t count)
{
	uint8_t *p = prompt(w, 4u * (size_t)count);

	if (!p)
		return;
	if (count)
		memcpy(p, ids, 4u * (size_t)count);
	w->m.prompt_tokens = count;
	w->m.flags |= PLX_REQ_IDS;
}

int plx_req_end(struct plx_req_writer *w)
{
	if (w->err)
		return w->err;
	if (w->used > INT32_MAX)
		return PLX_E_LIMIT;
	w->m.message_bytes = (uint32_t)w->used;
	w->m.options_bytes = (uint32_t)w->used - PLX_REQ_BLOCK_BYTES - w->m.prompt_bytes;
	if (!(w->m.flags & (PLX_REQ_TEXT | PLX_REQ_IDS)))
		w->m.flags |= PLX_REQ_MESSAGES;
	memcpy(w->p, &w->m, sizeof(w->m));
	return (int)w->used;
}
