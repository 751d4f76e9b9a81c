/*
 * polluxd: command line, board file, keys and model; then DPDK, ports, device and stages; then
 * serve until told to stop. Each failure has an exit code of its own (fw/options.h) and one line
 * that says what, where and what to do.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include <rte_launch.h>
#include <rte_lcore.h>

#include <sodium.h>

#include "fw/base/clock.h"
#include "fw/base/err.h"
#include "fw/base/log.h"
#include "fw/compose.h"
#include "fw/config.h"
#include "fw/control.h"
#include "fw/options.h"

#define VERSION "0.1"

/* Everything main holds; too large for a stack. */
static struct plx_config config;
static struct plx_assets assets;
static struct plx_keys keys;
static struct plx_appliance appliance;

static int fail(const struct plx_diag *d, int err, enum plx_exit code)
{
	plx_log(PLX_LOG_ERROR, "%s", d->text[0] != '\0' ? d->text : plx_err_help(err));
	return err == PLX_E_NOMEM ? PLX_EXIT_MEMORY : (int)code;
}

/* Board, keys and model: what --check looks at. */
static int read_files(const struct plx_options *o, struct plx_diag *d)
{
	struct plx_machine machine;
	int err;

	plx_machine_probe(&machine);
	err = plx_config_load(&config, o->board, &machine, d);
	if (err != 0)
		return fail(d, err, PLX_EXIT_BOARD);
	err = plx_options_apply(o, &config, d);
	if (err != 0)
		return fail(d, err, PLX_EXIT_USAGE);
	plx_log(PLX_LOG_INFO, "board %s (%s)", config.board, config.board_path);
	err = plx_keys_open(&keys, config.insecure ? NULL : config.keys_path, d);
	if (err != 0)
		return fail(d, err, PLX_EXIT_KEYS);
	err = plx_assets_open(&assets, &config, d);
	if (err != 0)
		return fail(d, err, PLX_EXIT_MODEL);
	plx_assets_log(&assets);
	return PLX_EXIT_OK;
}

/* An lcore's thread: short sleeps of an idle lcore end when they should, not 50 us later. */
static int lcore_main(void *lc)
{
	prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
	return plx_lcore_run(lc);
}

static int start(struct plx_diag *d)
{
	int err = plx_eal_start(&config, d);

	if (err != 0)
		return fail(d, err, PLX_EXIT_PORT);
	err = plx_ports_open(&appliance, d);
	if (err != 0)
		return fail(d, err, PLX_EXIT_PORT);
	err = plx_device_open(&appliance, d);
	if (err != 0)
		return fail(d, err, PLX_EXIT_DEVICE);
	err = plx_stages_open(&appliance, d);
	if (err != 0)
		return fail(d, err, PLX_EXIT_MEMORY);
	return PLX_EXIT_OK;
}

static int launch(struct plx_control *c, struct plx_diag *d)
{
	for (uint32_t i = 0; i < appliance.n_lcores; i++) {
		struct plx_lcore *lc = &appliance.lcore[i];

		if (rte_eal_remote_launch(lcore_main, lc, lc->cpu) != 0) {
			plx_diag_set(d, PLX_E_INVAL, "lcore %u can't be started", lc->cpu);
			return fail(d, PLX_E_INVAL, PLX_EXIT_INTERNAL);
		}
		plx_watchdog_add(&c->watchdog, &lc->heartbeat, lc->cpu, plx_clock_ns());
	}
	return PLX_EXIT_OK;
}

static int serve(struct plx_diag *d)
{
	static struct plx_control control;
	int code;

	control.cfg = &config;
	control.links = &appliance.links;
	control.keys = &keys;
	plx_appliance_log(&appliance);
	code = launch(&control, d);
	if (code == PLX_EXIT_OK && !plx_control_run(&control))
		code = PLX_EXIT_DRAIN;
	atomic_store_explicit(&appliance.stop, true, memory_order_release);
	rte_eal_mp_wait_lcore();
	plx_log(PLX_LOG_INFO, "stopped");
	return code;
}

static int run(const struct plx_options *o)
{
	struct plx_diag d = {0};
	int code = read_files(o, &d);

	if (code == PLX_EXIT_OK && o->check) {
		plx_log(PLX_LOG_INFO, "board, keys and model are good");
	} else if (code == PLX_EXIT_OK) {
		appliance.cfg = &config;
		appliance.assets = &assets;
		appliance.keys = &keys;
		code = start(&d);
		if (code == PLX_EXIT_OK)
			code = serve(&d);
		plx_appliance_close(&appliance);
		plx_eal_stop();
	}
	plx_assets_close(&assets);
	plx_keys_close(&keys);
	return code;
}

/* Core files would hold prompts and keys. */
static void no_core_files(void)
{
	struct rlimit none = {0, 0};

	(void)setrlimit(RLIMIT_CORE, &none);
}

int main(int argc, char **argv)
{
	struct plx_options o;
	struct plx_diag d = {0};

	plx_log_init("polluxd", PLX_LOG_INFO);
	if (plx_options_parse(&o, argc, argv, &d) != 0)
		return fail(&d, PLX_E_INVAL, PLX_EXIT_USAGE);
	if (o.help || o.version || o.help_board) {
		if (o.help_board)
			plx_config_help(stdout);
		else
			fputs(o.help ? plx_options_usage() : "polluxd " VERSION "\n", stdout);
		return PLX_EXIT_OK;
	}
	plx_log_init("polluxd", o.log_level);
	no_core_files();
	plx_control_block_signals();
	if (sodium_init() < 0) {
		plx_log(PLX_LOG_ERROR, "libsodium does not start");
		return PLX_EXIT_INTERNAL;
	}
	return run(&o);
}
