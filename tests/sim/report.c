/* Figures of a run, printed. */
#include "tests/sim/report.h"

#include <stdio.h>

#include "fw/base/err.h"

static void quantiles(const struct sim_hist *h, double out[3])
{
	out[0] = sim_hist_ms(h, 0.5);
	out[1] = sim_hist_ms(h, 0.99);
	out[2] = sim_hist_ms(h, 0.999);
}

static void kinds_of(const struct sim_score *c, struct sim_result *out)
{
	for (int k = 0; k < SIM_KINDS; k++) {
		double n = c->trace->n_kind[k] ? c->trace->n_kind[k] : 1;

		quantiles(&c->first[k], out->first_kind[k]);
		quantiles(&c->gap[k], out->gap_kind[k]);
		out->met[k] = c->n_met_kind[k] / n;
		out->late_first[k] = c->n_late_first[k] / n;
		out->late_gaps[k] = c->n_late_gaps[k] / n;
	}
}

void sim_result_of(const struct sim *s, const char *name, double load, struct sim_result *out)
{
	const struct sim_score *c = s->score;
	double n_est = c->est_err.count ? (double)c->est_err.count : 1;

	*out = (struct sim_result){.load = load,
	                           .offered_hz = s->trace->offered_hz,
	                           .goodput_hz = sim_score_goodput(c),
	                           .est_rel = {c->est_rel_sum / n_est},
	                           .est_over = (double)c->est_over / n_est,
	                           .busy = (double)s->dev.busy_ns / (double)c->end_ns,
	                           .n_req = s->trace->n_req,
	                           .n_done = c->n_done,
	                           .n_rejected = c->n_rejected,
	                           .n_cut = c->n_cut,
	                           .n_again = c->n_again,
	                           .n_again_in = c->n_again_in,
	                           .n_steps = s->n_steps,
	                           .digest = c->digest};
	snprintf(out->name, sizeof(out->name), "%s", name);
	quantiles(&c->first_all, out->first);
	quantiles(&c->gap_all, out->gap);
	quantiles(&c->burst_gap_all, out->burst_gap);
	quantiles(&c->burst_gap[SIM_CHAT], out->burst_chat_gap);
	kinds_of(c, out);
	out->reject[0] = sim_hist_ms(&c->reject, 0.5);
	out->reject[1] = sim_hist_ms(&c->reject, 0.99);
	out->reject[2] = sim_hist_ms(&c->reject, 1);
	out->est_off[0] = sim_hist_ms(&c->est_err, 0.5);
	out->est_off[1] = sim_hist_ms(&c->est_err, 0.99);
	out->est_rel[1] = sim_hist_ms(&c->est_rel, 0.5) / 1000;
	out->est_rel[2] = sim_hist_ms(&c->est_rel, 0.95) / 1000;
	double all = 0, within = 0;

	for (uint32_t i = 0; i < 5; i++)
		all += (double)s->step_err[i];
	for (uint32_t i = 0; i < 4 && all > 0; i++)
		out->step_within[i] = (within += (double)s->step_err[i]) / all;
	for (uint32_t i = 0; i < 128; i++)
		out->n_err[i] = (uint32_t)c->err_count[i];
}

void sim_report_head(void)
{
	printf("%5s %-14s %8s %8s %6s %6s | %8s %8s %8s | %6s %6s %6s | %6s %6s | %6s %8s\n",
	       "load", "scheduler", "offered", "goodput", "chat", "docs", "first", "p99", "p99.9",
	       "gap", "p99", "p99.9", "burst", "p99", "refuse", "slowest");
	printf("%5s %-14s %8s %8s %6s %6s | %8s %8s %8s | %6s %6s %6s | %6s %6s | %6s %8s\n", "",
	       "", "1/s", "1/s", "met", "met", "p50 ms", "ms", "ms", "p50 ms", "ms", "ms", "p50 ms",
	       "ms", "", "ms");
}

void sim_report_row(const struct sim_result *r)
{
	printf(
	    "%4.0f%% %-14s %8.2f %8.2f %5.1f%% %5.1f%% | %8.1f %8.1f %8.1f | %6.2f %6.2f %6.2f | "
	    "%6.2f %6.2f | %5.1f%% %8.2f\n",
	    100 * r->load, r->name, r->offered_hz, r->goodput_hz, 100 * r->met[SIM_CHAT],
	    100 * r->met[SIM_DOC], r->first[0], r->first[1], r->first[2], r->gap[0], r->gap[1],
	    r->gap[2], r->burst_gap[0], r->burst_gap[1], 100.0 * r->n_rejected / r->n_req,
	    r->reject[2]);
}

static void print3(const char *key, const double v[3])
{
	printf(" %s_p50=%.2f %s_p99=%.2f %s_p999=%.2f", key, v[0], key, v[1], key, v[2]);
}

void sim_report_line(const struct sim_result *r)
{
	static const char *const kinds[SIM_KINDS] = {"chat", "doc"};

	printf("batcher load=%.2f engine=%s n=%u offered_hz=%.3f goodput_hz=%.3f", r->load, r->name,
	       r->n_req, r->offered_hz, r->goodput_hz);
	print3("first_ms", r->first);
	print3("gap_ms", r->gap);
	print3("burst_gap_ms", r->burst_gap);
	print3("burst_chat_gap_ms", r->burst_chat_gap);
	for (int k = 0; k < SIM_KINDS; k++) {
		char key[32];

		snprintf(key, sizeof(key), "%s_first_ms", kinds[k]);
		print3(key, r->first_kind[k]);
		snprintf(key, sizeof(key), "%s_gap_ms", kinds[k]);
		print3(key, r->gap_kind[k]);
		printf(" %s_met=%.4f %s_late_first=%.4f %s_late_gaps=%.4f", kinds[k], r->met[k],
		       kinds[k], r->late_first[k], kinds[k], r->late_gaps[k]);
	}
	printf(" done=%u rejected=%u cut=%u reject_ms_p50=%.3f reject_ms_p99=%.3f "
	       "reject_ms_max=%.3f",
	       r->n_done, r->n_rejected, r->n_cut, r->reject[0], r->reject[1], r->reject[2]);
	printf(" queue_full=%u kv_pressure=%u unmeetable=%u again=%u again_in=%u",
	       r->n_err[-PLX_E_QUEUE_FULL], r->n_err[-PLX_E_KV_PRESSURE],
	       r->n_err[-PLX_E_DEADLINE_UNMEETABLE], r->n_again, r->n_again_in);
	printf(" step_within_5=%.3f step_within_10=%.3f step_within_25=%.3f", r->step_within[0],
	       r->step_within[1], r->step_within[2]);
	printf(" est_off_ms_p50=%.2f est_off_ms_p99=%.2f est_rel=%.3f est_rel_p50=%.3f "
	       "est_rel_p95=%.3f est_over=%.3f busy=%.4f steps=%lu digest=%016lx\n",
	       r->est_off[0], r->est_off[1], r->est_rel[0], r->est_rel[1], r->est_rel[2],
	       r->est_over, r->busy, (unsigned long)r->n_steps, (unsigned long)r->digest);
}
