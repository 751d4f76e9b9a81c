/*
 * Renders messages by a recognised template's form, and opens templates from model files.
 */
#include "accel/model/chat.h"

#include <stdlib.h>
#include <string.h>

#include "accel/model/chat_form.h"
#include "accel/model/gguf.h"
#include "fw/base/err.h"

/* ---- contents ------------------------------------------------------------------------------ */

/* Whether the n bytes at p are one character that Python's str.isspace says yes to. */
static bool is_space(const char *p, uint32_t n)
{
	const uint8_t *u = (const uint8_t *)p;

	if (n == 1)
		return (u[0] >= 9 && u[0] <= 13) || (u[0] >= 28 && u[0] <= 32);
	if (n == 2)
		return u[0] == 0xc2 && (u[1] == 0x85 || u[1] == 0xa0);
	if (u[0] == 0xe1)
		return u[1] == 0x9a && u[2] == 0x80;
	if (u[0] == 0xe2 && u[1] == 0x80)
		return (u[2] >= 0x80 && u[2] <= 0x8a) || u[2] == 0xa8 || u[2] == 0xa9 ||
		       u[2] == 0xaf;
	if (u[0] == 0xe2)
		return u[1] == 0x81 && u[2] == 0x9f;
	return u[0] == 0xe3 && u[1] == 0x80 && u[2] == 0x80;
}

static struct plx_chat_piece strip_left(struct plx_chat_piece s)
{
	for (uint32_t n = 1; n <= 3 && n <= s.len; n++) {
		if (is_space(s.ptr, n)) {
			s.ptr += n;
			s.len -= n;
			n = 0;
		}
	}
	return s;
}

static struct plx_chat_piece strip_right(struct plx_chat_piece s)
{
	for (uint32_t n = 1; n <= 3 && n <= s.len; n++) {
		if (is_space(s.ptr + s.len - n, n)) {
			s.len -= n;
			n = 0;
		}
	}
	return s;
}

static struct plx_chat_piece content_of(const struct plx_chat *c, const struct plx_chat_msg *m)
{
	struct plx_chat_piece s = {.ptr = m->text, .len = m->len};

	if (c->trim >> m->role & 1u)
		s = strip_left(strip_right(s));
	return s;
}

/* ---- segments ------------------------------------------------------------------------------ */

struct out {
	struct plx_chat_seg *segs;
	uint32_t max;
	uint32_t n;
	bool full;
};

static void emit(struct out *o, struct plx_chat_piece s, bool content)
{
	if (s.len == 0)
		return;
	if (o->n == o->max) {
		o->full = true;
		return;
	}
	o->segs[o->n++] = (struct plx_chat_seg){.ptr = s.ptr, .len = s.len, .content = content};
}

/* ---- qwen3's thoughts ---------------------------------------------------------------------- */

static const char *find_last(struct plx_chat_piece s, const char *what, size_t n)
{
	for (const char *p = s.ptr + s.len - n; s.len >= n && p >= s.ptr; p--) {
		if (memcmp(p, what, n) == 0)
			return p;
	}
	return NULL;
}

static struct plx_chat_piece from(const char *p, const char *end)
{
	return (struct plx_chat_piece){.ptr = p, .len = (uint32_t)(end - p)};
}

static struct plx_chat_piece strip_newlines(struct plx_chat_piece s)
{
	for (; s.len && s.ptr[0] == '\n'; s.len--)
		s.ptr++;
	while (s.len && s.ptr[s.len - 1] == '\n')
		s.len--;
	return s;
}

/* What is left of an answer behind its last </think>, without leading newlines. */
static struct plx_chat_piece without_thought(struct plx_chat_piece s)
{
	const char *end = s.ptr + s.len;
	const char *p = s.len ? find_last(s, "</think>", 8) : NULL;

	if (!p)
		return s;
	for (p += 8; p < end && *p == '\n'; p++)
		;
	return from(p, end);
}

/* The thought: before the first </think>, behind the last <think> of that. Empty: none. */
static struct plx_chat_piece thought_of(struct plx_chat_piece s)
{
	const char *end = s.len ? memmem(s.ptr, s.len, "</think>", 8) : NULL;
	const char *p;

	if (!end)
		return (struct plx_chat_piece){.ptr = s.ptr};
	s = from(s.ptr, end);
	p = find_last(s, "<think>", 7);
	return strip_newlines(p ? from(p + 7, end) : s);
}

static bool is_tool_answer(const struct plx_chat_msg *m)
{
	static const char open[] = "<tool_response>";
	static const char close[] = "</tool_response>";
	uint32_t n_open = sizeof open - 1;
	uint32_t n_close = sizeof close - 1;

	return m->len >= n_close && memcmp(m->text, open, n_open) == 0 &&
	       memcmp(m->text + m->len - n_close, close, n_close) == 0;
}

/* Index of the last question a user asked, or of the last message where there is none. */
static uint32_t last_query(const struct plx_chat_msg *msgs, uint32_t n)
{
	for (uint32_t i = n; i-- > 0;) {
		if (msgs[i].role == PLX_CHAT_USER && !is_tool_answer(&msgs[i]))
			return i;
	}
	return n - 1;
}

static void emit_thinking_answer(const struct plx_chat *c, struct out *o,
                                 struct plx_chat_piece text, bool last)
{
	struct plx_chat_piece answer = without_thought(text);
	struct plx_chat_piece thought = thought_of(text);

	if (last || thought.len) {
		emit(o, c->think_open, false);
		emit(o, thought, true);
		emit(o, c->think_close, false);
		while (answer.len && answer.ptr[0] == '\n') {
			answer.ptr++;
			answer.len--;
		}
	}
	emit(o, answer, true);
}

/* ---- turns --------------------------------------------------------------------------------- */

/* A prompt while it is rendered. */
struct job {
	const struct plx_chat *c;
	const struct plx_chat_msg *msgs;
	uint32_t n;
	uint32_t first;                    /* first message that is a turn */
	uint32_t query;                    /* qwen3 */
	const struct plx_chat_msg *system; /* to fold or to put in the head; NULL: none */
	struct out o;
};

static bool folds(const struct plx_chat *c)
{
	return c->system == PLX_CHAT_SYS_FOLD_FIRST || c->system == PLX_CHAT_SYS_FOLD_LAST;
}

static void emit_folded(struct job *j, struct plx_chat_piece *text, const struct plx_chat_msg *m)
{
	const struct plx_chat *c = j->c;

	emit(&j->o, c->fold_open, false);
	emit(&j->o, content_of(c, j->system), true);
	if (c->fold_keeps_left)
		*text = strip_right((struct plx_chat_piece){.ptr = m->text, .len = m->len});
	if (c->fold_keeps_left && text->len == 0)
		emit(&j->o, c->fold_close_bare, false);
	else
		emit(&j->o, c->fold_close, false);
}

static void emit_turn(struct job *j, uint32_t i)
{
	const struct plx_chat *c = j->c;
	const struct plx_chat_msg *m = &j->msgs[i];
	struct plx_chat_piece text = content_of(c, m);
	uint32_t target = c->system == PLX_CHAT_SYS_FOLD_LAST ? j->n - 1 : j->first;

	emit(&j->o, c->open[m->role], false);
	if (j->system && folds(c) && i == target)
		emit_folded(j, &text, m);
	if (!c->think || m->role != PLX_CHAT_ASSISTANT)
		emit(&j->o, text, true);
	else if (i > j->query)
		emit_thinking_answer(c, &j->o, text, i == j->n - 1);
	else
		emit(&j->o, without_thought(text), true);
	emit(&j->o, c->close[m->role], false);
}

static int check_order(const struct job *j)
{
	for (uint32_t i = j->first; i < j->n; i++) {
		bool even = (i - j->first) % 2 == 0;

		if (j->c->system != PLX_CHAT_SYS_TURN && j->c->system != PLX_CHAT_SYS_HEAD &&
		    j->msgs[i].role == PLX_CHAT_SYSTEM)
			return PLX_E_BAD_REQUEST;
		if (j->c->alternate && (j->msgs[i].role == PLX_CHAT_USER) != even)
			return PLX_E_BAD_REQUEST;
	}
	return 0;
}

/* Find the system message's place; everything a template would raise an exception for ends here. */
static int plan(struct job *j)
{
	const struct plx_chat *c = j->c;

	if (j->n == 0)
		return PLX_E_BAD_REQUEST;
	for (uint32_t i = 0; i < j->n; i++) {
		if (j->msgs[i].role >= PLX_CHAT_ROLES)
			return PLX_E_BAD_REQUEST;
	}
	if (j->msgs[0].role == PLX_CHAT_SYSTEM && (folds(c) || c->system == PLX_CHAT_SYS_HEAD)) {
		j->system = &j->msgs[0];
		j->first = 1;
	}
	if (j->system && folds(c) && j->n == 1)
		return PLX_E_BAD_REQUEST;
	if (j->system && c->system == PLX_CHAT_SYS_FOLD_LAST &&
	    j->msgs[j->n - 1].role != PLX_CHAT_USER)
		return PLX_E_BAD_REQUEST;
	if (c->think)
		j->query = last_query(j->msgs, j->n);
	return check_order(j);
}

static void emit_head(struct job *j)
{
	const struct plx_chat *c = j->c;

	emit(&j->o, c->prologue, false);
	if (c->system == PLX_CHAT_SYS_HEAD) {
		emit(&j->o, c->head_open, false);
		if (j->system)
			emit(&j->o, content_of(c, j->system), true);
		emit(&j->o, c->close[PLX_CHAT_SYSTEM], false);
	}
	if (j->msgs[0].role != PLX_CHAT_SYSTEM)
		emit(&j->o, c->default_system, false);
}

int plx_chat_render(const struct plx_chat *c, const struct plx_chat_msg *msgs, uint32_t n_msgs,
                    struct plx_chat_seg *segs, uint32_t max)
{
	struct job j = {.c = c, .msgs = msgs, .n = n_msgs, .o = {.segs = segs, .max = max}};
	int err = plan(&j);

	if (err)
		return err;
	emit_head(&j);
	for (uint32_t i = j.first; i < n_msgs; i++)
		emit_turn(&j, i);
	if (!c->no_generation_after_answer || msgs[n_msgs - 1].role != PLX_CHAT_ASSISTANT)
		emit(&j.o, c->generation, false);
	return j.o.full ? PLX_E_TOO_LARGE : (int)j.o.n;
}

int plx_chat_render_more(const struct plx_chat *c, const struct plx_chat_msg *msgs, uint32_t n_msgs,
                         struct plx_chat_seg *segs, uint32_t max)
{
	struct job j = {.c = c, .msgs = msgs, .n = n_msgs, .o = {.segs = segs, .max = max}};

	if (c->think || c->system == PLX_CHAT_SYS_FOLD_LAST)
		return PLX_E_UNSUPPORTED;
	if (n_msgs == 0)
		return PLX_E_BAD_REQUEST;
	for (uint32_t i = 0; i < n_msgs; i++) {
		if (msgs[i].role >= PLX_CHAT_ROLES)
			return PLX_E_BAD_REQUEST;
	}
	int err = check_order(&j);

	if (err)
		return err;
	emit(&j.o, c->close[PLX_CHAT_ASSISTANT], false);
	for (uint32_t i = 0; i < n_msgs; i++)
		emit_turn(&j, i);
	if (!c->no_generation_after_answer || msgs[n_msgs - 1].role != PLX_CHAT_ASSISTANT)
		emit(&j.o, c->generation, false);
	return j.o.full ? PLX_E_TOO_LARGE : (int)j.o.n;
}

/* One content segment: into the last span where they touch, else a new one. */
static int add_span(struct plx_chat_prompt *p, uint32_t len)
{
	struct plx_tok_span *last = p->n_span ? &p->span[p->n_span - 1] : NULL;

	if (last && last->off + last->len == p->len) {
		last->len += len;
		return 0;
	}
	if (p->n_span == p->max_span)
		return PLX_E_TOO_LARGE;
	p->span[p->n_span++] = (struct plx_tok_span){.off = p->len, .len = len};
	return 0;
}

int plx_chat_join(const struct plx_chat_seg *segs, uint32_t n_segs, struct plx_chat_prompt *p)
{
	p->len = 0;
	p->n_span = 0;
	for (uint32_t i = 0; i < n_segs; i++) {
		if (segs[i].len > p->max_text - p->len)
			return PLX_E_TOO_LARGE;
		if (segs[i].content && add_span(p, segs[i].len))
			return PLX_E_TOO_LARGE;
		memcpy(p->text + p->len, segs[i].ptr, segs[i].len);
		p->len += segs[i].len;
	}
	return 0;
}

/* ---- opening ------------------------------------------------------------------------------- */

static int unknown(const struct plx_chat_source *src, struct plx_diag *d)
{
	if (src->name && src->name[0])
		return plx_diag_set(d, PLX_E_UNSUPPORTED,
		                    "--chat-template %s: there is no such template; give one of %s",
		                    src->name, plx_chat_names());
	return plx_diag_set(d, PLX_E_UNSUPPORTED,
	                    "%s: its chat template is none of those this program knows; choose "
	                    "with --chat-template one of %s",
	                    src->file, plx_chat_names());
}

static int check_eos(const struct plx_chat *c, const struct plx_chat_source *src,
                     struct plx_diag *d)
{
	if (!c->writes_eos || c->eos[0])
		return 0;
	return plx_diag_set(
	    d, PLX_E_FORMAT,
	    "%s: its chat template (%s) ends answers with the eos token, but there is "
	    "none; choose another with --chat-template",
	    src->file, c->name);
}

static int fill(struct plx_chat *c, const struct plx_chat_source *src, struct plx_diag *d)
{
	int err;

	if (strlen(src->bos) > PLX_CHAT_MAX_TOKEN || strlen(src->eos) > PLX_CHAT_MAX_TOKEN)
		return plx_diag_set(d, PLX_E_FORMAT,
		                    "%s: its bos or eos token is longer than %u bytes; convert or "
		                    "fetch the model again",
		                    src->file, PLX_CHAT_MAX_TOKEN);
	strcpy(c->bos, src->bos);
	strcpy(c->eos, src->eos);
	if (src->name && src->name[0])
		return plx_chat_by_name(c, src->name) ? check_eos(c, src, d) : unknown(src, d);
	if (!src->template_ptr)
		return plx_diag_set(d, PLX_E_NOT_FOUND,
		                    "%s: it has no chat template; choose with --chat-template one "
		                    "of %s",
		                    src->file, plx_chat_names());
	err = plx_chat_recognise(c, src->template_ptr, src->template_len);
	if (err == PLX_E_NOMEM)
		return plx_diag_set(d, err, "%s: no memory for its chat template; free some",
		                    src->file);
	return err ? unknown(src, d) : check_eos(c, src, d);
}

int plx_chat_build(const struct plx_chat_source *src, struct plx_chat **out, struct plx_diag *d)
{
	struct plx_chat *c = calloc(1, sizeof *c);
	int err;

	*out = NULL;
	if (!c)
		return plx_diag_set(d, PLX_E_NOMEM,
		                    "%s: no memory for its chat template; free some", src->file);
	err = fill(c, src, d);
	if (err)
		free(c);
	else
		*out = c;
	return err;
}

/* The text of the token whose id the key holds, in buf; "" where the file has no such key. */
static int token_text(const struct plx_gguf *g, const char *key, char buf[PLX_CHAT_MAX_TOKEN + 2],
                      struct plx_diag *d)
{
	const struct plx_gguf_kv *list;
	struct plx_gguf_str s;
	uint32_t id;
	int err;

	buf[0] = '\0';
	if (!plx_gguf_find(g, key) || !plx_gguf_find(g, "tokenizer.ggml.tokens"))
		return 0;
	if ((err = plx_gguf_get_u32(g, key, &id, d)) ||
	    (err = plx_gguf_get_arr(g, "tokenizer.ggml.tokens", PLX_GGUF_STR, &list, d)))
		return err;
	if (id >= list->n)
		return plx_diag_set(d, PLX_E_FORMAT,
		                    "%s: metadata key '%s' is %u, but there are %llu tokens; "
		                    "convert or fetch the model again",
		                    plx_gguf_name(g), key, id, (unsigned long long)list->n);
	struct plx_gguf_iter it = plx_gguf_strs(list);

	for (uint32_t i = 0; i <= id; i++)
		plx_gguf_next(&it, &s);
	if (s.len > PLX_CHAT_MAX_TOKEN || memchr(s.ptr, '\0', s.len))
		return plx_diag_set(d, PLX_E_FORMAT,
		                    "%s: token %u, named by '%s', is too long or holds a zero "
		                    "byte; convert or fetch the model again",
		                    plx_gguf_name(g), id, key);
	memcpy(buf, s.ptr, s.len);
	buf[s.len] = '\0';
	return 0;
}

int plx_chat_open(const struct plx_gguf *g, const char *name, struct plx_chat **out,
                  struct plx_diag *d)
{
	static const char key[] = "tokenizer.chat_template";
	struct plx_chat_source src = {.file = plx_gguf_name(g), .name = name};
	char bos[PLX_CHAT_MAX_TOKEN + 2];
	char eos[PLX_CHAT_MAX_TOKEN + 2];
	struct plx_gguf_str s;
	int err;

	*out = NULL;
	if ((err = token_text(g, "tokenizer.ggml.bos_token_id", bos, d)) ||
	    (err = token_text(g, "tokenizer.ggml.eos_token_id", eos, d)))
		return err;
	if (plx_gguf_find(g, key)) {
		if ((err = plx_gguf_get_str(g, key, &s, d)))
			return err;
		src.template_ptr = s.ptr;
		src.template_len = s.len;
	}
	src.bos = bos;
	src.eos = eos;
	return plx_chat_build(&src, out, d);
}

void plx_chat_free(struct plx_chat *c)
{
	free(c);
}

const char *plx_chat_name(const struct plx_chat *c)
{
	return c->name;
}
