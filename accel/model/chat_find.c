/*
 * Recognises a Jinja chat template. The template is first brought into a canonical form, in which
 * two templates that differ only in layout are equal; then it is searched for the expressions that
 * make a family. What is searched for are whole expressions, not token names: a template that uses
 * a family's tokens in another way is not taken for it.
 *
 * Canonical form: comments, whitespace outside of strings and the dashes of {%- -%} are gone;
 * strings stand in single quotes with their escapes resolved, neighbours that are added are one;
 * message.role is message['role']. A quote inside a string is QUOTE, so that ' always is a border.
 */
#include <stdlib.h>
#include <string.h>

#include "accel/model/chat_form.h"
#include "fw/base/err.h"

#define QUOTE  '\1'
#define GROWTH 4u /* ".role" becomes "['role']" */

/* ---- canonical form ------------------------------------------------------------------------ */

struct canon {
	const char *in;
	const char *end;
	char *out;
	size_t n;
	bool in_tag;
};

static void put(struct canon *k, const char *s, size_t n)
{
	memcpy(k->out + k->n, s, n);
	k->n += n;
}

static bool at(const struct canon *k, const char *s)
{
	size_t n = strlen(s);

	return (size_t)(k->end - k->in) >= n && memcmp(k->in, s, n) == 0;
}

static char unescape(char c)
{
	switch (c) {
	case 'n':
		return '\n';
	case 't':
		return '\t';
	case '\'':
		return QUOTE;
	default:
		return c;
	}
}

/* A string literal; k->in stands on its opening quote. */
static void canon_string(struct canon *k)
{
	char quote = *k->in++;

	if (k->n >= 2 && memcmp(k->out + k->n - 2, "'+", 2) == 0)
		k->n -= 2; /* 'a'+'b' is 'ab' */
	else
		put(k, "'", 1);
	for (; k->in < k->end && *k->in != quote; k->in++) {
		char c = *k->in;

		if (c == '\\' && k->in + 1 < k->end)
			c = unescape(*++k->in);
		else if (c == '\'')
			c = QUOTE;
		put(k, &c, 1);
	}
	k->in += k->in < k->end;
	put(k, "'", 1);
}

/* ".role" and ".content" as subscripts; returns whether that was it. */
static bool canon_attribute(struct canon *k)
{
	if (at(k, ".role") && !at(k, ".role_")) {
		put(k, "['role']", 8);
		k->in += 5;
		return true;
	}
	if (at(k, ".content") && !at(k, ".content_")) {
		put(k, "['content']", 11);
		k->in += 8;
		return true;
	}
	return false;
}

static bool is_space(char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

static void canon_in_tag(struct canon *k)
{
	if (at(k, "-%}") || at(k, "-}}")) {
		k->in++;
	} else if (at(k, "%}") || at(k, "}}")) {
		put(k, k->in, 2);
		k->in += 2;
		k->in_tag = false;
	} else if (*k->in == '\'' || *k->in == '"') {
		canon_string(k);
	} else if (is_space(*k->in)) {
		k->in++;
	} else if (!canon_attribute(k)) {
		put(k, k->in++, 1);
	}
}

static void skip_comment(struct canon *k)
{
	while (k->in < k->end && !at(k, "#}"))
		k->in++;
	k->in += k->in < k->end ? 2 : 0;
}

static void canon_in_text(struct canon *k)
{
	if (at(k, "{#")) {
		skip_comment(k);
	} else if (at(k, "{%") || at(k, "{{")) {
		put(k, k->in, 2);
		k->in += 2;
		k->in += k->in < k->end && (*k->in == '-' || *k->in == '+');
		k->in_tag = true;
	} else if (is_space(*k->in)) {
		k->in++;
	} else {
		put(k, k->in++, 1);
	}
}

/* The canonical form, NUL-terminated, to be freed; NULL: no memory. */
static char *canonical(const char *jinja, size_t len)
{
	struct canon k = {.in = jinja, .end = jinja + len, .out = malloc(GROWTH * len + 1)};

	if (!k.out)
		return NULL;
	while (k.in < k.end) {
		if (k.in_tag)
			canon_in_tag(&k);
		else
			canon_in_text(&k);
	}
	k.out[k.n] = '\0';
	return k.out;
}

/* ---- families ------------------------------------------------------------------------------ */

#define MSG_ROLE    "message['role']"
#define MSG_CONTENT "message['content']"

static bool has(const char *t, const char *expr)
{
	return strstr(t, expr) != NULL;
}

/*
 * Copy the literal that follows `before` up to `after` into buf, if there is one of at most
 * PLX_CHAT_DEFAULT_BYTES bytes with no string's border in it.
 */
static bool literal_between(const char *t, const char *before, const char *after,
                            char buf[PLX_CHAT_DEFAULT_BYTES + 1])
{
	for (const char *p = strstr(t, before); p; p = strstr(p + 1, before)) {
		const char *from = p + strlen(before);
		size_t window = strnlen(from, PLX_CHAT_DEFAULT_BYTES + strlen(after));
		const char *to = memmem(from, window, after, strlen(after));
		size_t n = to ? (size_t)(to - from) : 0;

		if (n == 0 || n > PLX_CHAT_DEFAULT_BYTES || memchr(from, '\'', n))
			continue;
		memcpy(buf, from, n);
		buf[n] = '\0';
		for (size_t i = 0; i < n; i++)
			buf[i] = buf[i] == QUOTE ? '\'' : buf[i];
		return true;
	}
	return false;
}

static bool find_qwen3(struct plx_chat *c, const char *t)
{
	if (!has(t, "last_query_index") || !has(t, "enable_thinking") ||
	    !has(t, "split('</think>')[-1].lstrip('\n')") ||
	    !has(t, "+'\n<think>\n'+reasoning_content.strip('\n')+'\n</think>\n\n'+") ||
	    has(t, "bos_token") || has(t, "render_content"))
		return false;
	plx_chat_form_qwen3(c);
	return true;
}

static bool find_chatml(struct plx_chat *c, const char *t)
{
	char sys[PLX_CHAT_DEFAULT_BYTES + 1] = "";

	if (!has(t, "'<|im_start|>assistant\n'"))
		return false; /* a generation prompt that says more, or none */
	if (has(t, "</think>"))
		return find_qwen3(c, t);
	if (!has(t, "'<|im_start|>'+" MSG_ROLE "+'\n'+" MSG_CONTENT "+'<|im_end|>\n'") &&
	    !has(t, "'<|im_start|>'+" MSG_ROLE "+'\n'+" MSG_CONTENT
	            "}}{%if(loop.lastandadd_generation_prompt)ornotloop.last%}{{'<|im_end|>\n'}}"))
		return false;
	if (has(t, "strftime") || has(t, "Metadata") || has(t, "|trim") || has(t, ".strip(") ||
	    has(t, "system_message"))
		return false; /* chatml's tokens around more than messages */
	bool found = literal_between(t, "<|im_start|>system\n", "<|im_end|>", sys);

	if (!found && has(t, "['role']!='system'"))
		return false; /* there is a default message, but not as a plain literal */
	if (has(t, "bos_token"))
		c->prologue = plx_chat_text(c, "%s", c->bos);
	plx_chat_form_chatml(c, sys);
	return true;
}

static bool find_llama3(struct plx_chat *c, const char *t)
{
	char date[PLX_CHAT_DEFAULT_BYTES + 1];

	if (!has(t, "'<|start_header_id|>'+" MSG_ROLE "+'<|end_header_id|>\n\n'+" MSG_CONTENT
	            "|trim+'<|eot_id|>'"))
		return false;
	if (has(t, "'CuttingKnowledgeDate") ||
	    has(t, "'Cutting Knowledge Date: December 2023\n'")) {
		if (!literal_between(t, "date_string='", "'", date) || strlen(date) > 64)
			return false;
		plx_chat_form_llama31(c, date);
		return true;
	}
	if (has(t, "system_message"))
		return false;
	plx_chat_form_llama3(c);
	return true;
}

static bool find_llama2(struct plx_chat *c, const char *t)
{
	bool each = has(t, "bos_token+'[INST] '+content.strip()+' [/INST]'");

	if (!each && !has(t, "{{'[INST] '+content.strip()+' [/INST]'"))
		return false;
	if (!has(t, "' '+content.strip()+' '+eos_token") ||
	    !has(t, "'<<SYS>>\n'+system_message+'\n<</SYS>>\n\n'+" MSG_CONTENT) ||
	    has(t, "eliftrue==true"))
		return false; /* the last: a default system message, which varies in its text */
	plx_chat_form_llama2(c, each);
	return true;
}

/* How a Mistral template writes an answer. */
static bool find_mistral_answer(struct plx_chat_mistral *m, const char *t)
{
	m->answer_open = "";
	m->answer_close = "";
	if (has(t, "' '+" MSG_CONTENT "|trim+eos_token")) {
		m->answer_open = " ";
		m->trim_answer = true;
	} else if (has(t, "' '+" MSG_CONTENT "+eos_token")) {
		m->answer_open = " ";
	} else if (has(t, "{{" MSG_CONTENT "+eos_token+' '}}")) {
		m->answer_close = " ";
	} else if (!has(t, "{{" MSG_CONTENT "+eos_token}}")) {
		return false;
	}
	return true;
}

static bool find_mistral_system(struct plx_chat_mistral *m, const char *t)
{
	if (has(t, "loop.lastandsystem_messageisdefined"))
		m->system = PLX_CHAT_SYS_FOLD_LAST;
	else if (has(t, "loop.firstandsystem_messageisdefined"))
		m->system = PLX_CHAT_SYS_FOLD_FIRST;
	else if (!has(t, "system_message"))
		m->system = PLX_CHAT_SYS_REFUSED;
	else
		return false;
	return m->system == PLX_CHAT_SYS_REFUSED ||
	       has(t, "+system_message+'\n\n'+" MSG_CONTENT "+");
}

static bool find_mistral(struct plx_chat *c, const char *t)
{
	struct plx_chat_mistral m = {.name = "mistral-v1"};

	if (has(t, "{{' [INST] '+" MSG_CONTENT "+' [/INST]'}}")) {
		m.user_open = " [INST] ";
		m.user_close = " [/INST]";
	} else if (has(t, "{{'[INST] '+" MSG_CONTENT "+' [/INST]'}}")) {
		m.user_open = "[INST] ";
		m.user_close = " [/INST]";
	} else if (has(t, "{{'[INST] '+" MSG_CONTENT "+'[/INST]'}}")) {
		m.name = "mistral-v3";
		m.user_open = "[INST] ";
		m.user_close = "[/INST]";
	} else if (has(t, "{{'[INST]'+" MSG_CONTENT "+'[/INST]'}}")) {
		m.name = "mistral-v3";
		m.user_open = "[INST]";
		m.user_close = "[/INST]";
	} else {
		return false;
	}
	if (!has(t, "{{bos_token}}") || has(t, "[SYSTEM_PROMPT]") || !find_mistral_answer(&m, t) ||
	    !find_mistral_system(&m, t))
		return false;
	plx_chat_form_mistral(c, &m);
	return true;
}

static bool find_gemma(struct plx_chat *c, const char *t)
{
	bool plain = has(t, "'<start_of_turn>'+role+'\n'+" MSG_CONTENT "|trim+'<end_of_turn>\n'");
	bool folds = has(t, "'<start_of_turn>'+role+'\n'+(first_user_prefixifloop.firstelse'')") &&
	             has(t, "{{" MSG_CONTENT "|trim}}") && has(t, "{{'<end_of_turn>\n'}}") &&
	             has(t, "first_user_prefix=messages[0]['content']+'\n\n'");

	if (plain == folds || !has(t, "'<start_of_turn>model\n'"))
		return false;
	if (plain && !has(t, "System role not supported"))
		return false;
	plx_chat_form_gemma(c, folds);
	if (!has(t, "bos_token"))
		c->prologue.len = 0;
	return true;
}

static bool find_phi3(struct plx_chat *c, const char *t)
{
	bool by_role = has(t, "{{'<|'+" MSG_ROLE "+'|>\n'+" MSG_CONTENT "+'<|end|>\n'}}");

	if (has(t, "{{'<|user|>\n'+" MSG_CONTENT "+'<|end|>\n<|assistant|>\n'}}"))
		plx_chat_form_phi3(c, false, true);
	else if (!has(t, "{{'<|assistant|>\n'}}"))
		return false;
	else if (by_role || has(t, "{{'<|user|>\n'+" MSG_CONTENT "+'<|end|>\n'}}"))
		plx_chat_form_phi3(c, by_role || has(t, "'<|system|>\n'+" MSG_CONTENT), false);
	else
		return false;
	if (has(t, "bos_token"))
		c->prologue = plx_chat_text(c, "%s", c->bos);
	return true;
}

static bool find_family(struct plx_chat *c, const char *t)
{
	if (has(t, "<|im_start|>"))
		return find_chatml(c, t);
	if (has(t, "<|start_header_id|>"))
		return find_llama3(c, t);
	if (has(t, "<<SYS>>"))
		return find_llama2(c, t);
	if (has(t, "[INST]"))
		return find_mistral(c, t);
	if (has(t, "<start_of_turn>"))
		return find_gemma(c, t);
	return has(t, "<|end|>") && find_phi3(c, t);
}

int plx_chat_recognise(struct plx_chat *c, const char *jinja, size_t len)
{
	char *t;
	bool found;

	if (len > PLX_CHAT_MAX_TEMPLATE || memchr(jinja, '\0', len) || memchr(jinja, QUOTE, len))
		return PLX_E_UNSUPPORTED;
	t = canonical(jinja, len);
	if (!t)
		return PLX_E_NOMEM;
	found = find_family(c, t);
	c->no_generation_after_answer = has(t, "messages[-1]['role']!='assistant'");
	free(t);
	return found ? 0 : PLX_E_UNSUPPORTED;
}
