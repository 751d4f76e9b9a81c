/*
 * What compression brings and costs, with the real model, on questions of our own.
 *
 *   bench_compress [model.gguf [what [questions]]]
 *
 *   what   held    (the default) the questions of tests/data/compress_held.txt, with which nothing
 *                  was chosen: every way and ratio
 *          qa      the same of tests/data/compress_qa.txt, with which units and layers were chosen
 *          layers  of compress_qa.txt: pruned to half by scores of the first layers alone
 *          long    of compress_held.txt, each question behind 14 passages of both files, its own
 * among them
 *
 * A question comes behind its passage in one user message. The passages may be touched, the rest
 * not. A line for each way and ratio of tokens kept, of the whole prompt; the ways take turns,
 * question by question:
 *
 *   prompt     units of low self-information left out before prefill (batch/compress.h), scored by
 *              so many layers; the first token is timed with the scoring pass in front
 *   kv         KV that the prompt's last tokens attend to least (batch/compress_kv.h)
 *   random     as many tokens of the passage as `prompt`, any of them; what is marked KEEP stays
 *   cut        the passage's beginning cut off, as many tokens
 *
 * Answered: the greedy answer has the expected word, of the questions. KL: of the model's next
 * token, full prompt against compressed, over the full prompt's greedy continuation, in nats a
 * token, with the standard error over questions. First token: median, least and most over
 * questions, and the median of its ratio to the full prompt's. KV: of the prompt, when the first
 * token is out and the step behind it came back.
 */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "accel/cpu.h"
#include "accel/model/chat.h"
#include "accel/model/tokenizer.h"
#include "dataplane/batch/compress_kv.h"
#include "dataplane/batch/sched.h"
#include "fw/base/check.h"
#include "fw/base/clock.h"
#include "fw/base/err.h"
#include "tests/lib/devkit.h"
#include "tests/lib/model_path.h"

#define MAX_IDS  4096u
#define MAX_TEXT 32768u
#define CHUNK    256u
#define SPAN     PLX_SCHED_SCORE_SPAN
#define LAYERS   1u  /* that score, unless said; the default of limits.score_layers */
#define N_LONG   14u /* passages before a question */
#define MAX_VAR  24u
#define N_FORCED 12u
#define N_ANSWER 24u
#define MAX_Q    32u
#define BT       16u

enum way { FULL, PROMPT, KV, RANDOM, CUT };
static const char *const way_name[] = {"full", "prompt", "kv", "random", "cut"};

struct question {
	const char *passage, *text, *answer; /* NUL-terminated, in the file's buffer */
	uint32_t number;                     /* of its passage */
};

/* A line: what is done. */
struct variant {
	enum way way;
	float ratio;
	uint32_t layers; /* that score; 0: all */
};

/* One question as it is run. */
struct prompt {
	uint32_t n, first, end; /* tokens of the passage: [first, end) */
	int32_t ids[MAX_IDS];
	uint8_t mark[MAX_IDS];
	float logprob[MAX_IDS];
	double score_ns;
	uint32_t n_forced;
	int32_t forced[N_FORCED];
	float *want; /* [N_FORCED][n_vocab] log-probabilities */
};

/* Sums of a line. */
struct line {
	uint32_t n, right;
	double kl, kl2, kept, loss, first_ms[MAX_Q], to_full[MAX_Q], kv_tokens;
};

static struct devkit kit;
static struct plx_tok *tok;
static struct plx_tok_scratch *scratch;
static struct plx_chat *chat;
static char files[2][32768];
static struct question question[MAX_Q];
static uint32_t n_question;
static const char *passage[MAX_Q];
static uint32_t n_passage;
static struct prompt prompt;
static double full_ms; /* of the question at hand */

static char *trim(char *s)
{
	char *e = s + strlen(s);

	while (e > s && isspace((unsigned char)e[-1]))
		*--e = 0;
	return s + strspn(s, " \n");
}

/* Passages by =====, their questions by lines "Q: text | answer", or "| answer/another". */
static void read_questions(const char *path, char *file)
{
	FILE *f = fopen(path, "r");

	PLX_CHECK(f != NULL);
	file[fread(file, 1, sizeof(files[0]) - 1, f)] = 0;
	fclose(f);
	for (char *part = file, *next; part; part = next) {
		next = strstr(part, "=====\n");
		if (next) {
			*next = 0;
			next += 6;
		}
		char *q = strstr(part, "Q: ");

		while (q && n_question < MAX_Q) {
			char *bar = strstr(q, " | "), *more = bar ? strstr(bar, "\nQ: ") : NULL;

			PLX_CHECK(bar != NULL);
			q[-1] = *bar = 0;
			if (more)
				*more++ = 0;
			question[n_question++] =
			    (struct question){trim(part), trim(q + 3), trim(bar + 3), n_passage};
			q = more;
		}
		passage[n_passage++] = trim(part);
	}
}

static struct plx_step *step(void)
{
	return devkit_step(&kit, 0);
}

static void run(void)
{
	PLX_CHECK(plx_queue_submit(kit.q, 0) == 0);
	(void)devkit_wait(&kit);
	PLX_CHECK(plx_queue_step(kit.q, 0)->status == 0);
}

/* The passages that come before a question: n of them, its own somewhere among them. */
static uint32_t passages(const struct question *q, uint32_t n, char *out)
{
	uint32_t used = 0, own = q->number * 7 % n;

	for (uint32_t i = 0; i < n; i++)
		used +=
		    (uint32_t)snprintf(out + used, MAX_TEXT - used, "%s%s", i > 0 ? "\n" : "",
		                       passage[(q->number + n_passage * n - own + i) % n_passage]);
	return used;
}

static void make_prompt(const struct question *q, uint32_t n_before, struct prompt *p)
{
	static char text[MAX_TEXT], content[MAX_TEXT];
	static uint32_t end[MAX_IDS];
	struct plx_chat_seg seg[PLX_CHAT_SEGS(1)];
	struct plx_tok_span span[PLX_CHAT_SEGS(1)];
	struct plx_chat_prompt join = {
	    .text = text, .max_text = MAX_TEXT, .span = span, .max_span = PLX_CHAT_SEGS(1)};

	uint32_t len = passages(q, n_before, content);

	snprintf(content + len, sizeof(content) - len, "\n\n%s", q->text);
	p->first = p->end = p->n_forced = 0;
	struct plx_chat_msg m = {content, (uint32_t)strlen(content), PLX_CHAT_USER};
	int n = plx_chat_render(chat, &m, 1, seg, PLX_CHAT_SEGS(1));

	PLX_CHECK(n > 0 && plx_chat_join(seg, (uint32_t)n, &join) == 0);
	struct plx_tok_job job = {
	    text, join.len, PLX_TOK_SPECIALS | PLX_TOK_BOS, span, join.n_span, p->ids, MAX_IDS};

	PLX_CHECK(plx_tok_begin(scratch, &job) == 0);
	while ((n = plx_tok_step(scratch, UINT32_MAX)) == PLX_E_AGAIN)
		;
	PLX_CHECK(n > 0);
	p->n = (uint32_t)n;
	text[join.len] = 0;
	uint32_t at = 0, from = (uint32_t)(strstr(text, content) - text);
	struct plx_compress_span touch = {from, from + len, false};

	for (uint32_t i = 0; i < p->n; i++) {
		uint32_t piece_len;
		const uint8_t *piece = plx_tok_piece(tok, p->ids[i], &piece_len);

		PLX_CHECK(plx_compress_follow(text, join.len, &at, piece, piece_len));
		end[i] = at;
		p->first += at <= touch.first;
		p->end += at <= touch.end;
	}
	plx_compress_mark(text, end, p->n, &touch, 1, p->mark);
}

static double now_ms(uint64_t since)
{
	return (double)(plx_clock_ns() - since) / 1e6;
}

/* The slot anew, with blocks for everything. */
static struct plx_step *begin(void)
{
	static bool set;
	struct plx_sampler greedy = devkit_greedy();
	struct plx_step *s = step();

	if (set)
		devkit_clear(s, 0);
	set = true;
	devkit_set(s, 0, &greedy);
	devkit_blocks(s, 0, 0, MAX_IDS / BT, 0);
	return s;
}

/* Runs ids from 0 on in chunks; with observe the last one says what it attends to. Returns the id
 * that comes next. */
static int32_t prefill(const int32_t *ids, uint32_t n, bool observe)
{
	struct plx_step *s = begin();

	for (uint32_t at = 0; at < n;) {
		uint32_t k = n - at > CHUNK ? CHUNK : n - at;

		if (n - at > k && n - at - k < PLX_OBSERVE_QUERIES)
			k = n - at - PLX_OBSERVE_QUERIES;
		s = at == 0 ? s : step();
		struct plx_step_seq *q = devkit_seq(s, 0, ids + at, at, k, at + k == n);

		if (observe && at + k == n)
			q->flags |= PLX_SEQF_OBSERVE;
		run();
		at += k;
	}
	return plx_step_outs(s)[0].id[0];
}

/* Scores by the first layers, in windows as the scheduler does; 0: by all of them. The device has
 * one number of layers for its life, so the bench sets it from outside, between steps. */
static void score(struct prompt *p, uint32_t layers)
{
	struct plx_cpu *cpu = (struct plx_cpu *)(void *)kit.dev;
	uint64_t t = plx_clock_ns();
	struct plx_step *s = begin();

	cpu->fwd.lim.early_layers = layers;
	for (uint32_t at = 0; at < p->n;) {
		uint32_t left = SPAN - at % SPAN, k = left < CHUNK ? left : CHUNK;

		k = p->n - at > k ? k : p->n - at;
		s = at == 0 ? s : step();
		struct plx_step_seq *q = devkit_seq(s, 0, p->ids + at, at % SPAN, k, false);
		struct plx_step_tok *tk = plx_step_toks(s);

		q->flags |= layers > 0 ? (uint32_t)PLX_SEQF_EARLY : 0u;
		for (uint32_t i = 0; i < k && at + i + 1 < p->n; i++) {
			tk[i].flags = PLX_TOKF_SCORE;
			tk[i].pos[1] = (uint32_t)p->ids[at + i + 1];
		}
		run();
		for (uint32_t i = 0; i < k && at + i + 1 < p->n; i++)
			memcpy(&p->logprob[at + i + 1], &tk[i].pos[2], sizeof(float));
		at += k;
	}
	p->score_ns = (double)(plx_clock_ns() - t);
}

/* Log-probabilities of the last step's one row. */
static void log_softmax(float *out)
{
	const float *x = devkit_logits(&kit, 0);
	uint32_t n = kit.model->n_vocab;
	double most = -INFINITY, sum = 0;

	for (uint32_t i = 0; i < n; i++)
		most = fmax(most, (double)x[i]);
	for (uint32_t i = 0; i < n; i++)
		sum += exp((double)x[i] - most);
	for (uint32_t i = 0; i < n; i++)
		out[i] = (float)((double)x[i] - most - log(sum));
}

static double kl(const float *p, const float *q)
{
	double sum = 0;

	for (uint32_t i = 0; i < kit.model->n_vocab; i++)
		sum += exp((double)p[i]) * ((double)p[i] - (double)q[i]);
	return sum;
}

/* Every way to leave n tokens' worth out; returns how many ids stay. */
static uint32_t leave_out(const struct variant *v, struct prompt *p, int32_t *ids, double *loss)
{
	struct plx_compress_goal goal = {false, v->ratio};
	enum way way = v->way;
	struct plx_compress_result r;
	uint32_t n = 0, rng = p->n * 2654435761u, go, left = p->end - p->first;

	memcpy(ids, p->ids, p->n * sizeof(*ids));
	score(p, v->layers);
	uint32_t stay = plx_compress_prune(ids, p->mark, p->logprob, p->n, &goal, &r);

	*loss = (double)r.loss;
	if (way == PROMPT)
		return stay;
	*loss = 0;
	go = p->n - stay;
	if (way == RANDOM) {
		left = 0;
		for (uint32_t i = p->first; i < p->end; i++)
			left += !(p->mark[i] & PLX_MARK_KEEP);
	}
	for (uint32_t i = 0; i < p->n; i++) {
		bool may =
		    i >= p->first && i < p->end && (way == CUT || !(p->mark[i] & PLX_MARK_KEEP));
		bool goes = false;

		rng = rng * 1664525u + 1013904223u;
		if (may && go > 0)
			goes = way == CUT || rng / 65536 % left < go;
		left -= may && left > 0;
		go -= goes;
		if (!goes)
			ids[n++] = p->ids[i];
	}
	return n;
}

static bool answered(const int32_t *ids, uint32_t n, const char *answer)
{
	char text[1024], want[64];
	uint32_t used = 0;

	for (uint32_t i = 0; i < n; i++) {
		uint32_t len;
		const uint8_t *piece = plx_tok_piece(tok, ids[i], &len);

		for (uint32_t k = 0; k < len && used + 1 < sizeof(text); k++)
			text[used++] = (char)tolower(piece[k]);
	}
	text[used] = 0;
	for (size_t len; *answer; answer += len + (answer[len] == '/')) {
		len = strcspn(answer, "/");
		snprintf(want, sizeof(want), "%.*s", (int)len, answer);
		for (char *c = want; *c; c++)
			*c = (char)tolower((unsigned char)*c);
		if (strstr(text, want))
			return true;
	}
	return false;
}

/* The tokens behind place n: greedy until the end of text; then again, forced, for the KL. */
static void go_on(struct prompt *p, const char *answer, uint32_t n, int32_t first, struct line *l)
{
	int32_t said[N_ANSWER] = {first};
	uint32_t k = 1;
	double sum = 0;
	static float *got;

	got = got ? got : malloc(kit.model->n_vocab * sizeof(float));
	PLX_CHECK(got != NULL);
	for (; k < N_ANSWER && !plx_tok_is_eog(tok, said[k - 1]); k++) {
		(void)devkit_seq(step(), 0, &said[k - 1], n + k - 1, 1, true);
		run();
		said[k] = plx_step_outs(plx_queue_step(kit.q, 0))[0].id[0];
	}
	l->right += answered(said, k, answer);
	bool full = p->n_forced == 0;

	if (full) {
		p->n_forced = k < N_FORCED ? k : N_FORCED;
		memcpy(p->forced, said, p->n_forced * sizeof(said[0]));
	}
	for (uint32_t i = 0; i < p->n_forced; i++) {
		float *to = full ? p->want + (size_t)i * kit.model->n_vocab : got;

		(void)devkit_seq(step(), 0, &p->forced[i], n + i, 1, true);
		run();
		log_softmax(to);
		sum += full ? 0 : kl(p->want + (size_t)i * kit.model->n_vocab, got);
	}
	sum /= p->n_forced;
	l->kl += sum;
	l->kl2 += sum * sum;
}

/* Rows go; the next token tells the device. Returns the places that stay. */
static uint32_t thin_out(uint32_t n, float ratio, double *loss)
{
	struct plx_compress_goal goal = {false, ratio};
	struct plx_compress_result r;
	uint64_t keep[MAX_IDS / 64];
	uint32_t stay =
	    plx_evict_choose(plx_step_obs(plx_queue_step(kit.q, 0)), n, &goal, keep, &r);
	struct plx_step *s = step();

	memcpy(plx_step_keep(s), keep, sizeof(keep));
	plx_step_deltas(s)[s->n_delta++] = (struct plx_step_delta){
	    .kind = PLX_DELTA_KEEP, .slot = 0, .index = n, .n_blocks = (stay + BT - 1) / BT};
	devkit_blocks(s, 0, (stay + BT - 1) / BT, MAX_IDS / BT - (n - stay + BT - 1) / BT,
	              MAX_IDS / BT);
	run();
	*loss = (double)r.loss;
	return stay;
}

static void ask(const struct variant *v, struct prompt *p, const struct question *q, struct line *l)
{
	static int32_t ids[MAX_IDS];
	double loss = 0, ms = 0;
	uint32_t n = p->n;

	memcpy(ids, p->ids, sizeof(ids));
	if (v->way != FULL && v->way != KV)
		n = leave_out(v, p, ids, &loss);
	uint64_t t = plx_clock_ns();
	int32_t first = prefill(ids, n, v->way == KV);

	ms = now_ms(t) + (v->way == PROMPT ? p->score_ns / 1e6 : 0);
	full_ms = v->way == FULL ? ms : full_ms;
	if (v->way == KV)
		n = thin_out(n, v->ratio, &loss);
	go_on(p, q->answer, n, first, l);
	l->to_full[l->n] = ms / full_ms;
	l->first_ms[l->n++] = ms;
	l->kept += (double)n / p->n;
	l->loss += loss;
	l->kv_tokens += (n + BT - 1) / BT * BT;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void print_line(const struct variant *v, struct line *l)
{
	double n = l->n, mean = l->kl / n, var = fmax(l->kl2 / n - mean * mean, 0);
	struct plx_dev_info info;
	char how[32] = "";

	PLX_CHECK(plx_dev_info_get(kit.dev, &info) == 0);
	qsort(l->first_ms, l->n, sizeof(double), by_value);
	qsort(l->to_full, l->n, sizeof(double), by_value);
	if (v->way == PROMPT)
		snprintf(how, sizeof(how), ", %u layers",
		         v->layers ? v->layers : kit.model->n_layer);
	printf("%-6s %.1f%s: kept %.2f, answered %u of %u, KL %.3f +- %.3f nats/token, first token "
	       "%.0f ms (%.0f to %.0f), %.2f of full, KV %.2f MiB, estimated loss %.3f\n",
	       way_name[v->way], (double)v->ratio, how, l->kept / n, l->right, l->n, mean,
	       sqrt(var / n), l->first_ms[l->n / 2], l->first_ms[0], l->first_ms[l->n - 1],
	       l->to_full[l->n / 2], l->kv_tokens / n / BT * info.block_bytes / 1048576,
	       l->loss / n);
	fflush(stdout);
}

/* Every way and ratio. */
static uint32_t all_ways(struct variant *v)
{
	static const float ratios[] = {0.8f, 0.5f, 0.3f};
	uint32_t n = 0;

	v[n++] = (struct variant){FULL, 1, 0};
	for (uint32_t r = 0; r < 3; r++) {
		v[n++] = (struct variant){PROMPT, ratios[r], LAYERS};
		v[n++] = (struct variant){PROMPT, ratios[r], 0};
		v[n++] = (struct variant){KV, ratios[r], 0};
		v[n++] = (struct variant){RANDOM, ratios[r], LAYERS};
		v[n++] = (struct variant){CUT, ratios[r], LAYERS};
	}
	return n;
}

/* Pruned to half, by more and more layers. */
static uint32_t by_layers(struct variant *v)
{
	static const uint32_t layers[] = {1, 2, 4, 6, 8, 12, 16, 20, 0};
	uint32_t n = 0;

	v[n++] = (struct variant){FULL, 1, 0};
	for (uint32_t i = 0; i < sizeof(layers) / sizeof(layers[0]); i++)
		if (layers[i] < kit.model->n_layer)
			v[n++] = (struct variant){PROMPT, 0.5f, layers[i]};
	v[n++] = (struct variant){RANDOM, 0.5f, LAYERS};
	return n;
}

/* Pruned to half by few, more and all layers, and the other ways. */
static uint32_t far_ways(struct variant *v)
{
	uint32_t n = 0;

	v[n++] = (struct variant){FULL, 1, 0};
	v[n++] = (struct variant){PROMPT, 0.8f, LAYERS};
	v[n++] = (struct variant){PROMPT, 0.5f, 4};
	v[n++] = (struct variant){PROMPT, 0.5f, LAYERS};
	v[n++] = (struct variant){PROMPT, 0.5f, 0};
	v[n++] = (struct variant){PROMPT, 0.3f, LAYERS};
	v[n++] = (struct variant){KV, 0.5f, 0};
	v[n++] = (struct variant){RANDOM, 0.5f, LAYERS};
	v[n++] = (struct variant){CUT, 0.5f, LAYERS};
	return n;
}

static void open_all(const char *path)
{
	struct plx_dev_limits lim = devkit_limits();

	lim.n_slots = 1;
	lim.max_step_seqs = 1;
	lim.block_tokens = BT;
	lim.max_seq_blocks = MAX_IDS / BT;
	lim.n_blocks = 2 * MAX_IDS / BT;
	lim.max_step_tokens = CHUNK;
	lim.n_threads = 2;
	lim.early_layers = LAYERS;
	devkit_open(&kit, path, "auto", &lim);
	PLX_CHECK(plx_tok_open(&tok, kit.model->gguf, NULL) == 0);
	PLX_CHECK(plx_tok_scratch_new(&scratch, tok, MAX_TEXT, NULL) == 0);
	PLX_CHECK(plx_chat_open(kit.model->gguf, NULL, &chat, NULL) == 0);
	prompt.want = malloc((size_t)N_FORCED * kit.model->n_vocab * sizeof(float));
	PLX_CHECK(prompt.want != NULL);
}

static void close_all(void)
{
	free(prompt.want);
	plx_chat_free(chat);
	plx_tok_scratch_free(scratch);
	plx_tok_free(tok);
	devkit_close(&kit);
}

int main(int argc, char **argv)
{
	const char *path = argc > 1 ? argv[1] : plx_test_model();
	const char *what = argc > 2 ? argv[2] : "held";
	bool layers = strcmp(what, "layers") == 0, far = strcmp(what, "long") == 0;
	static struct line line[MAX_VAR];
	struct variant v[MAX_VAR];

	if (path == NULL) {
		printf("bench_compress: no model; skipped\n");
		return 0;
	}
	read_questions(layers || strcmp(what, "qa") == 0 ? "tests/data/compress_qa.txt"
	                                                 : "tests/data/compress_held.txt",
	               files[0]);
	uint32_t n_own = n_question;

	if (far) /* for their passages */
		read_questions("tests/data/compress_qa.txt", files[1]);
	n_question = n_own;
	if (argc > 3 && (uint32_t)atoi(argv[3]) < n_question)
		n_question = (uint32_t)atoi(argv[3]);
	open_all(path);
	uint32_t n = layers ? by_layers(v) : far ? far_ways(v) : all_ways(v), n_tok = 0;

	for (uint32_t i = 0; i < n_question; i++) {
		make_prompt(&question[i], far ? N_LONG : 1, &prompt);
		n_tok += prompt.n;
		for (uint32_t k = 0; k < n; k++)
			ask(&v[k], &prompt, &question[i], &line[k]);
	}
	printf("%s: %u questions, prompts of %u tokens on average\n", what, n_question,
	       n_tok / n_question);
	for (uint32_t k = 0; k < n; k++)
		print_line(&v[k], &line[k]);
	close_all();
	return 0;
}
