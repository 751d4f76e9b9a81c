/* One run's result: a row for people, a line of key=value for programs. */
#ifndef PLX_TESTS_SIM_REPORT_H
#define PLX_TESTS_SIM_REPORT_H

#include "tests/sim/sim.h"

/* What is kept of a run after it. Times in ms; quantiles p50, p99, p99.9. */
struct sim_result {
	char name[24];
	double load; /* of capacity */
	double offered_hz, goodput_hz;
	double first[3], gap[3], burst_gap[3];
	double first_kind[SIM_KINDS][3], gap_kind[SIM_KINDS][3];
	double burst_chat_gap[3];
	double reject[3]; /* p50, p99, slowest */
	double est_off[2],
	    est_over;          /* p50, p99 of |error| ms; share of estimates above the truth */
	double est_rel[3];     /* mean, p50, p95 of |error| / truth */
	double step_within[4]; /* shares of steps within 5, 10, 25, 50 % of the cost model */
	uint32_t n_err[128];   /* rejects by -enum plx_err */
	uint32_t n_again, n_again_in;
	double busy, met[SIM_KINDS]; /* shares */
	double late_first[SIM_KINDS], late_gaps[SIM_KINDS];
	uint32_t n_req, n_done, n_rejected, n_cut;
	uint64_t n_steps, digest;
};

void sim_result_of(const struct sim *s, const char *name, double load, struct sim_result *out);

void sim_report_head(void);
void sim_report_row(const struct sim_result *r);
void sim_report_line(const struct sim_result *r);

#endif
