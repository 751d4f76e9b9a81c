/* Scrapes: names and values, what Prometheus' own checker says of them, and the table of names. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fw/base/clock.h"
#include "tests/lib/scope_fake.h"
#include "tools/scope/export.h"
#include "tools/scope/prom.h"

static char path[64];
static char *body;
static struct plx_share share;
static struct plx_export ex;
static struct plx_text text;

static int setup(void **state)
{
	(void)state;
	snprintf(path, sizeof(path), "/tmp/plx-test-prom-%d", (int)getpid());
	ex = (struct plx_export){.file = path};
	body = malloc(PLX_PROM_BYTES);
	plx_text_init(&text, body, PLX_PROM_BYTES);
	return body == NULL || plx_fake_share(&share, path) != 0;
}

static int teardown(void **state)
{
	(void)state;
	plx_export_close(&ex);
	plx_share_close(&share);
	free(body);
	return 0;
}

static void scrape(bool open, unsigned int names)
{
	assert_true(plx_export_look(&ex));
	plx_text_init(&text, body, PLX_PROM_BYTES);
	plx_prom_write(&text, &ex.snap, open, names);
	assert_false(text.cut);
}

/* One whole line of the text. */
static void has(const char *line)
{
	char want[512];

	snprintf(want, sizeof(want), "\n%s\n", line);
	if (strstr(body, want) == NULL)
		fail_msg("no line: %s", line);
}

static void test_prom_says_what_the_pages_say(void **state)
{
	(void)state;
	scrape(false, 0);
	has("plx_up 1");
	has("plx_build{board=\"fake\",model=\"a \\\"small\\\" model\"} 1");
	has("# TYPE plx_req_done_total counter");
	has("plx_req_done_total{stage=\"batch\"} 3");
	has("plx_req_opened_total{stage=\"io\"} 4");
	has("plx_batch_faults_total{stage=\"batch\"} 0"); /* its own: there from zero on */
	has("plx_dev_seconds_total{stage=\"accel\"} 1.500000000");
	has("plx_running{stage=\"batch\"} 2");
	has("plx_regime_seconds_total{stage=\"io\",lcore=\"0\",regime=\"busy\"} 0.250000000");
	has("plx_itl_seconds_count{stage=\"batch\"} 101");
	has("plx_itl_seconds_bucket{stage=\"batch\",le=\"+Inf\"} 101");
	/* 8 ms is below 2^23 ns, 80 ms below 2^27. */
	has("plx_itl_seconds_bucket{stage=\"batch\",le=\"0.004194304\"} 0");
	has("plx_itl_seconds_bucket{stage=\"batch\",le=\"0.008388608\"} 100");
	has("plx_itl_seconds_bucket{stage=\"batch\",le=\"0.134217728\"} 101");
	assert_null(strstr(body, "vllm:"));
	assert_null(strstr(body, "# EOF"));
}

static void test_prom_gives_other_names_when_asked(void **state)
{
	(void)state;
	scrape(false, PLX_PROM_VLLM | PLX_PROM_GEN_AI);
	has("vllm:num_requests_running{engine=\"0\",model_name=\"a \\\"small\\\" model\"} 2");
	has("vllm:kv_cache_usage_perc{engine=\"0\",model_name=\"a \\\"small\\\" model\"} 0.25");
	has("vllm:generation_tokens_total{engine=\"0\",model_name=\"a \\\"small\\\" model\"} 104");
	has("vllm:inter_token_latency_seconds_count{engine=\"0\",model_name=\"a \\\"small\\\" "
	    "model\"} 101");
	has("# TYPE gen_ai_server_time_per_output_token_seconds histogram");
}

static void test_open_metrics_has_exemplars(void **state)
{
	(void)state;
	plx_fake_request(&share, 17, 3, 4, plx_clock_ns());
	scrape(true, 0);
	has("# TYPE plx_req_done counter"); /* the family; its sample has _total */
	has("plx_req_done_total{stage=\"batch\"} 3");
	assert_string_equal(body + text.used - 6, "# EOF\n");
	/* Its tokens came 8 ms apart, the first after 10.05 ms; the latest stands for its bucket.
	 */
	const char *at =
	    strstr(body, "\nplx_itl_seconds_bucket{stage=\"batch\",le=\"0.008388608\"} "
	                 "100 # {request=\"17-3\",token=\"3\"} 0.008000000 ");

	assert_non_null(at);
	assert_non_null(strstr(body, "le=\"0.016777216\"} 0 # {request=\"17-3\",token=\"0\"} "
	                             "0.010050000 "));
}

static void test_prom_knows_an_end(void **state)
{
	(void)state;
	plx_share_state_set(&share, PLX_SHARE_ENDED);
	scrape(false, PLX_PROM_VLLM);
	has("plx_up 0");
	assert_null(strstr(body, "plx_req_done"));
	assert_null(strstr(body, "vllm:"));
}

static void test_promtool_accepts_it(void **state)
{
	FILE *f;

	(void)state;
	if (system("command -v promtool >/dev/null") != 0) {
		print_message("skipped: promtool is not here (Debian: prometheus)\n");
		skip();
	}
	scrape(false, PLX_PROM_VLLM | PLX_PROM_GEN_AI);
	/* Its linter has views on style ("colons", "percent"); those have exit code 3. */
	f = popen("promtool check metrics >/dev/null 2>&1", "w");
	assert_non_null(f);
	fwrite(body, 1, text.used, f);
	int rc = pclose(f) >> 8;

	assert_true(rc == 0 || rc == 3);
	assert_int_equal(
	    system("promtool check config tools/scope/rules/prometheus.yml >/dev/null 2>&1"), 0);
}

static char *read_file(const char *name)
{
	FILE *f = fopen(name, "re");
	char *at = calloc(1, 1 << 20);

	assert_non_null(f);
	assert_non_null(at);
	assert_true(fread(at, 1, (1 << 20) - 1, f) > 0);
	fclose(f);
	return at;
}

static void test_table_of_names_is_that_of_the_list(void **state)
{
	char *file = read_file("tools/scope/METRICS.md");

	(void)state;
	plx_prom_doc(&text);
	assert_false(text.cut);
	if (strcmp(file, body) != 0)
		fail_msg("tools/scope/METRICS.md is old: plx-scope metrics > "
		         "tools/scope/METRICS.md");
	free(file);
}

/* Every plx_ and pollux: name that a text uses is one of ours. */
static void check_names(const char *in, const char *table, const char *recorded)
{
	static const char *const tail[] = {"_bucket", "_sum", "_count", ""};
	regex_t re;
	regmatch_t m;

	assert_int_equal(regcomp(&re, "(plx_|pollux:)[a-z0-9_:]+", REG_EXTENDED), 0);
	for (; regexec(&re, in, 1, &m, 0) == 0; in += m.rm_eo) {
		char name[128], want[160];
		bool known = false;
		int n = (int)(m.rm_eo - m.rm_so);

		snprintf(name, sizeof(name), "%.*s", n, in + m.rm_so);
		if (strcmp(name, "plx_rej_") == 0) /* runbook: "plx_rej_* say why" */
			continue;
		snprintf(want, sizeof(want), "record: %s\n", name);
		known = strstr(recorded, want) != NULL;
		for (size_t i = 0; i < 4 && !known; i++) {
			size_t n_tail = strlen(tail[i]);

			if ((size_t)n <= n_tail || strcmp(name + n - n_tail, tail[i]) != 0)
				continue;
			snprintf(want, sizeof(want), "| `%.*s` |", n - (int)n_tail, name);
			known = strstr(table, want) != NULL;
		}
		if (!known)
			fail_msg("%s is not a metric", name);
	}
	regfree(&re);
}

static void test_rules_and_dashboard_use_what_is_there(void **state)
{
	char *table = read_file("tools/scope/METRICS.md");
	char *rules = read_file("tools/scope/rules/pollux.recording.yml");
	char *alerts = read_file("tools/scope/rules/pollux.alerts.yml");
	char *board = read_file("tools/scope/grafana/pollux.json");
	json_error_t err;
	json_t *j = json_loads(board, 0, &err);

	(void)state;
	assert_non_null(j);
	assert_true(json_array_size(json_object_get(j, "panels")) >= 20);
	json_decref(j);
	check_names(rules, table, rules);
	check_names(alerts, table, rules);
	check_names(board, table, rules);
	free(table);
	free(rules);
	free(alerts);
	free(board);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_prom_says_what_the_pages_say, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_prom_gives_other_names_when_asked, setup,
	                                    teardown),
	    cmocka_unit_test_setup_teardown(test_open_metrics_has_exemplars, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_prom_knows_an_end, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_promtool_accepts_it, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_table_of_names_is_that_of_the_list, setup,
	                                    teardown),
	    cmocka_unit_test_setup_teardown(test_rules_and_dashboard_use_what_is_there, setup,
	                                    teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
