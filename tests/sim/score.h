/*
 * What happened to each request of a trace, and what that adds up to: goodput, quantiles, rejects.
 * Every event of a request is judged as it comes: ids must be the text's, in order, one end each.
 */
#ifndef PLX_TESTS_SIM_SCORE_H
#define PLX_TESTS_SIM_SCORE_H

#include "tests/sim/trace.h"

/* Durations in bins of 1/256 of their size: the spread of gaps is a target of 20 %. */
#define SIM_HIST_SUB  8
#define SIM_HIST_BINS ((44u - SIM_HIST_SUB) << SIM_HIST_SUB)

struct sim_hist {
	uint64_t count;
	uint64_t max_ns;
	uint32_t bin[SIM_HIST_BINS];
};

void sim_hist_add(struct sim_hist *h, uint64_t ns);
double sim_hist_ms(const struct sim_hist *h, double q);

enum sim_end { SIM_RUNS, SIM_DONE, SIM_REJECTED, SIM_CUT }; /* CUT: ended, but not whole */

struct sim_fate {
	uint64_t first_ns, last_ns; /* 0: none */
	uint64_t est_ns;            /* what admission said of the first token; 0: nothing */
	uint32_t n_got, n_late;     /* ids; gaps over the objective */
	uint8_t end;                /* enum sim_end */
};

struct sim_score {
	const struct sim_trace *trace;
	struct sim_fate *fate; /* [n_req] */
	uint32_t spell;
	uint32_t n_ended, n_done, n_rejected, n_cut;
	uint32_t n_met, n_met_kind[SIM_KINDS];
	uint32_t n_late_first[SIM_KINDS], n_late_gaps[SIM_KINDS]; /* DONE, but not in time */
	uint64_t n_tokens;
	uint64_t end_ns;    /* of the last request */
	uint64_t digest;    /* equal runs have equal digests */
	int err_count[128]; /* rejects by -enum plx_err */
	struct sim_hist first[SIM_KINDS], first_all;
	struct sim_hist gap[SIM_KINDS], gap_all;
	struct sim_hist burst_gap[SIM_KINDS], burst_gap_all; /* in prefill bursts */
	struct sim_hist reject;
	struct sim_hist est_err,
	    est_first;                /* |estimate - truth|; truth of those with an estimate */
	uint64_t est_over;            /* estimates above the truth */
	double est_rel_sum;           /* of |estimate - truth| / truth */
	struct sim_hist est_rel;      /* that, 1 as a second */
	uint32_t n_again, n_again_in; /* came again when a reject said so; were let in then */
};

struct sim_score *sim_score_open(const struct sim_trace *t);
void sim_score_close(struct sim_score *s);

void sim_score_estimate(struct sim_score *s, uint32_t req, uint64_t est_ns);
void sim_score_token(struct sim_score *s, uint32_t req, uint32_t index, int32_t id, uint64_t ns);

/* sim_score_end - err: of a reject, else 0. */
void sim_score_end(struct sim_score *s, uint32_t req, enum sim_end end, int err, uint64_t ns);

/* sim_score_goodput - requests that met their objective, a second of arrivals. */
double sim_score_goodput(const struct sim_score *s);

#endif
