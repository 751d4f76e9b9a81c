/*
 * The appliance put together: ports, device, pools, rings and stages, made in one order and taken
 * apart in the other, as the configuration says.
 */
#ifndef PLX_FW_COMPOSE_H
#define PLX_FW_COMPOSE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "dataplane/keytab.h"
#include "dataplane/port.h"
#include "dataplane/request.h"
#include "dataplane/stage.h"
#include "dataplane/stage_accel.h"
#include "dataplane/stage_batch.h"
#include "dataplane/stage_hs.h"
#include "dataplane/stage_io.h"
#include "dataplane/stage_tok.h"
#include "fw/assets.h"
#include "fw/base/share.h"

#define PLX_MAX_LCORES       128
#define PLX_MODELS_BYTES     256
#define PLX_DEFAULT_MODEL_ID 1u

struct plx_appliance {
	const struct plx_config *cfg;
	bool check; /* polluxd --check: find out whether it would run, and load nothing */
	struct plx_assets *assets;
	struct plx_keys *keys;

	struct plx_arena arena;
	struct plx_links links;
	struct plx_io_shared shared;
	uint32_t n_ports;
	struct plx_port port[PLX_CFG_MAX_PORTS];
	uint32_t n_dev; /* one an accel stage, in their order */
	struct plx_dev *dev[PLX_CFG_MAX_DEVS];
	struct plx_queue *queue[PLX_CFG_MAX_DEVS];
	struct plx_dev_info info[PLX_CFG_MAX_DEVS];
	uint8_t models[PLX_MODELS_BYTES]; /* the MODELS message */

	struct plx_share share; /* the file that page lies in; empty where telemetry is off */
	struct plx_page *page;  /* [cfg->n_stages] */
	struct plx_stage_tok tok;
	struct plx_stage_batch batch;
	struct plx_stage_accel accel[PLX_CFG_MAX_DEVS];
	struct plx_stage_hs hs;
	struct plx_stage_worker worker[PLX_CFG_MAX_STAGES];
	struct plx_stage_io *io[PLX_MAX_IO];
	uint32_t n_io;
	uint32_t n_worker;

	atomic_bool loading[PLX_CFG_MAX_DEVS]; /* the device takes help */
	atomic_bool load_over;                 /* helpers return */
	atomic_bool stop;                      /* the lcores' loops end */
	uint32_t n_lcores;
	struct plx_lcore lcore[PLX_MAX_LCORES];
};

/* An lcore that helps the device to load. */
struct plx_load_helper {
	struct plx_appliance *app;
	uint32_t dev;
	uint32_t idx; /* of its worker stage among the device's, from 1 */
};

/* plx_worker_of - which device a worker stage helps, and which of its workers it is, from 1. */
void plx_worker_of(const struct plx_config *cfg, uint32_t stage, uint32_t *dev, uint32_t *idx);

/*
 * plx_load_help - help plx_device_open from another lcore.
 *
 * @arg  struct plx_load_helper; its appliance may not have a device yet.
 *
 * Returns 0 once load_over is set. Thread: the lcore of that worker stage.
 */
int plx_load_help(void *arg);

/* plx_can_compress - whether every device can let tokens leave a full context. */
bool plx_can_compress(const struct plx_config *cfg);

/*
 * plx_context_fit - lower limits.context_tokens to what the model and KV memory can hold, and
 * limits.prompt_tokens to what that can, so that admission, the scheduler and HELLO_ACK read one
 * value; logs what it found and lowered.
 *
 * @beyond  texts may outgrow the context, so prompts keep their own limit.
 */
void plx_context_fit(struct plx_config *cfg, uint32_t n_ctx, bool beyond);

/*
 * plx_memory_open - the memory of pools, rings and stages, before the device takes its own, so
 * that what does not fit is found before minutes of loading.
 * Errors: NOMEM, with what is needed and what is free in d.
 */
int plx_memory_open(struct plx_appliance *a, struct plx_diag *d);

/*
 * plx_device_open - open the devices that accel stages name and load the model on each, with
 * progress lines in the log. With a->check only: would the model and the limits fit?
 * Errors: as plx_dev_open and plx_dev_load_begin; CANCELLED when told to stop meanwhile.
 */
int plx_device_open(struct plx_appliance *a, struct plx_diag *d);

/* plx_ports_open - every port of the board, after plx_eal_start. */
int plx_ports_open(struct plx_appliance *a, struct plx_diag *d);

/*
 * plx_stages_open - pools, rings, stages and their places on lcores. Memory, device and ports
 * are open.
 * Errors: NOMEM, LIMIT, INVAL; d says which limit and what to do.
 */
int plx_stages_open(struct plx_appliance *a, struct plx_diag *d);

/* plx_appliance_log - the limits and the placement, for the start-up log. */
void plx_appliance_log(const struct plx_appliance *a);

/* plx_appliance_log_served - what was done since the start, for the last lines of the log. */
void plx_appliance_log_served(const struct plx_appliance *a);

/*
 * plx_appliance_close - say goodbye to clients and take everything apart, in the reverse order. The
 * lcores have stopped. A partly made appliance is accepted.
 */
void plx_appliance_close(struct plx_appliance *a);

#endif
