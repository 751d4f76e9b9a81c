/*
 * Chat templates: messages to the text a model was trained on.
 *
 * A model file carries its template as a Jinja program. Pollux runs no programs out of files: it
 * recognises the families below by the expressions they are made of, reads the parts that vary out
 * of them (default system message, spaces, where a system message goes), and renders by itself. A
 * template it does not know is refused, never guessed at.
 *
 * The result is a list of segments that says which bytes the template wrote and which a message
 * brought, so that the tokenizer can turn <|im_start|> into a control token in the first and leave
 * it plain text in the second.
 *
 *   name        families it stands for
 *   chatml      <|im_start|>role ... <|im_end|>: SmolLM2, Qwen 1.5 to 2.5, Yi, Hermes
 *   qwen3       the same, past answers without their <think> part
 *   llama2      [INST] with <<SYS>> folded into the first user message
 *   llama3      <|start_header_id|>role<|end_header_id|>
 *   llama3.1    the same with knowledge and "today" dates in the system message (3.1 to 3.3)
 *   mistral-v1  [INST] text [/INST], answers after a space
 *   mistral-v3  [INST] text[/INST], the system message before the last user message
 *   gemma       <start_of_turn>user, model; no system message (Gemma 1, 2)
 *   gemma3      the same, the system message before the first user message
 *   phi3        <|user|> ... <|end|>
 *
 * Every template is rendered with its generation prompt, without tools, and, where it asks for
 * today's date, with the date it gives as its own fallback: the same messages give the same bytes
 * on every day.
 */
#ifndef PLX_ACCEL_MODEL_CHAT_H
#define PLX_ACCEL_MODEL_CHAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "accel/model/tokenizer.h"
#include "fw/base/diag.h"

struct plx_gguf;
struct plx_chat;

#define PLX_CHAT_MAX_TEMPLATE 262144u /* bytes of a template that are looked at */
#define PLX_CHAT_MAX_TOKEN    64u     /* bytes of the bos and eos tokens' text */

/* Numbered as on the wire. A tool's message is refused: no family is rendered with tools. */
enum plx_chat_role {
	PLX_CHAT_SYSTEM = 0,
	PLX_CHAT_USER = 1,
	PLX_CHAT_ASSISTANT = 2,
};

struct plx_chat_msg {
	const char *text; /* any bytes; NULL only where len is 0 */
	uint32_t len;
	uint32_t role; /* enum plx_chat_role */
};

/* A piece of the prompt. ptr points into the chat object (template) or a message (content). */
struct plx_chat_seg {
	const char *ptr;
	uint32_t len; /* at least 1 */
	bool content; /* from a message: to be tokenised with special tokens off */
};

/* Segments that n messages can need. */
#define PLX_CHAT_SEGS(n) (6u * (n) + 6u)

/*
 * plx_chat_open - recognise the template of an open model file, or take the one named.
 *
 * @name  one of the names above (the --chat-template option); NULL or "": the file's own.
 *
 * A named template is the family's plain form: no default system message.
 *
 * Owner:  the caller; plx_chat_free. The file may be closed afterwards.
 * Errors: NOT_FOUND (the file has no template), UNSUPPORTED (an unknown template or name), FORMAT
 *         (keys of a wrong type, no eos token where the template writes one), NOMEM. d names
 *         --chat-template and the known names.
 */
int plx_chat_open(const struct plx_gguf *g, const char *name, struct plx_chat **out,
                  struct plx_diag *d);

/* What plx_chat_open reads from a file; the seam for tests and fuzzers. Everything is copied. */
struct plx_chat_source {
	const char *file;         /* what messages call it */
	const char *template_ptr; /* the Jinja text; NULL: none */
	size_t template_len;
	const char *name; /* as plx_chat_open's */
	const char *bos;  /* text of the bos token, "" where there is none */
	const char *eos;
};

/* plx_chat_build - plx_chat_open from texts instead of a file; the same errors. */
int plx_chat_build(const struct plx_chat_source *src, struct plx_chat **out, struct plx_diag *d);

/* plx_chat_free - release; NULL is accepted. */
void plx_chat_free(struct plx_chat *c);

/* plx_chat_name - which family: one of the names above. */
const char *plx_chat_name(const struct plx_chat *c);

/* plx_chat_names - all of them, for messages: "chatml, qwen3, ...". */
const char *plx_chat_names(void);

/*
 * plx_chat_render - messages to segments, generation prompt included.
 *
 * What a family's template raises an exception for is BAD_REQUEST here: roles that don't alternate
 * (llama2, mistral, gemma), a system message where it has none. So is a system message that a
 * template would drop without a word, and one that is not the first where the family has no turns
 * for it (llama2, mistral, gemma). Where a template trims contents (llama2, llama3, gemma), what
 * counts as white space is what Python's str.strip takes.
 *
 * @segs  out [max]; PLX_CHAT_SEGS(n_msgs) always suffice.
 *
 * Returns the number of segments. Errors: BAD_REQUEST (no messages, an unknown role, or the
 *         above), TOO_LARGE (more than max segments).
 * Owner:  segments point into c and the messages.
 * Thread: any; c is read only.  Cost: O(n_msgs, and the bytes of qwen3 answers); no allocation.
 */
int plx_chat_render(const struct plx_chat *c, const struct plx_chat_msg *msgs, uint32_t n_msgs,
                    struct plx_chat_seg *segs, uint32_t max);

/*
 * plx_chat_render_more - messages that come after an answer the model gave: the end of its turn,
 * the new turns, the generation prompt. Together with the ids that were run and generated before
 * they are the whole conversation. Arguments, returns and the rest as plx_chat_render.
 *
 * The answer stays as the model wrote it: where a template would strip white space around it, the
 * ids differ from those of the conversation rendered as one.
 *
 * Errors: also UNSUPPORTED where later turns change earlier ones (qwen3 drops thoughts, mistral-v3
 *         moves the system message): then the whole conversation has to be rendered again.
 *         A system message is BAD_REQUEST where the family has no turns for it.
 */
int plx_chat_render_more(const struct plx_chat *c, const struct plx_chat_msg *msgs, uint32_t n_msgs,
                         struct plx_chat_seg *segs, uint32_t max);

/* What plx_chat_join fills: one text and the spans of it that are content. */
struct plx_chat_prompt {
	char *text; /* out [max_text] */
	uint32_t max_text;
	uint32_t len;              /* out */
	struct plx_tok_span *span; /* out [max_span] */
	uint32_t max_span;
	uint32_t n_span; /* out */
};

/*
 * plx_chat_join - segments to one text with spans, as plx_tok_begin takes them: with flags
 * PLX_TOK_SPECIALS | PLX_TOK_BOS (a template that writes bos itself is not given a second one).
 *
 * Errors: TOO_LARGE (text or spans).  Cost: one copy of the text.
 */
int plx_chat_join(const struct plx_chat_seg *segs, uint32_t n_segs, struct plx_chat_prompt *p);

#endif
