/* Figures under other engines' names. What is not measured here is not there. */
#include "tools/scope/prom_other.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define LABEL_BYTES 256

struct named_hist {
	const char *name;
	enum plx_hist_idx hist;
	const char *help;
};

static uint64_t total(const struct plx_snap *s, enum plx_metric m)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < s->n_pages; i++)
		n += s->page[i].counter[m];
	return n;
}

static uint64_t gauge(const struct plx_snap *s, enum plx_gauge g)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < s->n_pages; i++)
		n += s->page[i].gauge[g];
	return n;
}

/* All stages' histograms as one. */
static void sum_hist(const struct plx_snap *s, enum plx_hist_idx h, struct plx_hist *to)
{
	memset(to, 0, sizeof(*to));
	for (uint32_t i = 0; i < s->n_pages; i++) {
		const struct plx_hist *from = &s->page[i].hist[h];

		to->count += from->count;
		to->sum_ns += from->sum_ns;
		for (uint32_t b = 0; b < PLX_HIST_BINS; b++)
			to->bin[b] += from->bin[b];
	}
}

static void model_label(char out[LABEL_BYTES], const char *before, const struct plx_snap *s)
{
	struct plx_text t;

	plx_text_init(&t, out, LABEL_BYTES);
	plx_text_add(&t, "%s", before);
	plx_text_quoted(&t, s->head.model);
}

static void hists(struct plx_text *t, const struct plx_snap *s, const char *labels,
                  const struct named_hist *row, size_t n)
{
	static struct plx_hist sum;

	for (size_t i = 0; i < n; i++) {
		sum_hist(s, row[i].hist, &sum);
		plx_text_add(t, "# HELP %s %s\n# TYPE %s histogram\n", row[i].name, row[i].help,
		             row[i].name);
		plx_prom_buckets(t, row[i].name, labels, &sum, NULL, NULL);
	}
}

static void counter(struct plx_text *t, bool open, const char *name, const char *labels, uint64_t v,
                    const char *help)
{
	const char *tail = open ? "" : "_total";

	plx_text_add(t, "# HELP %s%s %s\n# TYPE %s%s counter\n%s_total{%s} %" PRIu64 "\n", name,
	             tail, help, name, tail, name, labels, v);
}

static void gauge_line(struct plx_text *t, const char *name, const char *labels, double v,
                       const char *help)
{
	plx_text_add(t, "# HELP %s %s\n# TYPE %s gauge\n%s{%s} %.6g\n", name, help, name, name,
	             labels, v);
}

static void vllm_ends(struct plx_text *t, const struct plx_snap *s, bool open, const char *labels)
{
	uint64_t stops = total(s, PLX_M_REQ_DONE);
	const char *tail = open ? "" : "_total";

	plx_text_add(t,
	             "# HELP vllm:request_success%s requests that ended\n"
	             "# TYPE vllm:request_success%s counter\n"
	             "vllm:request_success_total{%s,finished_reason=\"stop\"} %" PRIu64 "\n"
	             "vllm:request_success_total{%s,finished_reason=\"abort\"} %" PRIu64 "\n",
	             tail, tail, labels, stops, labels, total(s, PLX_M_REQ_CANCELLED));
}

void plx_prom_vllm(struct plx_text *t, const struct plx_snap *s, bool open)
{
	static const struct named_hist row[] = {
	    {"vllm:time_to_first_token_seconds", PLX_H_FIRST, "request to its first token sent"},
	    {"vllm:inter_token_latency_seconds", PLX_H_ITL, "between two tokens"},
	    {"vllm:time_per_output_token_seconds", PLX_H_ITL, "between two tokens"},
	    {"vllm:e2e_request_latency_seconds", PLX_H_E2E, "request to its last message"},
	    {"vllm:request_queue_time_seconds", PLX_H_QUEUE, "request until its first step"},
	    {"vllm:request_prefill_time_seconds", PLX_H_PREFILL, "first step to first token"},
	    {"vllm:request_decode_time_seconds", PLX_H_DECODE, "first token to last"}};
	uint64_t blocks = gauge(s, PLX_G_KV_BLOCKS), room = gauge(s, PLX_G_KV_FREE);
	uint64_t cached = total(s, PLX_M_BATCH_CACHED), ran = total(s, PLX_M_BATCH_PREFILL);
	char l[LABEL_BYTES];

	model_label(l, "engine=\"0\",model_name=", s);
	gauge_line(t, "vllm:num_requests_running", l, (double)gauge(s, PLX_G_RUNNING),
	           "sequences that run");
	gauge_line(t, "vllm:num_requests_waiting", l, (double)gauge(s, PLX_G_WAITING),
	           "requests that wait");
	gauge_line(t, "vllm:kv_cache_usage_perc", l,
	           blocks > room ? (double)(blocks - room) / (double)blocks : 0,
	           "share of KV blocks that are reserved, 0 to 1");
	counter(t, open, "vllm:prompt_tokens", l, ran + cached, "prompt tokens, cached or run");
	counter(t, open, "vllm:generation_tokens", l, total(s, PLX_M_BATCH_DECODE),
	        "tokens generated");
	counter(t, open, "vllm:prefix_cache_queries", l, ran + cached,
	        "prompt tokens looked up in the prefix cache");
	counter(t, open, "vllm:prefix_cache_hits", l, cached, "of them, those found");
	counter(t, open, "vllm:num_preemptions", l, total(s, PLX_M_BATCH_PREEMPTED),
	        "sequences that left for want of KV blocks");
	vllm_ends(t, s, open, l);
	hists(t, s, l, row, sizeof(row) / sizeof(row[0]));
}

void plx_prom_gen_ai(struct plx_text *t, const struct plx_snap *s, bool open)
{
	static const struct named_hist row[] = {
	    {"gen_ai_server_request_duration_seconds", PLX_H_E2E, "request to its last message"},
	    {"gen_ai_server_time_to_first_token_seconds", PLX_H_FIRST,
	     "request to its first token sent"},
	    {"gen_ai_server_time_per_output_token_seconds", PLX_H_ITL, "between two tokens"}};
	char l[LABEL_BYTES];

	(void)open;
	model_label(l,
	            "gen_ai_operation_name=\"text_completion\",gen_ai_provider_name=\"pollux\","
	            "gen_ai_request_model=",
	            s);
	hists(t, s, l, row, sizeof(row) / sizeof(row[0]));
}
