/*
 * The families' forms: the strings around each role's turns.
 */
#include "accel/model/chat_form.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "fw/base/check.h"

#define TRIM_ALL 7u

static const char *const role_names[PLX_CHAT_ROLES] = {"system", "user", "assistant"};

struct plx_chat_piece plx_chat_text(struct plx_chat *c, const char *fmt, ...)
{
	struct plx_chat_piece piece = {.ptr = c->pool + c->pool_used};
	size_t room = sizeof c->pool - c->pool_used;
	va_list ap;

	va_start(ap, fmt);
	int n = vsnprintf(c->pool + c->pool_used, room, fmt, ap);

	va_end(ap);
	PLX_CHECK(n >= 0 && (size_t)n < room);
	piece.len = (uint32_t)n;
	c->pool_used += piece.len + 1;
	return piece;
}

void plx_chat_form_chatml(struct plx_chat *c, const char *default_system)
{
	c->name = "chatml";
	c->system = PLX_CHAT_SYS_TURN;
	for (uint32_t r = 0; r < PLX_CHAT_ROLES; r++) {
		c->open[r] = plx_chat_text(c, "<|im_start|>%s\n", role_names[r]);
		c->close[r] = plx_chat_text(c, "<|im_end|>\n");
	}
	c->generation = c->open[PLX_CHAT_ASSISTANT];
	if (default_system[0])
		c->default_system =
		    plx_chat_text(c, "<|im_start|>system\n%s<|im_end|>\n", default_system);
}

void plx_chat_form_qwen3(struct plx_chat *c)
{
	plx_chat_form_chatml(c, "");
	c->name = "qwen3";
	c->think = true;
	c->think_open = plx_chat_text(c, "<think>\n");
	c->think_close = plx_chat_text(c, "\n</think>\n\n");
}

void plx_chat_form_llama2(struct plx_chat *c, bool bos_each_turn)
{
	c->name = "llama2";
	c->system = PLX_CHAT_SYS_FOLD_FIRST;
	c->trim = TRIM_ALL & ~(1u << PLX_CHAT_SYSTEM);
	c->alternate = true;
	c->fold_keeps_left = true;
	c->writes_eos = true;
	if (!bos_each_turn)
		c->prologue = plx_chat_text(c, "%s", c->bos);
	c->open[PLX_CHAT_USER] = plx_chat_text(c, "%s[INST] ", bos_each_turn ? c->bos : "");
	c->close[PLX_CHAT_USER] = plx_chat_text(c, " [/INST]");
	c->open[PLX_CHAT_ASSISTANT] = plx_chat_text(c, " ");
	c->close[PLX_CHAT_ASSISTANT] = plx_chat_text(c, " %s", c->eos);
	c->fold_open = plx_chat_text(c, "<<SYS>>\n");
	c->fold_close = plx_chat_text(c, "\n<</SYS>>\n\n");
	c->fold_close_bare = plx_chat_text(c, "\n<</SYS>>");
}

void plx_chat_form_llama3(struct plx_chat *c)
{
	c->name = "llama3";
	c->system = PLX_CHAT_SYS_TURN;
	c->trim = TRIM_ALL;
	c->prologue = plx_chat_text(c, "%s", c->bos);
	for (uint32_t r = 0; r < PLX_CHAT_ROLES; r++) {
		c->open[r] =
		    plx_chat_text(c, "<|start_header_id|>%s<|end_header_id|>\n\n", role_names[r]);
		c->close[r] = plx_chat_text(c, "<|eot_id|>");
	}
	c->generation = c->open[PLX_CHAT_ASSISTANT];
}

void plx_chat_form_llama31(struct plx_chat *c, const char *date)
{
	plx_chat_form_llama3(c);
	c->name = "llama3.1";
	c->system = PLX_CHAT_SYS_HEAD;
	c->head_open = plx_chat_text(c,
	                             "<|start_header_id|>system<|end_header_id|>\n\n"
	                             "Cutting Knowledge Date: December 2023\nToday Date: %s\n\n",
	                             date);
}

void plx_chat_form_mistral(struct plx_chat *c, const struct plx_chat_mistral *m)
{
	c->name = m->name;
	c->system = m->system;
	c->writes_eos = true;
	c->trim = m->trim_answer ? 1u << PLX_CHAT_ASSISTANT : 0;
	c->alternate = true;
	c->prologue = plx_chat_text(c, "%s", c->bos);
	c->open[PLX_CHAT_USER] = plx_chat_text(c, "%s", m->user_open);
	c->close[PLX_CHAT_USER] = plx_chat_text(c, "%s", m->user_close);
	c->open[PLX_CHAT_ASSISTANT] = plx_chat_text(c, "%s", m->answer_open);
	c->close[PLX_CHAT_ASSISTANT] = plx_chat_text(c, "%s%s", c->eos, m->answer_close);
	c->fold_close = plx_chat_text(c, "\n\n");
}

void plx_chat_form_gemma(struct plx_chat *c, bool folds_system)
{
	c->name = folds_system ? "gemma3" : "gemma";
	c->system = folds_system ? PLX_CHAT_SYS_FOLD_FIRST : PLX_CHAT_SYS_REFUSED;
	c->trim = TRIM_ALL & ~(1u << PLX_CHAT_SYSTEM);
	c->alternate = true;
	c->prologue = plx_chat_text(c, "%s", c->bos);
	c->open[PLX_CHAT_USER] = plx_chat_text(c, "<start_of_turn>user\n");
	c->open[PLX_CHAT_ASSISTANT] = plx_chat_text(c, "<start_of_turn>model\n");
	c->close[PLX_CHAT_USER] = plx_chat_text(c, "<end_of_turn>\n");
	c->close[PLX_CHAT_ASSISTANT] = c->close[PLX_CHAT_USER];
	c->generation = c->open[PLX_CHAT_ASSISTANT];
	c->fold_close = plx_chat_text(c, "\n\n");
}

/* The oldest form writes the answer's opening behind every question and nothing at the end. */
void plx_chat_form_phi3(struct plx_chat *c, bool system, bool prompts_each_question)
{
	c->name = "phi3";
	c->system = system ? PLX_CHAT_SYS_TURN : PLX_CHAT_SYS_REFUSED;
	for (uint32_t r = 0; r < PLX_CHAT_ROLES; r++) {
		c->open[r] = plx_chat_text(c, "<|%s|>\n", role_names[r]);
		c->close[r] = plx_chat_text(c, "<|end|>\n");
	}
	c->generation = c->open[PLX_CHAT_ASSISTANT];
	if (prompts_each_question) {
		c->close[PLX_CHAT_USER] = plx_chat_text(c, "<|end|>\n<|assistant|>\n");
		c->open[PLX_CHAT_ASSISTANT].len = 0;
		c->generation.len = 0;
	}
}

static const struct plx_chat_mistral mistral_v1 = {
    .name = "mistral-v1",
    .user_open = " [INST] ",
    .user_close = " [/INST]",
    .answer_open = " ",
    .answer_close = "",
    .system = PLX_CHAT_SYS_FOLD_FIRST,
};
static const struct plx_chat_mistral mistral_v3 = {
    .name = "mistral-v3",
    .user_open = "[INST] ",
    .user_close = "[/INST]",
    .answer_open = " ",
    .answer_close = "",
    .trim_answer = true,
    .system = PLX_CHAT_SYS_FOLD_LAST,
};

const char *plx_chat_names(void)
{
	return "chatml, qwen3, llama2, llama3, llama3.1, mistral-v1, mistral-v3, gemma, gemma3, "
	       "phi3";
}

bool plx_chat_by_name(struct plx_chat *c, const char *name)
{
	if (strcmp(name, "chatml") == 0)
		plx_chat_form_chatml(c, "");
	else if (strcmp(name, "qwen3") == 0)
		plx_chat_form_qwen3(c);
	else if (strcmp(name, "llama2") == 0)
		plx_chat_form_llama2(c, true);
	else if (strcmp(name, "llama3") == 0)
		plx_chat_form_llama3(c);
	else if (strcmp(name, "llama3.1") == 0)
		plx_chat_form_llama31(c, "26 Jul 2024");
	else if (strcmp(name, "mistral-v1") == 0)
		plx_chat_form_mistral(c, &mistral_v1);
	else if (strcmp(name, "mistral-v3") == 0)
		plx_chat_form_mistral(c, &mistral_v3);
	else if (strcmp(name, "gemma") == 0 || strcmp(name, "gemma3") == 0)
		plx_chat_form_gemma(c, name[5] == '3');
	else if (strcmp(name, "phi3") == 0)
		plx_chat_form_phi3(c, true, false);
	else
		return false;
	return true;
}
