/*
 * polluxd: command line, board file, keys and model; then DPDK, ports, device and stages; then
 * serve until told to stop. Each failure has an exit code of its own (fw/options.h) and one line
 * that says what, where and what to do.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <rte_launch.h>
#include <rte_lcore.h>

#include <sodium.h>

#include "fw/base/clock.h"
#include "fw/base/err.h"
#include "fw/base/log.h"
#include "fw/compose.h"
#include "fw/config.h"
#include "fw/control.h"
#include "fw/machine.h"
#include "fw/options.h"

#define VERSION      "0.1"
#define TOLD_TO_STOP (-1)  /* neither an exit code nor a failure; ends as PLX_EXIT_OK */
#define STOP_MS      3000u /* for the lcores to end their turns */

/* Everything main holds; too large for a stack. */
static struct plx_config config;
static struct plx_assets assets;
static struct plx_keys keys;
static struct plx_appliance appliance;

/* Where the start's time went. */
static struct {
	uint64_t files_ns, ports_ns, device_ns, stages_ns;
} took;

static int fail(const struct plx_diag *d, int err, enum plx_exit code)
{
	if (err == PLX_E_CANCELLED) { /* told to stop while starting: that is no failure */
		plx_log(PLX_LOG_INFO, "%s", d->text);
		return TOLD_TO_STOP;
	}
	plx_log(PLX_LOG_ERROR, "%s", d->text[0] != '\0' ? d->text : plx_err_help(err));
	return err == PLX_E_NOMEM ? PLX_EXIT_MEMORY : (int)code;
}

/* Board, keys and model. */
static int read_files(const struct plx_options *o, struct plx_diag *d)
{
	struct plx_machine machine;
	int err;

	plx_machine_probe(&machine);
	plx_machine_log(&machine);
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
	plx_context_fit(&config, assets.model->n_ctx, plx_can_compress(&config));
	return PLX_EXIT_OK;
}

/* Memory and device: the same for --check, which stops short of loading. */
static int open_device(struct plx_diag *d)
{
	int err = plx_memory_open(&appliance, d);

	if (err != 0)
		return fail(d, err, PLX_EXIT_MEMORY);
	err = plx_device_open(&appliance, d);
	return err != 0 ? fail(d, err, PLX_EXIT_DEVICE) : PLX_EXIT_OK;
}

static int open_ports(struct plx_diag *d)
{
	int err = plx_eal_start(&config, d);

	if (err == PLX_E_NOMEM)
		plx_diag_at(d, config.board_path, config.mem_line);
	if (err == 0)
		err = plx_ports_open(&appliance, d);
	return err != 0 ? fail(d, err, PLX_EXIT_PORT) : PLX_EXIT_OK;
}

/* The worker stages' lcores have nothing to do yet: they help to load. */
static void helpers_start(struct plx_load_helper *h)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < config.n_stages; i++) {
		const struct plx_cfg_stage *s = &config.stage[i];

		if (s->kind != PLX_STAGE_WORKER)
			continue;
		h[n].app = &appliance;
		plx_worker_of(&config, i, &h[n].dev, &h[n].idx);
		/* Two on one lcore: the second one finds it busy, and is not needed. */
		(void)rte_eal_remote_launch(plx_load_help, &h[n], s->lcore);
		n++;
	}
}

static int load(struct plx_diag *d)
{
	static struct plx_load_helper helper[PLX_CFG_MAX_STAGES];

	helpers_start(helper);
	int code = open_device(d);

	atomic_store_explicit(&appliance.load_over, true, memory_order_release);
	rte_eal_mp_wait_lcore();
	return code;
}

static int start(struct plx_diag *d)
{
	uint64_t t0 = plx_clock_ns();
	int code = open_ports(d);
	uint64_t t1 = plx_clock_ns();

	if (code == PLX_EXIT_OK)
		code = load(d);
	if (code != PLX_EXIT_OK)
		return code;
	uint64_t t2 = plx_clock_ns();
	int err = plx_stages_open(&appliance, d);

	took.ports_ns = t1 - t0;
	took.device_ns = t2 - t1;
	took.stages_ns = plx_clock_ns() - t2;
	return err != 0 ? fail(d, err, PLX_EXIT_MEMORY) : PLX_EXIT_OK;
}

/*
 * A thread that hangs keeps everything it may touch: then this process ends as it is, and the
 * kernel takes back what is its own. The next start removes an XDP program left behind.
 */
static void wait_lcores(void)
{
	uint64_t end_ns = plx_clock_ns() + STOP_MS * PLX_NS_PER_MS;

	for (uint32_t i = 0; i < appliance.n_lcores; i++) {
		while (rte_eal_get_lcore_state(appliance.lcore[i].cpu) != WAIT) {
			if (plx_clock_ns() > end_ns) {
				plx_log(PLX_LOG_ERROR, "lcore %u does not stop; leaving without it",
				        appliance.lcore[i].cpu);
				_exit(PLX_EXIT_INTERNAL);
			}
			usleep(1000);
		}
	}
	rte_eal_mp_wait_lcore();
}

static int launch(struct plx_control *c, struct plx_diag *d)
{
	for (uint32_t i = 0; i < appliance.n_lcores; i++) {
		struct plx_lcore *lc = &appliance.lcore[i];

		if (rte_eal_remote_launch(plx_lcore_run, lc, lc->cpu) != 0) {
			plx_diag_set(d, PLX_E_INVAL, "lcore %u can't be started", lc->cpu);
			return fail(d, PLX_E_INVAL, PLX_EXIT_INTERNAL);
		}
		plx_watchdog_add(&c->watchdog, &lc->heartbeat, lc->cpu, plx_clock_ns());
	}
	return PLX_EXIT_OK;
}

static void log_took(void)
{
	plx_log(PLX_LOG_INFO,
	        "start took: files %" PRIu64 " ms, DPDK and ports %" PRIu64 ", device %" PRIu64
	        ", stages and locking memory %" PRIu64,
	        took.files_ns / PLX_NS_PER_MS, took.ports_ns / PLX_NS_PER_MS,
	        took.device_ns / PLX_NS_PER_MS, took.stages_ns / PLX_NS_PER_MS);
}

static int serve(struct plx_diag *d)
{
	static struct plx_control control;
	int code;

	control.cfg = &config;
	control.links = &appliance.links;
	control.keys = &keys;
	plx_appliance_log(&appliance);
	log_took();
	code = launch(&control, d);
	if (code == PLX_EXIT_OK && !plx_control_run(&control))
		code = PLX_EXIT_DRAIN;
	atomic_store_explicit(&appliance.stop, true, memory_order_release);
	wait_lcores();
	plx_appliance_log_served(&appliance);
	plx_log(PLX_LOG_INFO, "stopped");
	return code;
}

static int run(const struct plx_options *o)
{
	struct plx_diag d = {0};
	uint64_t begin_ns = plx_clock_ns();
	int code = read_files(o, &d);

	took.files_ns = plx_clock_ns() - begin_ns;
	appliance = (struct plx_appliance){
	    .cfg = &config, .assets = &assets, .keys = &keys, .check = o->check};
	if (code == PLX_EXIT_OK)
		code = o->check ? open_device(&d) : start(&d);
	if (code == PLX_EXIT_OK && o->check)
		plx_log(PLX_LOG_INFO, "board, keys and model are good, and fit this machine");
	else if (code == PLX_EXIT_OK)
		code = serve(&d);
	plx_appliance_close(&appliance);
	plx_eal_stop();
	plx_assets_close(&assets);
	plx_keys_close(&keys);
	return code == TOLD_TO_STOP ? PLX_EXIT_OK : code;
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
