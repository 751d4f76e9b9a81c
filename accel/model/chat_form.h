/*
 * What is known about a template once it is recognised: the strings around each turn and the few
 * rules in which families differ. Rendering (chat.c) needs nothing else; recognising (chat_find.c)
 * and naming (chat_form.c) fill it.
 */
#ifndef PLX_ACCEL_MODEL_CHAT_FORM_H
#define PLX_ACCEL_MODEL_CHAT_FORM_H

#include "accel/model/chat.h"

#define PLX_CHAT_ROLES         3u
#define PLX_CHAT_DEFAULT_BYTES 1024u /* a template's own default system message */
#define PLX_CHAT_POOL_BYTES    4096u

struct plx_chat_piece {
	const char *ptr;
	uint32_t len;
};

/* Where a system message that comes first goes. */
enum plx_chat_system {
	PLX_CHAT_SYS_TURN,       /* a turn of its own, anywhere */
	PLX_CHAT_SYS_HEAD,       /* a turn that is always there, with text of its own before it */
	PLX_CHAT_SYS_FOLD_FIRST, /* into the first user message */
	PLX_CHAT_SYS_FOLD_LAST,  /* into the last user message */
	PLX_CHAT_SYS_REFUSED,
};

struct plx_chat {
	const char *name;
	struct plx_chat_piece prologue;       /* bos where the template writes it */
	struct plx_chat_piece default_system; /* whole turn, for prompts that bring none */
	struct plx_chat_piece head_open;      /* SYS_HEAD */
	struct plx_chat_piece open[PLX_CHAT_ROLES];
	struct plx_chat_piece close[PLX_CHAT_ROLES];
	struct plx_chat_piece generation; /* generation prompt */
	struct plx_chat_piece fold_open;  /* around a folded system message */
	struct plx_chat_piece fold_close;
	struct plx_chat_piece fold_close_bare; /* before a user message that trims to nothing */
	struct plx_chat_piece think_open;      /* qwen3, an answer after the last question */
	struct plx_chat_piece think_close;
	enum plx_chat_system system;
	uint32_t trim;                   /* bit per role: contents are stripped */
	bool alternate;                  /* user, assistant, user ... or an error */
	bool fold_keeps_left;            /* the user message folded into is stripped on the right */
	bool no_generation_after_answer; /* no generation prompt where an answer comes last */
	bool think;                      /* qwen3's handling of <think> */
	bool writes_eos;                 /* the model's eos token is part of the form */
	char bos[PLX_CHAT_MAX_TOKEN + 1];
	char eos[PLX_CHAT_MAX_TOKEN + 1];
	uint32_t pool_used;
	char pool[PLX_CHAT_POOL_BYTES]; /* behind the pieces */
};

/* plx_chat_text - format into the pool; lengths are bounded by what callers may pass. */
__attribute__((format(printf, 2, 3))) struct plx_chat_piece plx_chat_text(struct plx_chat *c,
                                                                          const char *fmt, ...);

/* How the two Mistral dialects spell things. */
struct plx_chat_mistral {
	const char *name;
	const char *user_open;
	const char *user_close;
	const char *answer_open;
	const char *answer_close; /* after eos */
	bool trim_answer;
	enum plx_chat_system system;
};

/* The families' plain forms; bos, where given, stands for "the template writes it". */
void plx_chat_form_chatml(struct plx_chat *c, const char *default_system);
void plx_chat_form_qwen3(struct plx_chat *c);
void plx_chat_form_llama2(struct plx_chat *c, bool bos_each_turn);
void plx_chat_form_llama3(struct plx_chat *c);
void plx_chat_form_llama31(struct plx_chat *c, const char *date);
void plx_chat_form_mistral(struct plx_chat *c, const struct plx_chat_mistral *m);
void plx_chat_form_gemma(struct plx_chat *c, bool folds_system);
void plx_chat_form_phi3(struct plx_chat *c, bool system, bool prompts_each_question);

/* plx_chat_by_name - fill c with the named family's plain form; false for an unknown name. */
bool plx_chat_by_name(struct plx_chat *c, const char *name);

/* plx_chat_recognise - fill c from a Jinja template; NOMEM, or UNSUPPORTED for an unknown one. */
int plx_chat_recognise(struct plx_chat *c, const char *jinja, size_t len);

#endif
