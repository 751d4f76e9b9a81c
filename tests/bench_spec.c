/*
 * What drafting brings on a real model: tokens a second of the scheduler over the CPU device with
 * drafts against without, in turn, greedy, one and four answers at once; the ids must be the same.
 *
 *   bench_spec [model.gguf [summary | code | talk | random | sampled | all [runs [threads [batch
 *              [drafter]]]]]]
 *
 * drafter: lookup; ahead, lookahead; model=FILE.gguf, a draft model on a device of its own and the
 * same threads; layers=LIST, the model without those layers; or all=FILE.gguf, look-up and the
 * draft model. With tree: before it drafts are trees. With free: before that drafting is done as if
 * guesses took no time and lost nothing, to see what is accepted of a drafter that does not pay.
 * batch 0: one and four.
 *
 * summary, code, talk: prompts of tests/spec. random: prompts of ids drawn evenly from the
 * vocabulary. sampled: the summary's prompts answered at temperature 1.5, so that nothing repeats.
 *
 * On one thread time is the process's CPU time, which a busy machine disturbs less.
 *
 * One line a workload and batch: medians and ranges of tokens a second while all decode, the
 * ratio of each pair of runs (median, least, most), and what was drafted and accepted; and the same
 * for the time until all answers are over, when fewer and fewer decode.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "accel/model/layers.h"
#include "accel/model/tokenizer.h"
#include "dataplane/batch/sched.h"
#include "fw/base/check.h"
#include "fw/base/clock.h"
#include "tests/lib/draftdev.h"
#include "tests/lib/model_path.h"

#define N_PROMPTS 4u
#define MAX_IDS   1024u
#define MAX_TEXT  16384u
#define N_NEW     128u /* ids of an answer alone; half of that of each of several */
#define N_RANDOM  300u
#define CTX       1536u
#define BT        32u
#define MAX_RUNS  25u

struct answer {
	int32_t id[N_NEW];
	uint32_t n;
	bool over;
};

struct bench {
	struct devkit kit;
	struct draftdev draft;
	bool has_draft;
	bool free;                /* guesses are taken to be free */
	bool ahead;               /* lookahead drafts, not look-up */
	uint32_t n_by;            /* drafters */
	enum plx_draft_kind kind; /* that is counted */
	struct plx_sched sched;
	struct plx_arena arena;
	int32_t prompt[N_PROMPTS][MAX_IDS];
	uint32_t n_prompt[N_PROMPTS];
	float temperature;
	struct answer got[N_PROMPTS], want[N_PROMPTS];
	uint64_t begin_ns, end_ns; /* first and last id of a run */
	bool first_over;           /* an answer is complete: from now on fewer decode */
	uint64_t n_ids;            /* after the first */
	double whole_s; /* from the first id of the last prompt to the end of all answers */
};

static struct bench b;

/* ---- prompts ---- */

static uint32_t encode(const char *text)
{
	static struct plx_tok *t;
	static struct plx_tok_scratch *s;
	static uint32_t at;
	int32_t *ids = b.prompt[at % N_PROMPTS];

	if (!t) {
		PLX_CHECK(plx_tok_open(&t, b.kit.model->gguf, NULL) == 0);
		PLX_CHECK(plx_tok_scratch_new(&s, t, MAX_TEXT, NULL) == 0);
	}
	int n = plx_tok_encode(s, text, (uint32_t)strlen(text), PLX_TOK_SPECIALS, ids, MAX_IDS);

	PLX_CHECK(n > 0);
	b.n_prompt[at++ % N_PROMPTS] = (uint32_t)n;
	return (uint32_t)n;
}

/* Turns between lines of dashes, the user's first, as a ChatML prompt. */
static void encode_talk(char *talk)
{
	static char out[MAX_TEXT];
	static const char *role[2] = {"user", "assistant"};
	size_t len = 0;
	uint32_t turn = 0;

	for (char *next; talk; talk = next, turn++) {
		next = strstr(talk, "-----\n");
		if (next) {
			*next = 0;
			next += 6;
		}
		len += (size_t)snprintf(out + len, sizeof(out) - len,
		                        "<|im_start|>%s\n%.*s<|im_end|>\n", role[turn % 2],
		                        (int)strlen(talk) - 1, talk);
		PLX_CHECK(len < sizeof(out));
	}
	snprintf(out + len, sizeof(out) - len, "<|im_start|>assistant\n");
	encode(out);
}

static void read_prompts(const char *name)
{
	static char text[MAX_TEXT];
	char path[128];

	snprintf(path, sizeof(path), "tests/spec/%s.txt", name);
	FILE *f = fopen(path, "r");

	if (!f)
		fprintf(stderr, "%s: run from the repository's root\n", path);
	PLX_CHECK(f != NULL);
	size_t n = fread(text, 1, sizeof(text) - 1, f);

	fclose(f);
	text[n] = 0;
	char *at = text;

	for (uint32_t i = 0; i < N_PROMPTS; i++) {
		char *next = strstr(at, "=====\n");

		PLX_CHECK(next != NULL || i == N_PROMPTS - 1);
		if (next)
			*next = 0;
		encode_talk(at);
		at = next + 6;
	}
}

static void random_prompts(void)
{
	uint64_t x = 1;

	for (uint32_t i = 0; i < N_PROMPTS; i++) {
		b.n_prompt[i] = N_RANDOM;
		for (uint32_t k = 0; k < N_RANDOM; k++) {
			x = x * UINT64_C(6364136223846793005) + 1442695040888963407u;
			b.prompt[i][k] = (int32_t)((x >> 33) % b.kit.model->n_vocab);
		}
	}
}

/* ---- the scheduler ---- */

/* Now, in the time that is measured. */
static uint64_t now(void)
{
	struct timespec t;

	if (b.kit.lim.n_threads > 1)
		return plx_clock_ns();
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * PLX_NS_PER_S + (uint64_t)t.tv_nsec;
}

static void on_token(void *ctx, uint32_t key, uint16_t sample, uint32_t index, int32_t id,
                     float logprob, const struct plx_top *top, uint32_t n_top, enum plx_seq_end end,
                     uint64_t device_ns)
{
	(void)ctx, (void)sample, (void)logprob, (void)top, (void)n_top, (void)end;
	(void)device_ns;
	PLX_CHECK(index < N_NEW);
	b.got[key].id[index] = id;
	b.got[key].n = index + 1;
	if (b.first_over)
		return;
	b.n_ids++;
	if (index == 0) { /* of the last prompt: all decode from now on */
		b.begin_ns = now();
		b.n_ids = 0;
	}
	b.end_ns = now();
}

static void on_end(void *ctx, uint32_t key, uint16_t sample, enum plx_seq_end end,
                   uint64_t device_ns)
{
	(void)ctx, (void)key, (void)sample, (void)end, (void)device_ns;
}

static void on_final(void *ctx, uint32_t key, const struct plx_sched_final *f)
{
	(void)ctx;
	PLX_CHECK(f->kind == PLX_SCHED_DONE);
	b.got[key].over = true;
	b.first_over = true;
}

static void open_sched(void)
{
	struct plx_sched_sink sink = {NULL, on_token, on_end, on_final};
	struct plx_diag d = {""};
	struct plx_sched_conf c = {.n_keys = N_PROMPTS,
	                           .n_slots = N_PROMPTS,
	                           .n_blocks = b.kit.lim.n_blocks,
	                           .block_tokens = BT,
	                           .ctx_tokens = CTX,
	                           .max_prompt = MAX_IDS,
	                           .max_new = N_NEW,
	                           .step_tokens = b.kit.lim.max_step_tokens,
	                           .step_seqs = N_PROMPTS,
	                           .steps_in_flight = 2,
	                           .window = CTX,
	                           .pause_ns = UINT64_MAX,
	                           .draft_ids = b.ahead ? 0 : CTX,
	                           .ahead_ids = b.ahead ? PLX_AHEAD_MOST : 0,
	                           .tree_branches = b.kit.lim.tree_branches};

	PLX_CHECK(plx_arena_open(&b.arena, plx_sched_bytes(&c), &d) == 0);
	PLX_CHECK(plx_sched_init(&b.sched, &b.arena, &c, &sink, &d) == 0);
}

static void add(uint32_t key, uint32_t n_new)
{
	struct plx_sched_admit out;
	struct plx_sched_job j = {
	    .ids = b.prompt[key],
	    .n_ids = b.n_prompt[key],
	    .max_new = n_new,
	    .n_samples = 1,
	    .ignore_eos = true,
	    .ttft_slo_ns = 3600 * PLX_NS_PER_S,
	    .sampler = {
		.temperature = b.temperature, .top_p = 1, .repeat_penalty = 1, .seed = 7 + key}};

	b.got[key].over = false;
	b.got[key].n = 0;
	PLX_CHECK(plx_sched_add(&b.sched, key, &j, plx_clock_ns(), &out) == 0);
}

static void run_all(void)
{
	uint32_t free_step[2] = {0, 1}, n_free = 2;

	while (!plx_sched_idle(&b.sched)) {
		if (b.free) {
			b.draft.m.step_ns = b.draft.m.tok_ns = 1;
			b.sched.draft.credit_ns = 1e12;
			for (uint32_t i = 0; i < N_PROMPTS; i++)
				b.sched.seq[i].purse_open = true, b.sched.seq[i].purse_ns = 1e12;
		}
		while (n_free > 0) {
			uint32_t idx = free_step[n_free - 1];

			if (!plx_sched_fill(&b.sched, plx_queue_step(b.kit.q, idx), 10000,
			                    plx_clock_ns()))
				break;
			n_free--;
			PLX_CHECK(plx_queue_submit(b.kit.q, idx) == 0);
		}
		if (b.has_draft && draftdev_turn(&b.draft) && n_free == 2)
			continue;
		PLX_CHECK(n_free < 2);
		uint32_t idx = devkit_wait(&b.kit);
		struct plx_step *st = plx_queue_step(b.kit.q, idx);

		PLX_CHECK(st->status == 0);
		plx_sched_done(&b.sched, st, 0, plx_clock_ns());
		free_step[n_free++] = idx;
	}
}

/* ---- who drafts ---- */

static void add_model(const char *path, const char *skip)
{
	struct plx_dev_limits lim = b.kit.lim;
	struct plx_model *m;
	struct plx_diag d = {""};
	int err =
	    skip ? plx_model_without(b.kit.model, skip, &m, &d) : plx_model_open(path, &m, &d);

	if (err)
		fprintf(stderr, "bench_spec: %s\n", d.text);
	PLX_CHECK(err == 0);
	b.kind = skip ? PLX_DRAFT_LAYERS : PLX_DRAFT_MODEL;
	draftdev_open_model(&b.draft, m, &lim, b.kind);
	b.has_draft = true;
	struct plx_drafter by = plx_dmodel_drafter(&b.draft.m);

	PLX_CHECK(plx_sched_add_drafter(&b.sched, &by) == 0);
}

static void choose_drafter(const char *how)
{
	if (strncmp(how, "model=", 6) == 0)
		add_model(how + 6, NULL);
	else if (strncmp(how, "layers=", 7) == 0)
		add_model(NULL, how + 7);
	else if (strncmp(how, "all=", 4) == 0)
		add_model(how + 4, NULL);
	else
		PLX_CHECK(strcmp(how, "lookup") == 0 || b.ahead);
	if (b.ahead)
		b.kind = PLX_DRAFT_AHEAD;
	b.n_by = b.sched.draft.n_by;
	if (b.has_draft && strncmp(how, "all=", 4) != 0) { /* it alone */
		b.sched.draft.by[0] = b.sched.draft.by[1];
		b.n_by = 1;
	}
}

/* ---- a workload ---- */

/* Tokens a second while all decode. */
static double run(uint32_t batch, bool drafts)
{
	b.sched.draft.n_by = drafts ? b.n_by : 0;
	b.first_over = false;
	for (uint32_t i = 0; i < batch; i++)
		add(i, batch > 1 ? N_NEW / 2 : N_NEW);
	run_all();
	b.whole_s = (double)(now() - b.begin_ns) / 1e9;
	return (double)b.n_ids / ((double)(b.end_ns - b.begin_ns) / 1e9);
}

static int by_value(const void *a, const void *c)
{
	double x = *(const double *)a, y = *(const double *)c;

	return (x > y) - (x < y);
}

static void compare(const char *name, uint32_t batch)
{
	for (uint32_t i = 0; i < batch; i++)
		if (memcmp(b.got[i].id, b.want[i].id, sizeof(b.want[i].id)) != 0) {
			printf("bench_spec: %s: with drafts answer %u differs\n", name, i);
			exit(1);
		}
}

static double share(uint64_t n, uint64_t of)
{
	return of ? 100.0 * (double)n / (double)of : 0;
}

static void bench(const char *name, uint32_t batch, uint32_t n_runs)
{
	double off[MAX_RUNS], on[MAX_RUNS], ratio[MAX_RUNS], whole[MAX_RUNS];

	run(batch, false); /* the cost model learns, caches warm */
	memcpy(b.want, b.got, sizeof(b.want));
	run(batch, true);
	compare(name, batch);
	struct plx_sched_draft *sd = &b.sched.draft;
	uint64_t drafted[2] = {sd->drafted[0], sd->drafted[b.kind]};
	uint64_t accepted[2] = {sd->accepted[0], sd->accepted[b.kind]}, probes = sd->probes,
		 branches = sd->branches;

	for (uint32_t i = 0; i < n_runs; i++) {
		/* Who goes first changes. */
		double on_s = 0;

		if (i % 2)
			on[i] = run(batch, true), on_s = b.whole_s;
		off[i] = run(batch, false);
		whole[i] = b.whole_s;
		if (i % 2 == 0)
			on[i] = run(batch, true), on_s = b.whole_s;
		compare(name, batch);
		ratio[i] = on[i] / off[i];
		whole[i] /= on_s;
	}
	for (uint32_t i = 0; i < 2; i++) {
		drafted[i] = sd->drafted[i ? b.kind : 0] - drafted[i];
		accepted[i] = sd->accepted[i ? b.kind : 0] - accepted[i];
	}

	qsort(off, n_runs, sizeof(off[0]), by_value);
	qsort(on, n_runs, sizeof(on[0]), by_value);
	qsort(ratio, n_runs, sizeof(ratio[0]), by_value);
	qsort(whole, n_runs, sizeof(whole[0]), by_value);
	printf("bench_spec: %-8s batch %u: %6.1f tokens/s (%.1f-%.1f) without, %6.1f (%.1f-%.1f) "
	       "with drafts; ratio %.2f (%.2f-%.2f); lookup drafted %.0f a run, accepted %.0f %%; "
	       "gap %.0f us",
	       name, batch, off[n_runs / 2], off[0], off[n_runs - 1], on[n_runs / 2], on[0],
	       on[n_runs - 1], ratio[n_runs / 2], ratio[0], ratio[n_runs - 1],
	       (double)drafted[0] / n_runs, share(accepted[0], drafted[0]), sd->gap_ns / 1000);
	if (b.has_draft || b.ahead)
		printf("; %s drafted %.0f, accepted %.0f %%, probes %.1f",
		       b.ahead                                  ? "lookahead"
		       : b.draft.m.conf.kind == PLX_DRAFT_MODEL ? "model"
		                                                : "layers",
		       (double)drafted[1] / n_runs, share(accepted[1], drafted[1]),
		       (double)(sd->probes - probes) / n_runs);
	if (sd->branches > branches)
		printf("; %.1f branches", (double)(sd->branches - branches) / n_runs);
	printf("; until all answers are over %.2f (%.2f-%.2f) times as fast; account %.1f ms\n",
	       whole[n_runs / 2], whole[0], whole[n_runs - 1], sd->credit_ns / 1e6);
	fflush(stdout);
}

static void workload(const char *name, uint32_t n_runs, uint32_t batch)
{
	b.temperature = strcmp(name, "sampled") == 0 ? 1.5f : 0;
	if (strcmp(name, "random") == 0)
		random_prompts();
	else
		read_prompts(strcmp(name, "sampled") == 0 ? "summary" : name);
	if (batch != N_PROMPTS)
		bench(name, 1, n_runs);
	if (batch != 1)
		bench(name, N_PROMPTS, n_runs);
}

int main(int argc, char **argv)
{
	static const char *all[] = {"summary", "code", "talk", "random", "sampled"};
	const char *path = argc > 1 && argv[1][0] ? argv[1] : plx_test_model();
	const char *only = argc > 2 && strcmp(argv[2], "all") != 0 ? argv[2] : NULL;
	uint32_t n_runs = argc > 3 ? (uint32_t)atoi(argv[3]) : 5;
	struct plx_dev_limits lim = devkit_limits();

	if (!path) {
		printf("bench_spec: no model; give its path\n");
		return 0;
	}
	n_runs = n_runs < 1 ? 1 : n_runs > MAX_RUNS ? MAX_RUNS : n_runs;
	lim.n_slots = N_PROMPTS;
	lim.max_step_seqs = N_PROMPTS;
	lim.block_tokens = BT;
	lim.max_seq_blocks = CTX / BT;
	lim.n_blocks = N_PROMPTS * CTX / BT;
	lim.max_step_tokens = 256;
	lim.n_threads = argc > 4 ? (uint32_t)atoi(argv[4]) : 2;
	const char *how = argc > 6 ? argv[6] : "lookup";
	b.free = strncmp(how, "free:", 5) == 0;
	how += b.free ? 5 : 0;
	bool tree = strncmp(how, "tree:", 5) == 0;

	how += tree ? 5 : 0;
	lim.tree_branches = tree ? 16 : 0;
	b.ahead = strcmp(how, "ahead") == 0;
	devkit_open(&b.kit, path, "auto", &lim);
	open_sched();
	choose_drafter(how);
	for (uint32_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		if (!only || strcmp(only, all[i]) == 0)
			workload(all[i], n_runs, argc > 5 ? (uint32_t)atoi(argv[5]) : 0);
	if (b.has_draft)
		draftdev_close(&b.draft);
	devkit_close(&b.kit);
	return 0;
}
