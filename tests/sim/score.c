/* Judges requests one event at a time. */
#include "tests/sim/score.h"

#include <stdlib.h>

#include "fw/base/check.h"

#define MS 1000000u

void sim_hist_add(struct sim_hist *h, uint64_t ns)
{
	uint32_t e, b;

	if (ns > h->max_ns)
		h->max_ns = ns;
	ns = ns < (1u << SIM_HIST_SUB) ? 1u << SIM_HIST_SUB : ns;
	e = 63u - (uint32_t)__builtin_clzll(ns);
	b = ((e - SIM_HIST_SUB) << SIM_HIST_SUB) +
	    (uint32_t)((ns >> (e - SIM_HIST_SUB)) & ((1u << SIM_HIST_SUB) - 1));
	h->bin[b < SIM_HIST_BINS ? b : SIM_HIST_BINS - 1]++;
	h->count++;
}

double sim_hist_ms(const struct sim_hist *h, double q)
{
	uint64_t before = 0, want = (uint64_t)(q * (double)h->count);

	if (h->count == 0)
		return 0;
	if (want >= h->count)
		return (double)h->max_ns / MS;
	for (uint32_t b = 0; b < SIM_HIST_BINS; b++) {
		before += h->bin[b];
		if (before > want) {
			uint64_t sub = b & ((1u << SIM_HIST_SUB) - 1);
			uint32_t shift = b >> SIM_HIST_SUB;

			return (double)(((sub + (1u << SIM_HIST_SUB)) * 2 + 1) << shift) / 2 / MS;
		}
	}
	return (double)h->max_ns / MS;
}

struct sim_score *sim_score_open(const struct sim_trace *t)
{
	struct sim_score *s = calloc(1, sizeof(*s));

	PLX_CHECK(s != NULL);
	s->trace = t;
	s->fate = calloc(t->n_req, sizeof(*s->fate));
	PLX_CHECK(s->fate != NULL);
	return s;
}

void sim_score_close(struct sim_score *s)
{
	free(s->fate);
	free(s);
}

void sim_score_estimate(struct sim_score *s, uint32_t req, uint64_t est_ns)
{
	s->fate[req].est_ns = est_ns;
}

/* Events come in order of time, so the spell is only looked for forwards. */
static bool in_doc_burst(struct sim_score *s, uint64_t ns)
{
	while (s->spell + 1 < s->trace->n_spells && s->trace->spell[s->spell].end_ns < ns)
		s->spell++;
	return s->trace->spell[s->spell].weather == SIM_DOC_BURST;
}

static void add_gap(struct sim_score *s, uint8_t kind, struct sim_fate *f, uint64_t ns)
{
	uint64_t gap = ns - f->last_ns;

	f->n_late += gap > (uint64_t)sim_objectives[kind].between_ms * MS;
	sim_hist_add(&s->gap[kind], gap);
	sim_hist_add(&s->gap_all, gap);
	if (!in_doc_burst(s, ns))
		return;
	sim_hist_add(&s->burst_gap[kind], gap);
	sim_hist_add(&s->burst_gap_all, gap);
}

static void add_estimate(struct sim_score *s, const struct sim_fate *f, uint64_t truth)
{
	uint64_t off = f->est_ns > truth ? f->est_ns - truth : truth - f->est_ns;

	sim_hist_add(&s->est_err, off);
	sim_hist_add(&s->est_first, truth);
	s->est_over += f->est_ns > truth;
	double rel = (double)off / (double)(truth ? truth : 1);

	s->est_rel_sum += rel;
	sim_hist_add(&s->est_rel, (uint64_t)(rel * 1e9));
}

void sim_score_token(struct sim_score *s, uint32_t req, uint32_t index, int32_t id, uint64_t ns)
{
	const struct sim_req *r = &s->trace->req[req];
	struct sim_fate *f = &s->fate[req];

	PLX_CHECK(f->end == SIM_RUNS && index == f->n_got && index < r->n_answer);
	PLX_CHECK(id == sim_text_id(&r->text, r->n_prompt + index));
	PLX_CHECK(ns >= r->at_ns && ns >= f->last_ns);
	if (index == 0) {
		f->first_ns = ns;
		sim_hist_add(&s->first[r->kind], ns - r->at_ns);
		sim_hist_add(&s->first_all, ns - r->at_ns);
		if (f->est_ns)
			add_estimate(s, f, ns - r->at_ns);
	} else {
		add_gap(s, r->kind, f, ns);
	}
	f->last_ns = ns;
	f->n_got++;
	s->n_tokens++;
}

static void judge_done(struct sim_score *s, const struct sim_req *r, const struct sim_fate *f)
{
	bool first_late = f->first_ns - r->at_ns > (uint64_t)sim_objectives[r->kind].first_ms * MS;
	bool gaps_late = (double)f->n_late > SIM_GAPS_LATE_SHARE * (f->n_got - 1.0);

	s->n_late_first[r->kind] += first_late;
	s->n_late_gaps[r->kind] += gaps_late;
	if (first_late || gaps_late)
		return;
	s->n_met++;
	s->n_met_kind[r->kind]++;
}

void sim_score_end(struct sim_score *s, uint32_t req, enum sim_end end, int err, uint64_t ns)
{
	const struct sim_req *r = &s->trace->req[req];
	struct sim_fate *f = &s->fate[req];

	PLX_CHECK(f->end == SIM_RUNS && end != SIM_RUNS && ns >= r->at_ns);
	PLX_CHECK(err <= 0 && err > -128);
	PLX_CHECK(end != SIM_DONE || f->n_got == r->n_answer);
	f->end = (uint8_t)end;
	s->n_ended++;
	s->n_done += end == SIM_DONE;
	s->n_rejected += end == SIM_REJECTED;
	s->n_cut += end == SIM_CUT;
	if (end == SIM_DONE)
		judge_done(s, r, f);
	if (end == SIM_REJECTED) {
		sim_hist_add(&s->reject, ns - r->at_ns);
		s->err_count[-err]++;
	}
	s->end_ns = ns > s->end_ns ? ns : s->end_ns;
	s->digest = sim_mix(s->digest ^ sim_mix(req + ((uint64_t)end << 32)) ^
	                    sim_mix(ns ^ f->first_ns << 1 ^ (uint64_t)f->n_got << 40));
}

double sim_score_goodput(const struct sim_score *s)
{
	return s->n_met / ((double)s->trace->req[s->trace->n_req - 1].at_ns / 1e9);
}
