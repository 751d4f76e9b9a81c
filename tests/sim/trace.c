/* Draws the requests of a trace; trace.h and README.md say what it is made of. */
#include "tests/sim/trace.h"

#include <stdlib.h>
#include <string.h>

#include "fw/base/check.h"

#define SEC              1e9
#define BEFORE_NS        900e9 /* sessions begin so long before the trace, so that it begins busy */
#define DOC_SHARE        0.05  /* of all requests, on average over the weather */
#define CHAT_MORE_TURNS  0.65  /* chance of one more turn */
#define CHAT_MAX_TURNS   8u
#define CHAT_MAX_CONTEXT 8192u
#define N_SYSTEM_PROMPTS 16u
#define DOC_MORE         0.3 /* chance that a document is asked about once more */
#define DOC_MAX_TURNS    3u

/* How much faster than in calm weather sessions of each kind begin, and how long it lasts. */
static const struct {
	double mean_s;
	double times[SIM_KINDS];
} weathers[SIM_WEATHERS] = {
    [SIM_CALM] = {40, {1, 1}},
    [SIM_CHAT_BURST] = {8, {2, 1}},
    [SIM_DOC_BURST] = {5, {1, 6}},
};

struct making {
	struct sim_trace *t;
	uint32_t room;
	uint32_t n_sessions;
	uint64_t seed;
	struct sim_rng weather;
	double spells_to; /* ns from the first session on */
	uint32_t spell_room;
};

static void *grow(void *p, uint32_t *room, size_t size)
{
	*room = *room ? *room * 2 : 1024;
	p = realloc(p, *room * size);
	PLX_CHECK(p != NULL);
	return p;
}

/* Bursts come one at a time, with calm between them. */
static void add_spell(struct making *m)
{
	struct sim_trace *t = m->t;
	uint8_t w = SIM_CALM;

	if (t->n_spells % 2 == 1)
		w = sim_unit(&m->weather) < 0.5 ? SIM_CHAT_BURST : SIM_DOC_BURST;
	if (t->n_spells == m->spell_room)
		t->spell = grow(t->spell, &m->spell_room, sizeof(*t->spell));
	m->spells_to += weathers[w].mean_s * SEC * sim_exponential(&m->weather);
	t->spell[t->n_spells++] = (struct sim_spell){(uint64_t)m->spells_to, w};
}

/* Mean over the weather of how much faster a kind's sessions begin. */
static double mean_times(enum sim_kind k)
{
	double calm = weathers[SIM_CALM].mean_s;
	double a = weathers[SIM_CHAT_BURST].mean_s / 2, b = weathers[SIM_DOC_BURST].mean_s / 2;

	return (calm + a * weathers[SIM_CHAT_BURST].times[k] +
	        b * weathers[SIM_DOC_BURST].times[k]) /
	       (calm + a + b);
}

static void add_req(struct making *m, double at_ns, const struct sim_req *r)
{
	struct sim_trace *t = m->t;

	if (at_ns < BEFORE_NS)
		return;
	if (t->n_req == m->room)
		t->req = grow(t->req, &m->room, sizeof(*t->req));
	t->req[t->n_req] = *r;
	t->req[t->n_req++].at_ns = (uint64_t)(at_ns - BEFORE_NS);
}

/* What users set: one of a few round numbers, larger than what comes. */
static uint32_t draw_max_new(struct sim_rng *r, uint32_t n_answer)
{
	static const uint32_t sizes[4] = {512, 1024, 2048, 4096};
	static const double up_to[4] = {0.3, 0.7, 0.9, 1.0};
	double u = sim_unit(r);
	uint32_t i = 0;

	while (i < 3 && (u > up_to[i] || n_answer >= sizes[i]))
		i++;
	return sizes[i];
}

/* Seconds until the user sends the next turn: the answer is read, the next one thought of. */
static double draw_pause_ns(struct sim_rng *r, uint32_t n_answer, double median_s)
{
	return SEC * (0.3 + 0.015 * n_answer + median_s * exp(0.8 * sim_normal(r)));
}

static void chat_session(struct making *m, struct sim_rng *r, double at_ns)
{
	uint32_t which = (uint32_t)(sim_u64(r) % N_SYSTEM_PROMPTS);
	struct sim_rng sys = {sim_mix(m->seed ^ (which + 1000))};
	struct sim_req q = {.kind = SIM_CHAT, .session = m->n_sessions};

	q.text.common = sim_u64(&sys);
	q.text.n_common = sim_lognormal(&sys, 200, 0.6, 32, 800);
	q.text.own = sim_u64(r);
	q.n_prompt = q.text.n_common + sim_lognormal(r, 250, 1.0, 8, 4096);
	for (uint32_t turn = 0; turn < CHAT_MAX_TURNS; turn++) {
		q.n_answer = sim_lognormal(r, 200, 0.8, 4, 2000);
		q.max_new = draw_max_new(r, q.n_answer);
		add_req(m, at_ns, &q);
		at_ns += draw_pause_ns(r, q.n_answer, 20);
		q.n_prompt += q.n_answer + sim_lognormal(r, 80, 0.9, 4, 2000);
		if (q.n_prompt > CHAT_MAX_CONTEXT || sim_unit(r) > CHAT_MORE_TURNS)
			return;
	}
}

/* The document comes first and is what the questions share. */
static void doc_session(struct making *m, struct sim_rng *r, double at_ns)
{
	struct sim_req q = {.kind = SIM_DOC, .session = m->n_sessions};

	q.text.common = sim_u64(r);
	q.text.n_common = sim_lognormal(r, 8000, 0.6, 4096, SIM_MAX_PROMPT - 512);
	for (uint32_t turn = 0; turn < DOC_MAX_TURNS; turn++) {
		q.text.own = sim_u64(r);
		q.n_prompt = q.text.n_common + sim_lognormal(r, 60, 0.7, 8, 400);
		q.n_answer = sim_lognormal(r, 250, 0.5, 32, 1000);
		q.max_new = draw_max_new(r, q.n_answer);
		add_req(m, at_ns, &q);
		at_ns += draw_pause_ns(r, q.n_answer, 40);
		if (sim_unit(r) > DOC_MORE)
			return;
	}
}

/* Mean turns of a session, the cut by context left out. */
static double mean_turns(enum sim_kind k)
{
	double more = k == SIM_CHAT ? CHAT_MORE_TURNS : DOC_MORE;
	uint32_t most = k == SIM_CHAT ? CHAT_MAX_TURNS : DOC_MAX_TURNS;
	double n = 0, p = 1;

	for (uint32_t i = 0; i < most; i++, p *= more)
		n += p;
	return n;
}

/* When sessions of a kind begin: unit exponentials along a clock that runs faster in bursts. */
static void make_sessions(struct making *m, enum sim_kind k, double rate_hz, double until_ns)
{
	struct sim_rng starts = {sim_mix(m->seed + 77 + (uint64_t)k)};
	double hz =
	    rate_hz * (k == SIM_DOC ? DOC_SHARE : 1 - DOC_SHARE) / mean_turns(k) / mean_times(k);
	double now = 0;

	for (uint32_t spell = 0, n = 0;; n++) {
		double left = sim_exponential(&starts);

		for (;; spell++) {
			while (spell >= m->t->n_spells)
				add_spell(m);
			const struct sim_spell *s = &m->t->spell[spell];
			double speed = hz / SEC * weathers[s->weather].times[k];
			double room = speed * ((double)s->end_ns - now);

			if (left <= room) {
				now += left / speed;
				break;
			}
			left -= room;
			now = (double)s->end_ns;
		}
		if (now > until_ns)
			return;
		struct sim_rng own = {
		    sim_mix(m->seed ^ (((uint64_t)n * 2 + (uint64_t)k + 1) << 8))};

		m->n_sessions++;
		if (k == SIM_CHAT)
			chat_session(m, &own, now);
		else
			doc_session(m, &own, now);
	}
}

static int by_arrival(const void *a, const void *b)
{
	const struct sim_req *x = a, *y = b;

	if (x->at_ns != y->at_ns)
		return x->at_ns < y->at_ns ? -1 : 1;
	return (x->text.own > y->text.own) - (x->text.own < y->text.own);
}

/* The weather is counted from the first session on; the trace begins later. */
static void shift_spells(struct sim_trace *t)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < t->n_spells; i++)
		if ((double)t->spell[i].end_ns > BEFORE_NS) {
			t->spell[n] = t->spell[i];
			t->spell[n++].end_ns -= (uint64_t)BEFORE_NS;
		}
	t->n_spells = n;
}

static void try_make(struct making *m, double rate_hz, double until_ns)
{
	for (int k = 0; k < SIM_KINDS; k++)
		make_sessions(m, (enum sim_kind)k, rate_hz, until_ns);
	while (m->spells_to < until_ns + 3600 * SEC)
		add_spell(m);
	qsort(m->t->req, m->t->n_req, sizeof(*m->t->req), by_arrival);
}

void sim_trace_make(struct sim_trace *t, uint32_t n, double rate_hz, uint64_t seed)
{
	double span_ns = 1.05 * n / rate_hz * SEC + 10 * SEC;

	PLX_CHECK(n > 0 && rate_hz > 0);
	for (;; span_ns *= 1.2) {
		struct making m = {.t = t, .seed = sim_mix(seed), .weather = {sim_mix(~seed)}};

		memset(t, 0, sizeof(*t));
		try_make(&m, rate_hz, BEFORE_NS + span_ns);
		if (t->n_req >= n && (double)t->req[n - 1].at_ns <= span_ns)
			break;
		sim_trace_free(t);
	}
	t->n_req = n;
	shift_spells(t);
	for (uint32_t i = 0; i < n; i++)
		t->n_kind[t->req[i].kind]++;
	t->offered_hz = n / ((double)t->req[n - 1].at_ns / SEC);
}

void sim_trace_free(struct sim_trace *t)
{
	free(t->req);
	free(t->spell);
	memset(t, 0, sizeof(*t));
}
