/* Collecting and printing an answer. */
#include "tools/ask/answer.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

static const char *finish_name(enum plx_client_finish f)
{
	switch (f) {
	case PLX_CLIENT_FINISH_EOS:
		return "end of text";
	case PLX_CLIENT_FINISH_STOP:
		return "stop string";
	case PLX_CLIENT_FINISH_LENGTH:
		return "length";
	case PLX_CLIENT_FINISH_CONTEXT:
		return "context full";
	case PLX_CLIENT_FINISH_DEADLINE:
		return "deadline";
	case PLX_CLIENT_FINISH_FAULT:
		return "fault";
	}
	return "unknown";
}

void plx_ask_answer_init(struct plx_ask_answer *a, const struct plx_ask_options *o)
{
	*a = (struct plx_ask_answer){
	    .o = o, .to_terminal = isatty(STDOUT_FILENO), .begin_ns = plx_client_now_ns()};
}

void plx_ask_answer_free(struct plx_ask_answer *a)
{
	for (uint32_t i = 0; i < PLX_CLIENT_SAMPLES_MAX; i++) {
		free(a->sample[i].text);
		free(a->sample[i].token);
	}
}

/* ---- printing text ---- */

/* A terminal obeys control characters; an answer must not command it. */
static void print_safe(const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		unsigned char ch = (unsigned char)s[i];
		unsigned char next = i + 1 < n ? (unsigned char)s[i + 1] : 0;

		if (ch == 0xc2 && next >= 0x80 && next < 0xa0) {
			putchar('?'); /* C1 controls, U+0080 to U+009F */
			i++;
		} else if ((ch < 0x20 && ch != '\n' && ch != '\t') || ch == 0x7f) {
			putchar('?');
		} else {
			putchar(ch);
		}
	}
}

static void print_text(const struct plx_ask_answer *a, const char *s, size_t n)
{
	if (a->to_terminal)
		print_safe(s, n);
	else
		fwrite(s, 1, n, stdout);
}

static bool streams(const struct plx_ask_answer *a)
{
	return !a->o->json && a->o->req.n_samples == 1;
}

static void stream(struct plx_ask_answer *a, const struct plx_client_tokens *t)
{
	if (a->o->ids)
		for (uint32_t i = 0; i < t->count; i++)
			printf("%s%u", a->streamed || i ? " " : "", t->ids[i]);
	else
		print_text(a, t->text, t->text_bytes);
	a->streamed = true;
	fflush(stdout);
}

/* ---- collecting ---- */

static bool grow(void **p, size_t *cap, size_t need, size_t size)
{
	size_t want = *cap ? *cap : 256;

	while (want < need)
		want *= 2;
	if (want == *cap)
		return true;
	void *q = realloc(*p, want * size);

	if (!q)
		return false;
	*p = q;
	*cap = want;
	return true;
}

static bool keep(struct plx_ask_sample *s, const struct plx_client_tokens *t)
{
	void *text = s->text, *token = s->token;
	bool ok = grow(&text, &s->text_cap, s->n_text + t->text_bytes + 1, 1) &&
	          grow(&token, &s->token_cap, s->n_tokens + t->count, sizeof(*s->token));

	s->text = text;
	s->token = token;
	if (!ok)
		return false;
	memcpy(s->text + s->n_text, t->text, t->text_bytes);
	s->n_text += t->text_bytes;
	s->text[s->n_text] = 0;
	for (uint32_t i = 0; i < t->count; i++) {
		struct plx_ask_token *k = &s->token[s->n_tokens++];

		k->id = t->ids[i];
		k->logprob = t->logprobs ? t->logprobs[i] : 0;
		k->n_top = t->n_top;
		if (t->n_top)
			memcpy(k->top, t->top + (size_t)i * t->n_top, t->n_top * sizeof(k->top[0]));
	}
	return true;
}

static void restart(struct plx_ask_answer *a)
{
	for (uint32_t i = 0; i < PLX_CLIENT_SAMPLES_MAX; i++)
		a->sample[i].n_text = a->sample[i].n_tokens = 0;
	if (a->streamed)
		fputs("\n\n[the appliance was restarted; the answer begins anew]\n", stderr);
	a->streamed = false;
	a->first_ns = 0;
}

bool plx_ask_answer_event(struct plx_ask_answer *a, const struct plx_client_event *ev)
{
	if (ev->type == PLX_CLIENT_EV_RESTART)
		restart(a);
	if (ev->type == PLX_CLIENT_EV_DONE) {
		a->done = ev->done;
		a->done.samples = NULL;
		for (uint32_t i = 0; i < ev->done.n_samples; i++) {
			a->sample[i].finish = ev->done.samples[i].finish;
			a->sample[i].left = ev->done.samples[i].left_tokens;
			a->sample[i].mean = ev->done.samples[i].mean_logprob;
		}
	}
	if (ev->type != PLX_CLIENT_EV_TOKENS)
		return true;
	a->last_ns = plx_client_now_ns();
	if (!a->first_ns)
		a->first_ns = a->last_ns;
	if (streams(a))
		stream(a, &ev->tokens);
	return keep(&a->sample[ev->tokens.sample], &ev->tokens);
}

/* ---- JSON ---- */

static json_t *json_text(const char *s, size_t n)
{
	json_t *j = json_stringn(s ? s : "", s ? n : 0);

	return j ? j : json_stringn_nocheck("", 0);
}

static json_t *json_tops(const struct plx_ask_token *k)
{
	json_t *list = json_array();

	for (uint32_t i = 0; i < k->n_top; i++)
		json_array_append_new(list, json_pack("{s:I, s:f}", "id", (json_int_t)k->top[i].id,
		                                      "logprob", (double)k->top[i].logprob));
	return list;
}

static json_t *json_sample(const struct plx_ask_answer *a, const struct plx_ask_sample *s)
{
	json_t *j = json_object(), *ids = json_array(), *probs = json_array(), *tops = json_array();

	for (size_t i = 0; i < s->n_tokens; i++) {
		json_array_append_new(ids, json_integer((json_int_t)s->token[i].id));
		json_array_append_new(probs, json_real((double)s->token[i].logprob));
		json_array_append_new(tops, json_tops(&s->token[i]));
	}
	json_object_set_new(j, "text", json_text(s->text, s->n_text));
	json_object_set_new(j, "ids", ids);
	if (a->o->req.logprobs) {
		json_object_set(j, "logprobs", probs);
		json_object_set(j, "top", tops);
	}
	json_decref(probs);
	json_decref(tops);
	json_object_set_new(j, "finish", json_string(finish_name(s->finish)));
	if (a->o->req.best_of)
		json_object_set_new(j, "mean_logprob", json_real((double)s->mean));
	if (a->o->req.allow_compression)
		json_object_set_new(j, "left_tokens", json_integer(s->left));
	return j;
}

static const char *const stage_name[PLX_CLIENT_NS_COUNT] = {
    "receive", "tokenize", "queue", "prefill", "decode", "detokenize", "send", "first token"};

static void print_json(const struct plx_ask_answer *a)
{
	json_t *j = json_object(), *list = json_array(), *ns = json_object();

	for (uint32_t i = 0; i < a->o->req.n_samples; i++)
		json_array_append_new(list, json_sample(a, &a->sample[i]));
	for (uint32_t i = 0; i < PLX_CLIENT_NS_COUNT; i++)
		json_object_set_new(ns, stage_name[i],
		                    json_integer((json_int_t)a->done.stage_ns[i]));
	json_object_set_new(j, "samples", list);
	json_object_set_new(j, "prompt_tokens", json_integer(a->done.prompt_tokens));
	json_object_set_new(j, "cached_tokens", json_integer(a->done.cached_tokens));
	if (a->o->req.keep_ratio > 0 || a->o->req.max_loss > 0) {
		json_object_set_new(j, "pruned_tokens", json_integer(a->done.pruned_tokens));
		json_object_set_new(j, "evicted_tokens", json_integer(a->done.evicted_tokens));
		json_object_set_new(j, "loss", json_real((double)a->done.loss));
	}
	if (a->o->req.best_of) {
		json_object_set_new(j, "made_samples", json_integer(a->done.made_samples));
		json_object_set_new(j, "made_tokens", json_integer(a->done.made_tokens));
	}
	if (a->o->req.attend_mass) {
		json_object_set_new(j, "attention_share", json_real((double)a->done.share_mean));
		json_object_set_new(j, "attention_least", json_real((double)a->done.share_least));
	}
	json_object_set_new(j, "numeric_kind", json_integer(a->done.numeric_kind));
	json_object_set_new(j, "ttft_ns", json_integer((json_int_t)a->done.ttft_ns));
	json_object_set_new(j, "total_ns", json_integer((json_int_t)a->done.total_ns));
	json_object_set_new(j, "stage_ns", ns);
	json_dumpf(j, stdout, JSON_COMPACT);
	putchar('\n');
	json_decref(j);
}

/* ---- the rest of the output ---- */

static void print_logprobs(const struct plx_ask_sample *s)
{
	for (size_t i = 0; i < s->n_tokens; i++) {
		const struct plx_ask_token *k = &s->token[i];

		printf("%6zu  id %6u  logprob %9.4f ", i, k->id, (double)k->logprob);
		for (uint32_t t = 0; t < k->n_top; t++)
			printf("  %u %.4f", k->top[t].id, (double)k->top[t].logprob);
		putchar('\n');
	}
}

void plx_ask_answer_print(const struct plx_ask_answer *a)
{
	if (a->o->json) {
		print_json(a);
		return;
	}
	if (streams(a))
		putchar('\n');
	for (uint32_t i = 0; !streams(a) && i < a->o->req.n_samples; i++) {
		const struct plx_ask_sample *s = &a->sample[i];

		printf("--- answer %u of %u ---\n", i + 1, a->o->req.n_samples);
		if (a->o->ids)
			for (size_t k = 0; k < s->n_tokens; k++)
				printf("%s%u", k ? " " : "", s->token[k].id);
		else
			print_text(a, s->text, s->n_text);
		putchar('\n');
	}
	for (uint32_t i = 0; a->o->req.logprobs && i < a->o->req.n_samples; i++)
		print_logprobs(&a->sample[i]);
	fflush(stdout);
}

static double ms(uint64_t ns)
{
	return (double)ns / 1e6;
}

static double rate(uint64_t n, uint64_t ns)
{
	return ns ? (double)n * 1e9 / (double)ns : 0;
}

/* One line of the table: what it is, milliseconds, share of the whole. */
static void line(const char *name, uint64_t ns, uint64_t whole)
{
	fprintf(stderr, "  %-12s %10.3f ms  %5.1f %%\n", name, ms(ns),
	        whole ? 100.0 * (double)ns / (double)whole : 0);
}

static void print_stages(const struct plx_client_done *d)
{
	uint64_t known = 0;

	fprintf(stderr, "where the time went:\n");
	for (uint32_t i = 0; i < PLX_CLIENT_NS_TTFT; i++) {
		known += d->stage_ns[i];
		line(stage_name[i], d->stage_ns[i], d->total_ns);
	}
	line("network, rest", d->total_ns > known ? d->total_ns - known : 0, d->total_ns);
	line("total", d->total_ns, d->total_ns);
}

void plx_ask_answer_figures(const struct plx_ask_answer *a)
{
	const struct plx_client_done *d = &a->done;
	uint64_t n = 0, first = a->first_ns ? a->first_ns : a->begin_ns;

	for (uint32_t i = 0; i < d->n_samples; i++)
		n += a->sample[i].n_tokens;
	fprintf(stderr, "\ntime to first token: %.1f ms (%.1f ms at the appliance)\n",
	        ms(d->ttft_ns), ms(d->stage_ns[PLX_CLIENT_NS_TTFT]));
	fprintf(stderr, "prompt: %u tokens, %u of them cached, %.1f tokens/s\n", d->prompt_tokens,
	        d->cached_tokens,
	        rate(d->prompt_tokens - d->cached_tokens, d->stage_ns[PLX_CLIENT_NS_PREFILL]));
	fprintf(stderr, "answer: %llu tokens, %.1f tokens/s, ended by %s\n", (unsigned long long)n,
	        rate(n > d->n_samples ? n - d->n_samples : 0, a->last_ns - first),
	        finish_name(a->sample[0].finish));
	if (a->sample[0].left > 0)
		fprintf(stderr, "context: the last token was made without %u older ones\n",
		        a->sample[0].left);
	if (a->o->req.best_of)
		fprintf(stderr, "best of %u: %u tokens made in all, mean log-probability %.4f\n",
		        d->made_samples, d->made_tokens, (double)a->sample[0].mean);
	if (a->o->req.attend_mass)
		fprintf(stderr,
		        "attention: %.1f %% of it read, %.1f %% at least, in %.0f %% of the "
		        "positions\n",
		        100 * (double)d->share_mean, 100 * (double)d->share_least,
		        100 * (double)d->share_read);
	if (a->o->req.keep_ratio > 0 || a->o->req.max_loss > 0)
		fprintf(stderr,
		        "compression: %u prompt tokens removed before they were run, the memory of "
		        "%u given up, estimated loss %.3f\n",
		        d->pruned_tokens, d->evicted_tokens, (double)d->loss);
	print_stages(d);
}

/* ---- refusals ---- */

static const char *remedy(int err)
{
	switch (err) {
	case PLX_E_QUEUE_FULL:
		return "too many requests are waiting; try again later, or give it more devices";
	case PLX_E_DEADLINE_UNMEETABLE:
		return "give a later --deadline, a shorter prompt or fewer --max-new";
	case PLX_E_TOO_LARGE:
		return "shorten the prompt, ask for fewer tokens or answers, or give "
		       "--beyond-context";
	case PLX_E_NO_MODEL:
		return "see --models for the ids that are loaded";
	case PLX_E_UNAUTHORISED:
		return "our key does not allow this; ask for another, or a lower --priority";
	case PLX_E_DRAINING:
		return "the appliance is shutting down; ask another one, or after its restart";
	case PLX_E_KV_PRESSURE:
		return "memory for contexts is used up; try again later, with fewer --max-new";
	case PLX_E_BAD_REQUEST:
		return "correct the request";
	case PLX_E_DEVICE_LOST:
		return "the device failed while it ran; try again";
	default:
		return "see the protocol's specification";
	}
}

void plx_ask_explain(const struct plx_client_reject *r)
{
	fprintf(stderr, "plx-ask: rejected (%s): %s%s%s; %s\n", plx_err_name(r->err),
	        plx_err_help(r->err), r->detail[0] ? ": " : "", r->detail, remedy(r->err));
	if (r->retry_after_us)
		fprintf(stderr,
		        "plx-ask: worth another try in %.1f ms; %u tokens wait, %u sequences run\n",
		        (double)r->retry_after_us / 1e3, r->load.queued_tokens,
		        r->load.running_sequences);
}
