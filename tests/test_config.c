/* Board files: the good one, and every way to be wrong with the message a person gets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "fw/base/err.h"
#include "fw/config.h"

static const struct plx_machine two_cpus = {.n_cpus = 2, .cpu_allowed = {3}};

static const char good[] = "board: t\n"                                             /* 1 */
			   "insecure: true\n"                                       /* 2 */
			   "ports:\n"                                               /* 3 */
			   "  - {name: p, kind: af_packet, iface: e0, queues: 2}\n" /* 4 */
			   "devices:\n"                                             /* 5 */
			   "  - {name: c, kind: cpu}\n"                             /* 6 */
			   "stages:\n"                                              /* 7 */
			   "  - {kind: io, lcore: 0, port: p, queue: 0}\n"          /* 8 */
			   "  - {kind: io, lcore: 1, port: p, queue: 1}\n"          /* 9 */
			   "  - {kind: hs, lcore: 0}\n"                             /* 10 */
			   "  - {kind: tok, lcore: 0}\n"                            /* 11 */
			   "  - {kind: batch, lcore: 0}\n"                          /* 12 */
			   "  - {kind: accel, lcore: 1, device: c}\n"               /* 13 */
			   "limits:\n"                                              /* 14 */
			   "  n_slots: 8\n"                                         /* 15 */
			   "  step_seqs: 8\n"                                       /* 16 */
			   "timers: {coalesce_us: 0}\n";                            /* 17 */

static int parse(struct plx_config *c, const char *text, struct plx_diag *d)
{
	d->text[0] = '\0';
	return plx_config_parse(c, "b.yml", (const uint8_t *)text, strlen(text), &two_cpus, d);
}

static void test_config_reads_good_file(void **state)
{
	struct plx_config c;
	struct plx_diag d;

	(void)state;
	assert_int_equal(parse(&c, good, &d), 0);
	assert_string_equal(c.board, "t");
	assert_true(c.insecure);
	assert_false(c.idle_backoff);
	assert_true(c.weights_cache); /* auto is the default */
	assert_int_equal(c.n_stages, 6);
	assert_int_equal(c.stage[1].queue, 1);
	assert_int_equal(c.stage[5].kind, PLX_STAGE_ACCEL);
	assert_int_equal(c.lim.n_slots, 8);
	assert_int_equal(c.lim.block_tokens, 32); /* default */
	assert_int_equal(c.tmr.coalesce_us, 0);   /* zero that was said is not the default */
	assert_int_equal(c.tmr.slice_us, 200);
	assert_int_equal(c.port[0].udp_port, 7709);
	assert_string_equal(c.dev[0].isa, "auto");
}

static void test_config_reads_telemetry(void **state)
{
	static const struct {
		const char *said, *path;
	} row[] = {{"off", "off"}, {"/dev/shm/a", "/dev/shm/a"}, {"a", "dir/a"}};
	char text[2048];
	struct plx_config c;
	struct plx_diag d = {0};

	(void)state;
	assert_int_equal(parse(&c, good, &d), 0);
	assert_string_equal(c.telemetry, ""); /* the usual place */
	assert_int_equal(c.lim.trace_events, 8192);
	for (int i = 0; i < 3; i++) {
		snprintf(text, sizeof(text), "telemetry: %s\n%s", row[i].said, good);
		assert_int_equal(plx_config_parse(&c, "dir/b.yml", (const uint8_t *)text,
		                                  strlen(text), &two_cpus, &d),
		                 0);
		assert_string_equal(c.telemetry, row[i].path);
	}
}

static void test_config_reads_weights_cache(void **state)
{
	static const char *const word[] = {"auto", "off"};
	char text[2048];
	struct plx_config c;
	struct plx_diag d;

	(void)state;
	for (int i = 0; i < 2; i++) {
		snprintf(text, sizeof(text), "weights_cache: %s\n%s", word[i], good);
		assert_int_equal(parse(&c, text, &d), 0);
		assert_int_equal(c.weights_cache, i == 0);
	}
	snprintf(text, sizeof(text), "weights_cache: on\n%s", good);
	assert_int_equal(parse(&c, text, &d), PLX_E_FORMAT);
}

static void test_config_reads_kv_type(void **state)
{
	static const char *const word[] = {"f16", "q8", "q4"};
	char text[2048];
	struct plx_config c;
	struct plx_diag d;

	(void)state;
	assert_int_equal(parse(&c, good, &d), 0);
	assert_int_equal(c.kv_type, PLX_CFG_KV_F16);
	for (int i = 0; i < 3; i++) {
		snprintf(text, sizeof(text), "kv_type: %s\n%s", word[i], good);
		assert_int_equal(parse(&c, text, &d), 0);
		assert_int_equal(c.kv_type, i);
	}
	snprintf(text, sizeof(text), "kv_type: q5\n%s", good);
	assert_int_equal(parse(&c, text, &d), PLX_E_FORMAT);
	assert_string_equal(d.text,
	                    "b.yml:1: Invalid ENUM value: q5; `polluxd --help-board` prints "
	                    "the format");
}

/* The good file with one line replaced must fail with exactly this message. */
static void expect(const char *from, const char *to, int err, const char *message)
{
	char text[2048];
	struct plx_config c;
	struct plx_diag d;
	const char *at = strstr(good, from);

	assert_non_null(at);
	snprintf(text, sizeof(text), "%.*s%s%s", (int)(at - good), good, to, at + strlen(from));
	assert_int_equal(parse(&c, text, &d), err);
	assert_string_equal(d.text, message);
}

static void test_config_names_line_and_remedy(void **state)
{
	(void)state;
	expect(
	    "{kind: io, lcore: 1", "{kind: io, lcore: 7", PLX_E_INVAL,
	    "b.yml:9: stages[1].lcore: lcore 7 does not exist on this machine (0-1); give one of "
	    "those");
	expect("queue: 1}", "queue: 0}", PLX_E_EXISTS,
	       "b.yml:9: stages[1].queue: another io stage has queue 0 of that port; one stage a "
	       "queue");
	expect("queue: 1}", "queue: 2}", PLX_E_INVAL,
	       "b.yml:9: stages[1].queue: port \"p\" has queues 0-1, not 2");
	expect("device: c", "device: d", PLX_E_INVAL,
	       "b.yml:13: stages[5].device: an accel or worker stage needs one of the names under "
	       "devices:, not \"d\"");
	expect("n_slots: 8", "n_slots: 0", PLX_E_LIMIT,
	       "b.yml:15: limits.n_slots: 0 is outside 1..4096 (sequences running at once)");
	expect("n_slots: 8", "n_slots: 8\n  block_tokens: 48", PLX_E_INVAL,
	       "b.yml:16: limits.block_tokens: 48 is not a power of two; give 16, 32, 64, 128 or "
	       "256");
	expect("  - {kind: tok, lcore: 0}\n", "", PLX_E_INVAL,
	       "b.yml:7: stages: there are 0 tok stages; give 1 to 1");
	expect("iface: e0, ", "", PLX_E_INVAL,
	       "b.yml:4: ports[0].iface: this kind of port needs the name of a network interface");
	expect("iface: e0, ", "iface: e0, ipv4: 10.0.0, ", PLX_E_INVAL,
	       "b.yml:4: ports[0].ipv4: \"10.0.0\" is not an IPv4 address; write one such as "
	       "10.77.0.2");
	expect("insecure: true", "insecure: true\nkeys: k", PLX_E_INVAL,
	       "b.yml:2: insecure: true together with keys: says two things; remove one");
}

/* What would be found only when half of the daemon stands is found in the file. */
static void test_config_checks_what_would_fail_later(void **state)
{
	(void)state;
	expect("lcore: 1, port", "lcore: 127, port", PLX_E_LIMIT,
	       "b.yml:9: stages[1].lcore: 127 is more than the highest lcore DPDK has for stages, "
	       "126");
	expect("queues: 2", "queues: 9", PLX_E_LIMIT,
	       "b.yml:4: ports[0].queues: 9 queues are more than 8; give fewer");
	expect("step_seqs: 8", "step_seqs: 4\n  n_samples: 5", PLX_E_INVAL,
	       "b.yml:17: limits.n_samples: 5 answers of one request run together, and a step has "
	       "4 sequences; lower it or raise limits.step_seqs");
	expect("n_slots: 8", "n_slots: 8\n  n_mbufs: 100000", PLX_E_LIMIT,
	       "b.yml:16: limits.n_mbufs: 100000 packet buffers for each of 1 ports need 232 MiB, "
	       "and memory_mib is 128; raise that or lower this");
	expect("  - {kind: tok, lcore: 0}\n",
	       "  - {kind: tok, lcore: 0}\n  - {kind: worker, lcore: 0, device: e}\n", PLX_E_INVAL,
	       "b.yml:12: stages[4].device: an accel or worker stage needs one of the names under "
	       "devices:, not \"e\"");
	expect("  - {name: c, kind: cpu}\nstages:\n",
	       "  - {name: c, kind: cpu}\n  - {name: e, kind: cpu}\nstages:\n"
	       "  - {kind: worker, lcore: 0, device: e}\n",
	       PLX_E_INVAL,
	       "b.yml:9: stages[0].device: a worker must name an accel stage's device, and "
	       "\"e\" has none");
	expect("  - {kind: hs, lcore: 0}\n",
	       "  - {kind: hs, lcore: 0}\n  - {kind: accel, lcore: 1, device: c}\n", PLX_E_EXISTS,
	       "b.yml:14: stages[6].device: another accel stage has device \"c\"; one a device");
	expect("{name: c, kind: cpu}", "{name: c, kind: cpu, role: decode}", PLX_E_INVAL,
	       "b.yml:6: devices[0].role: no other device does what \"c\" does not; say mixed, or "
	       "give an accel stage to a device of another role");
	expect("{name: c, kind: cpu}", "{name: c, kind: cpu, role: both}", PLX_E_FORMAT,
	       "b.yml:6: Invalid ENUM value: both; `polluxd --help-board` prints the format");
	expect("{name: c, kind: cpu}", "{name: c, kind: cpu, role: draft, model: m.gguf}",
	       PLX_E_INVAL,
	       "b.yml:6: devices[0].role: \"c\" drafts for one other device: there are 1 accel "
	       "stages; give two, its own last");
	expect("{name: c, kind: cpu}", "{name: c, kind: cpu, role: draft}", PLX_E_INVAL,
	       "b.yml:6: devices[0].role: \"c\" drafts: give either its model or skip_layers");
	expect(
	    "{name: c, kind: cpu}", "{name: c, kind: cpu, skip_layers: 3-4}", PLX_E_INVAL,
	    "b.yml:6: devices[0].name: \"c\" has a model, layers or KV blocks of its own; that is "
	    "for role: draft");
	expect(
	    "devices:\n", "  - {name: q, kind: af_packet, iface: e0}\ndevices:\n", PLX_E_EXISTS,
	    "b.yml:5: ports[1].iface: port \"p\" has interface e0 already; one port an interface");
}

static void test_config_knows_lines_for_later(void **state)
{
	struct plx_config c;
	struct plx_diag d;

	(void)state;
	assert_int_equal(parse(&c, good, &d), 0);
	assert_int_equal(c.port[0].line, 4);
	assert_int_equal(c.dev[0].line, 6);
	assert_int_equal(c.kv_line, 14); /* the group: the key is not there */
	assert_int_equal(c.mem_line, 0);
}

/* A path that the board file's folder makes too long is refused, not cut. */
static void test_config_refuses_long_path(void **state)
{
	char name[400], text[2600];
	struct plx_config c;
	struct plx_diag d = {0};

	(void)state;
	memset(name, 'd', sizeof(name));
	memcpy(name + 250, "/b.yml", 7);
	snprintf(text, sizeof(text), "model: m.gguf\n%s", good);
	assert_int_equal(
	    plx_config_parse(&c, name, (const uint8_t *)text, strlen(text), &two_cpus, &d),
	    PLX_E_LIMIT);
	assert_non_null(strstr(d.text, "b.yml:1: model: with the board file's folder before it"));
}

static void test_config_reports_yaml_errors(void **state)
{
	(void)state;
	expect("n_slots: 8", "n_slots: x8", PLX_E_FORMAT,
	       "b.yml:15: Invalid uint64_t value: 'x8'; `polluxd --help-board` prints the format");
	expect("kind: hs", "kind: hx", PLX_E_FORMAT,
	       "b.yml:10: Invalid ENUM value: hx; `polluxd --help-board` prints the format");
	expect("n_slots: 8", "nslots: 8", PLX_E_FORMAT,
	       "b.yml:15: Unexpected key: nslots; `polluxd --help-board` prints the format");
}

static void test_config_reads_several_devices(void **state)
{
	struct plx_config c;
	struct plx_diag d = {0};

	(void)state;
	assert_int_equal(plx_config_load(&c, "board/pair/board.yml", NULL, &d), 0);
	assert_int_equal(c.n_devs, 2);
	assert_int_equal(c.dev[0].role, PLX_CFG_MIXED);
	assert_int_equal(c.stage[5].device_idx, 1);
	assert_int_equal(c.tmr.stall_ms, 1000);
}

static void test_config_reads_devbox(void **state)
{
	struct plx_config c;
	struct plx_diag d = {0};

	(void)state;
	assert_int_equal(plx_config_load(&c, "board/devbox/board.yml", NULL, &d), 0);
	assert_int_equal(c.port[0].kind, PLX_PORT_AUTO);
	assert_int_equal(c.port[0].ipv4[3], 2);
	assert_int_equal(plx_config_load(&c, "board/none.yml", NULL, &d), PLX_E_IO);
	assert_non_null(strstr(d.text, "board/none.yml: can't be opened"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_config_reads_good_file),
	    cmocka_unit_test(test_config_reads_weights_cache),
	    cmocka_unit_test(test_config_reads_telemetry),
	    cmocka_unit_test(test_config_reads_kv_type),
	    cmocka_unit_test(test_config_names_line_and_remedy),
	    cmocka_unit_test(test_config_checks_what_would_fail_later),
	    cmocka_unit_test(test_config_knows_lines_for_later),
	    cmocka_unit_test(test_config_refuses_long_path),
	    cmocka_unit_test(test_config_reports_yaml_errors),
	    cmocka_unit_test(test_config_reads_several_devices),
	    cmocka_unit_test(test_config_reads_devbox),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
