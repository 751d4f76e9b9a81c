/* Decoding: an id's bytes, and a stream of ids as whole characters. */
#include "accel/model/tok_char.h"
#include "accel/model/tok_vocab.h"

uint32_t plx_tok_n_vocab(const struct plx_tok *t)
{
	return t->n_vocab;
}

const struct plx_tok_special *plx_tok_special(const struct plx_tok *t)
{
	return &t->special;
}

static bool valid(const struct plx_tok *t, int32_t id)
{
	return id >= 0 && (uint32_t)id < t->n_vocab;
}

bool plx_tok_is_eog(const struct plx_tok *t, int32_t id)
{
	return valid(t, id) && (t->attr[id] & PLX_TOK_A_EOG);
}

uint32_t plx_tok_eog(const struct plx_tok *t, const int32_t **ids)
{
	*ids = t->eog;
	return t->n_eog;
}

int plx_tok_type(const struct plx_tok *t, int32_t id)
{
	return valid(t, id) ? t->type[id] : 0;
}

const uint8_t *plx_tok_piece(const struct plx_tok *t, int32_t id, uint32_t *len)
{
	*len = 0;
	if (!valid(t, id))
		return NULL;
	*len = t->piece[id].len;
	return t->pool + t->piece[id].off;
}

void plx_tok_stream_init(struct plx_tok_stream *st, const struct plx_tok *t, uint32_t flags)
{
	*st = (struct plx_tok_stream){.tok = t, .flags = (uint8_t)flags, .at_start = true};
}

uint32_t plx_tok_stream_max(const struct plx_tok *t)
{
	/* Every byte of a piece, and the bytes held before it, may become a U+FFFD. */
	return (t->max_piece + PLX_TOK_CHAR_BYTES) * PLX_TOK_REPLACE_BYTES;
}

static uint32_t put_replacement(uint8_t *out)
{
	memcpy(out, "\xef\xbf\xbd", PLX_TOK_REPLACE_BYTES);
	return PLX_TOK_REPLACE_BYTES;
}

/* Adds one byte to what is held; writes what that completes or breaks. */
static uint32_t push_byte(struct plx_tok_stream *st, uint8_t byte, uint8_t *out)
{
	uint32_t n = 0;
	uint32_t have;

	st->held[st->n_held++] = byte;
	uint32_t len = plx_char_partial(st->held, st->n_held, &have);
	int32_t cp;

	if (len > have)
		return 0; /* still a beginning */
	if (have < st->n_held) {
		/* The new byte breaks what was held; it begins anew. */
		n = put_replacement(out);
		st->n_held = 0;
		return n + push_byte(st, byte, out + n);
	}
	if (plx_char_decode(st->held, st->n_held, &cp) == st->n_held && cp != PLX_CHAR_BAD) {
		memcpy(out, st->held, st->n_held);
		n = st->n_held;
	} else {
		n = put_replacement(out);
	}
	st->n_held = 0;
	return n;
}

static bool hidden(const struct plx_tok_stream *st, int32_t id)
{
	uint8_t type = st->tok->type[id];

	return !(st->flags & PLX_TOK_SHOW_CONTROL) &&
	       (type == PLX_TOK_T_CONTROL || type == PLX_TOK_T_UNKNOWN || type == PLX_TOK_T_UNUSED);
}

int plx_tok_stream_push(struct plx_tok_stream *st, int32_t id, void *out, uint32_t cap)
{
	uint8_t *o = out;
	uint32_t len;
	uint32_t n = 0;
	const uint8_t *p = plx_tok_piece(st->tok, id, &len);

	if (p == NULL || cap < plx_tok_stream_max(st->tok))
		return PLX_E_INVAL;
	if (hidden(st, id))
		return 0;
	if (st->at_start && p[0] == ' ' && st->tok->type[id] != PLX_TOK_T_BYTE &&
	    st->tok->special.add_space_prefix && !(st->flags & PLX_TOK_KEEP_SPACE)) {
		p++;
		len--;
	}
	st->at_start = false;
	for (uint32_t i = 0; i < len; i++) {
		if (p[i] < 0x80 && st->n_held == 0)
			o[n++] = p[i];
		else
			n += push_byte(st, p[i], o + n);
	}
	return (int)n;
}

int plx_tok_stream_flush(struct plx_tok_stream *st, void *out, uint32_t cap)
{
	if (cap < PLX_TOK_REPLACE_BYTES)
		return PLX_E_INVAL;
	if (st->n_held == 0)
		return 0;
	st->n_held = 0;
	return (int)put_replacement(out);
}
