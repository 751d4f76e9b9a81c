/* Makes stages of the configuration and places them on lcores. */
#include "fw/compose.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sodium.h>
#include <xxhash.h>

#include "fw/base/clock.h"
#include "fw/base/err.h"
#include "fw/base/log.h"
#include "fw/control.h"
#include "fw/settle.h"

#define HELP_SLICE_US 1000u
#define HELP_WAIT_US  50u

static uint32_t count_kind(const struct plx_config *c, enum plx_stage_kind kind)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < c->n_stages; i++)
		n += c->stage[i].kind == kind;
	return n;
}

/* The device of the k-th accel stage. */
static uint32_t accel_device(const struct plx_config *c, uint32_t k)
{
	uint32_t i = 0;

	while (c->stage[i].kind != PLX_STAGE_ACCEL || k-- > 0)
		i++;
	return c->stage[i].device_idx;
}

static uint32_t count_workers(const struct plx_config *c, uint32_t device_idx)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < c->n_stages; i++)
		n += c->stage[i].kind == PLX_STAGE_WORKER && c->stage[i].device_idx == device_idx;
	return n;
}

void plx_worker_of(const struct plx_config *cfg, uint32_t stage, uint32_t *dev, uint32_t *idx)
{
	uint32_t device_idx = cfg->stage[stage].device_idx;

	for (*dev = 0; accel_device(cfg, *dev) != device_idx;)
		++*dev;
	*idx = 0;
	for (uint32_t i = 0; i <= stage; i++)
		*idx += cfg->stage[i].kind == PLX_STAGE_WORKER &&
		        cfg->stage[i].device_idx == device_idx;
}

static bool drafts(const struct plx_config *c, uint32_t k)
{
	return c->dev[accel_device(c, k)].role == PLX_CFG_DRAFT;
}

/* Devices that answer: all but the one that drafts, which is the last. */
static uint32_t n_answering(const struct plx_appliance *a)
{
	return a->n_dev - (a->n_dev > 0 && drafts(a->cfg, a->n_dev - 1) ? 1 : 0);
}

static int load_model(struct plx_appliance *a, uint32_t k, struct plx_diag *d)
{
	uint32_t n_threads = 1 + count_workers(a->cfg, accel_device(a->cfg, k));
	const struct plx_model *model = drafts(a->cfg, k) ? a->assets->draft : a->assets->model;
	struct plx_dev_limits lim =
	    drafts(a->cfg, k)
		? plx_batch_draft_limits(a->cfg, a->assets->model->n_ctx, model->n_ctx, n_threads)
		: plx_batch_dev_limits(a->cfg, model->n_ctx, n_threads);
	struct plx_load_progress p = {0};
	uint64_t begin_ns = plx_clock_ns();
	uint64_t said_ns = begin_ns;
	int err = plx_dev_load_begin(a->dev[k], model, &lim, d);

	if (err != 0 || a->check)
		return err;
	/* H1: pairs with H2, so that a helper sees the device. */
	atomic_store_explicit(&a->loading[k], true, memory_order_release);
	while ((err = plx_dev_load_poll(a->dev[k], 10000, &p, d)) == PLX_E_AGAIN) {
		if (plx_control_stop_asked())
			return plx_diag_set(d, PLX_E_CANCELLED, "told to stop while loading");
		if (plx_clock_ns() - said_ns < PLX_NS_PER_S)
			continue;
		said_ns = plx_clock_ns();
		plx_log(PLX_LOG_INFO, "loading %s: %" PRIu64 " of %" PRIu64 " MiB", p.what,
		        p.done_bytes >> 20, p.total_bytes >> 20);
	}
	if (err == 0)
		plx_log(PLX_LOG_INFO, "loaded in %" PRIu64 " ms: %s",
		        (plx_clock_ns() - begin_ns) / PLX_NS_PER_MS, p.note);
	return err;
}

int plx_load_help(void *arg)
{
	struct plx_load_helper *h = arg;

	/* H2: pairs with H1. */
	while (!atomic_load_explicit(&h->app->loading[h->dev], memory_order_acquire)) {
		if (atomic_load_explicit(&h->app->load_over, memory_order_acquire))
			return 0;
		usleep(HELP_WAIT_US);
	}
	while (!atomic_load_explicit(&h->app->load_over, memory_order_acquire))
		if (plx_dev_worker(h->app->dev[h->dev], h->idx, HELP_SLICE_US) <= 0)
			usleep(HELP_WAIT_US);
	return 0;
}

/* Where the device's arithmetic will run; the accel stage's lcore polls it. */
static void place(struct plx_dev_conf *conf, const struct plx_config *cfg, uint32_t device_idx)
{
	for (uint32_t i = 0; i < cfg->n_stages; i++) {
		const struct plx_cfg_stage *s = &cfg->stage[i];

		if ((s->kind != PLX_STAGE_ACCEL && s->kind != PLX_STAGE_WORKER) ||
		    s->device_idx != device_idx)
			continue;
		if (s->kind == PLX_STAGE_ACCEL)
			conf->owner_cpu = s->lcore;
		if (s->lcore / 64 < sizeof(conf->cpus) / sizeof(conf->cpus[0]))
			conf->cpus[s->lcore / 64] |= UINT64_C(1) << s->lcore % 64;
	}
}

static void log_device(const struct plx_appliance *a, uint32_t k, const struct plx_cfg_dev *c)
{
	static const char *const runs[] = {[PLX_CFG_MIXED] = "",
	                                   [PLX_CFG_PREFILL] = ", for prompts",
	                                   [PLX_CFG_DECODE] = ", for answers",
	                                   [PLX_CFG_DRAFT] = ", for drafts"};
	const struct plx_dev_info *info = &a->info[k];
	uint32_t n_blocks = c->n_kv_blocks ? c->n_kv_blocks : a->cfg->lim.n_kv_blocks;
	uint64_t kv = (uint64_t)info->block_bytes * n_blocks;

	if (a->check)
		plx_log(PLX_LOG_INFO, "device %s: %s, arithmetic %s%s", c->name, info->name,
		        info->numeric_kind, runs[c->role]);
	else
		plx_log(PLX_LOG_INFO,
		        "device %s: %s, arithmetic %s; %" PRIu64 " MiB, of which %" PRIu64
		        " MiB KV (%" PRIu32 " blocks of %" PRIu32 " KiB)%s",
		        c->name, info->name, info->numeric_kind, info->mem_used_bytes >> 20,
		        kv >> 20, n_blocks, info->block_bytes >> 10, runs[c->role]);
}

static int open_device(struct plx_appliance *a, uint32_t k, struct plx_diag *d)
{
	uint32_t device_idx = accel_device(a->cfg, k);
	const struct plx_cfg_dev *c = &a->cfg->dev[device_idx];
	struct plx_dev_conf conf = {.index = c->index};

	memcpy(conf.name, c->name, sizeof(conf.name));
	memcpy(conf.kind, c->kind, sizeof(conf.kind));
	memcpy(conf.isa, c->isa, sizeof(conf.isa));
	_Static_assert(sizeof(conf.cache_base) >= sizeof(a->cfg->model_path), "a path fits");
	if (a->cfg->weights_cache && !a->check)
		memcpy(conf.cache_base, drafts(a->cfg, k) ? c->model : a->cfg->model_path,
		       sizeof(a->cfg->model_path));
	place(&conf, a->cfg, device_idx);
	int err = plx_dev_open(&conf, &a->dev[k], d);

	a->n_dev += err == 0;
	if (err == 0)
		err = load_model(a, k, d);
	if (err == 0 && !a->check)
		err = plx_queue_open(a->dev[k], &a->queue[k], d);
	if (err == 0)
		err = plx_dev_info_get(a->dev[k], &a->info[k]);
	if (err == 0)
		log_device(a, k, c);
	if (err != 0 && err != PLX_E_CANCELLED)
		plx_diag_at(d, a->cfg->board_path, err == PLX_E_NOMEM ? a->cfg->kv_line : c->line);
	return err;
}

int plx_device_open(struct plx_appliance *a, struct plx_diag *d)
{
	uint32_t n = count_kind(a->cfg, PLX_STAGE_ACCEL);
	int err = PLX_E_OK;

	for (uint32_t k = 0; k < n && err == 0; k++)
		err = open_device(a, k, d);
	return err;
}

/* What all devices that answer can do. */
static uint32_t caps_of(const struct plx_appliance *a)
{
	uint32_t caps = UINT32_MAX;

	for (uint32_t k = 0; k < n_answering(a); k++)
		caps &= a->info[k].caps;
	return caps;
}

static uint32_t kind_of(const struct plx_dev_info *info)
{
	return (uint32_t)XXH3_64bits(info->numeric_kind, strlen(info->numeric_kind));
}

int plx_ports_open(struct plx_appliance *a, struct plx_diag *d)
{
	for (uint32_t i = 0; i < a->cfg->n_ports; i++) {
		int err = plx_port_open(&a->port[i], a->cfg, i, d);

		if (err != 0) {
			plx_diag_at(d, a->cfg->board_path, a->cfg->port[i].line);
			return err;
		}
		a->n_ports++;
	}
	return PLX_E_OK;
}

/* The table a client gets after its handshake: one model. */
static int make_models(struct plx_appliance *a, uint32_t *n_bytes)
{
	const struct plx_model *m = a->assets->model;
	struct plx_models_writer w;
	struct plx_msg_model entry = {.model_id = PLX_DEFAULT_MODEL_ID,
	                              .context_tokens = a->cfg->lim.context_tokens,
	                              .vocab_size = m->n_vocab,
	                              .n_embd = m->n_embd,
	                              .flags = a->assets->chat != NULL ? PLX_MODEL_CHAT : 0,
	                              .name_bytes = (uint32_t)strlen(m->name)};

	memcpy(entry.hash, m->hash, sizeof(m->hash));
	plx_models_begin(&w, a->models, sizeof(a->models));
	plx_models_add(&w, &entry, m->name);
	int n = plx_models_end(&w);

	*n_bytes = n > 0 ? (uint32_t)n : 0;
	return n > 0 ? PLX_E_OK : n;
}

static uint64_t features(const struct plx_appliance *a)
{
	uint64_t f = PLX_FEAT_GENERATE | PLX_FEAT_TEXT | PLX_FEAT_IDS | PLX_FEAT_DETERMINISTIC |
	             PLX_FEAT_STOP | PLX_FEAT_RESUME;

	if (a->assets->chat != NULL)
		f |= PLX_FEAT_MESSAGES;
	if (caps_of(a) & PLX_CAP_LOGPROBS)
		f |= PLX_FEAT_LOGPROBS;
	if ((caps_of(a) & PLX_CAP_SHIFT) && (caps_of(a) & PLX_CAP_COPY))
		f |= PLX_FEAT_COMPRESSION;
	if ((caps_of(a) & PLX_CAP_SCORE) && a->assets->tok != NULL)
		f |= PLX_FEAT_PRUNE;
	if (caps_of(a) & PLX_CAP_EVICT)
		f |= PLX_FEAT_EVICT;
	if (a->cfg->lim.n_samples > 1)
		f |= PLX_FEAT_SAMPLES;
	if (a->cfg->lim.n_samples > 1 && a->cfg->lim.best_of_tokens > 0 &&
	    (caps_of(a) & PLX_CAP_LOGPROBS))
		f |= PLX_FEAT_BEST_OF;
	if ((caps_of(a) & PLX_CAP_SPARSE) && a->info[0].sparse_kind[0] != '\0')
		f |= PLX_FEAT_SPARSE;
	if (a->cfg->lim.kept_tokens > 0)
		f |= PLX_FEAT_CONTINUE;
	return f;
}

static uint16_t least_datagram(const struct plx_appliance *a)
{
	uint16_t least = UINT16_MAX;

	for (uint32_t i = 0; i < a->n_ports; i++)
		if (a->port[i].max_datagram < least)
			least = a->port[i].max_datagram;
	return least;
}

static int open_shared(struct plx_appliance *a, struct plx_diag *d)
{
	struct plx_io_conf conf = {
	    .cfg = a->cfg,
	    .links = &a->links,
	    .keys = a->keys,
	    .n_io = count_kind(a->cfg, PLX_STAGE_IO),
	    .max_datagram = least_datagram(a),
	    .features = features(a),
	    .numeric_kind = kind_of(&a->info[0]),
	    .models = a->models,
	};
	int err = make_models(a, &conf.models_bytes);

	if (err != 0)
		return plx_diag_set(d, err, "the model's name does not fit the model table");
	return plx_io_shared_open(&a->shared, &a->arena, &conf, d);
}

/* The stages' pages, where others can read them, or in memory of our own. */
static int open_pages(struct plx_appliance *a, struct plx_diag *d)
{
	const struct plx_config *c = a->cfg;
	char path[PLX_SHARE_PATH_BYTES];

	if (a->check || strcmp(c->telemetry, "off") == 0) {
		a->page = plx_arena_take(&a->arena, c->n_stages * sizeof(struct plx_page), 64);
		return a->page != NULL ? PLX_E_OK
		                       : plx_diag_set(d, PLX_E_NOMEM, "no room for stage pages");
	}
	snprintf(path, sizeof(path), "/dev/shm/polluxd-%s", c->file_prefix);
	int err = plx_share_create(&a->share, c->telemetry[0] != '\0' ? c->telemetry : path,
	                           c->n_stages, c->lim.trace_events, d);

	if (err != 0)
		return err;
	a->page = a->share.page;
	memcpy(a->share.head->board, c->board, sizeof(a->share.head->board));
	snprintf(a->share.head->model, sizeof(a->share.head->model), "%s", a->assets->model->name);
	plx_log(PLX_LOG_INFO, "telemetry: %s, %zu KiB", a->share.path, a->share.bytes >> 10);
	return PLX_E_OK;
}

int plx_memory_open(struct plx_appliance *a, struct plx_diag *d)
{
	uint32_t n_io = count_kind(a->cfg, PLX_STAGE_IO);
	size_t bytes = plx_links_bytes(a->cfg, n_io) + plx_io_shared_bytes(a->cfg, n_io) +
	               plx_stage_tok_bytes(a->cfg) +
	               plx_stage_batch_bytes(a->cfg, a->assets->model->n_ctx) +
	               (size_t)a->cfg->n_stages * (sizeof(struct plx_page) + 64) + 4096;
	size_t io_bytes = n_io * plx_stage_io_bytes(a->cfg);
	/* The io stages map theirs when they open; a check counts everything at once. */
	int err = plx_arena_open(&a->arena, a->check ? bytes + io_bytes : bytes, d);

	if (err != 0) {
		plx_diag_at(d, a->cfg->board_path, 0);
		return err;
	}
	plx_log(PLX_LOG_INFO, "stages: %zu MiB for requests, sessions and rings, on %s pages",
	        (bytes + io_bytes) >> 20, a->arena.huge ? "2 MiB" : "ordinary");
	return open_pages(a, d);
}

/* The lcore of a CPU, made at its first stage. */
static struct plx_lcore *lcore_of(struct plx_appliance *a, uint32_t cpu)
{
	for (uint32_t i = 0; i < a->n_lcores; i++)
		if (a->lcore[i].cpu == cpu)
			return &a->lcore[i];
	struct plx_lcore *lc = &a->lcore[a->n_lcores++];

	lc->cpu = cpu;
	lc->backoff = a->cfg->idle_backoff;
	lc->stop = &a->stop;
	return lc;
}

static int open_batch(struct plx_appliance *a, struct plx_page *page, struct plx_diag *d)
{
	struct plx_batch_model m = {.model_id = PLX_DEFAULT_MODEL_ID,
	                            .n_ctx = a->assets->model->n_ctx,
	                            .n_vocab = a->assets->model->n_vocab,
	                            .caps = caps_of(a),
	                            .prefix_cache = true};

	m.n_eog = plx_tok_eog(a->assets->tok, &m.eog);
	randombytes_buf(&m.secret, sizeof(m.secret));
	if (n_answering(a) < a->n_dev) {
		const struct plx_cfg_dev *c = &a->cfg->dev[accel_device(a->cfg, a->n_dev - 1)];

		m.draft_kind = c->model[0] != '\0' ? PLX_DRAFT_MODEL : PLX_DRAFT_LAYERS;
		m.draft_lim = plx_batch_draft_limits(a->cfg, m.n_ctx, a->assets->draft->n_ctx, 1);
	}
	struct plx_batch_dev dev[PLX_CFG_MAX_DEVS] = {0};

	for (uint32_t k = 0; k < a->n_dev; k++)
		dev[k] = (struct plx_batch_dev){
		    .queue = a->queue[k],
		    .role = a->cfg->dev[accel_device(a->cfg, k)].role,
		    .kind = kind_of(&a->info[k]),
		    .layout = a->info[k].caps & PLX_CAP_COPY ? a->info[k].kv_layout_hash : 0};
	return plx_stage_batch_init(&a->batch, &a->links, &a->arena, dev, &m, page, d);
}

static int open_io(struct plx_appliance *a, const struct plx_cfg_stage *s, struct plx_page *page,
                   struct plx_diag *d)
{
	uint32_t k = a->n_io;
	int err = plx_stage_io_open(&a->io[k], &a->shared, &a->port[s->port_idx],
	                            (uint16_t)s->queue, k, page, d);

	a->n_io += err == 0;
	return err;
}

static void open_worker(struct plx_appliance *a, uint32_t i, uint32_t k)
{
	uint32_t dev, idx;

	plx_worker_of(a->cfg, i, &dev, &idx);
	a->worker[k] = (struct plx_stage_worker){
	    .dev = a->dev[dev], .idx = idx, .slice_us = a->cfg->tmr.slice_us};
	a->n_worker++;
}

/* Makes stage i and puts it on its lcore; k counts the stages of its kind before it. */
static int open_stage(struct plx_appliance *a, uint32_t i, uint32_t k, struct plx_diag *d)
{
	const struct plx_cfg_stage *s = &a->cfg->stage[i];
	struct plx_lcore *lc = lcore_of(a, s->lcore);
	struct plx_page *page = &a->page[i];
	int err = PLX_E_OK;

	plx_page_init(page, s->kind, k, s->lcore);
	switch (s->kind) {
	case PLX_STAGE_IO:
		err = open_io(a, s, page, d);
		return err ? err : plx_lcore_add(lc, plx_stage_io_poll, a->io[k], page);
	case PLX_STAGE_HS:
		err = plx_stage_hs_open(&a->hs, &a->shared, page, d);
		return err ? err : plx_lcore_add(lc, plx_stage_hs_poll, &a->hs, page);
	case PLX_STAGE_TOK:
		err = plx_stage_tok_init(&a->tok, &a->links, &a->arena, a->assets->tok,
		                         a->assets->chat, page, d);
		return err ? err : plx_lcore_add(lc, plx_stage_tok_poll, &a->tok, page);
	case PLX_STAGE_BATCH:
		err = open_batch(a, page, d);
		return err ? err : plx_lcore_add(lc, plx_stage_batch_poll, &a->batch, page);
	case PLX_STAGE_ACCEL:
		err =
		    plx_stage_accel_init(&a->accel[k], &a->links, k, a->dev[k], a->queue, page, d);
		return err ? err : plx_lcore_add(lc, plx_stage_accel_poll, &a->accel[k], page);
	case PLX_STAGE_WORKER:
	default:
		open_worker(a, i, k);
		return plx_lcore_add(lc, plx_stage_worker_poll, &a->worker[k], page);
	}
}

/* From here on no lcore waits for a page; without that it may, and the log says so. */
static void settle(const struct plx_appliance *a)
{
	struct plx_diag why = {0};

	if (plx_settle(a->cfg->model_path, &why) != 0)
		plx_log(PLX_LOG_WARN, "%s", why.text);
}

int plx_stages_open(struct plx_appliance *a, struct plx_diag *d)
{
	uint32_t seen[PLX_STAGE_WORKER + 1] = {0};
	int err = plx_links_open(&a->links, &a->arena, a->cfg, count_kind(a->cfg, PLX_STAGE_IO), d);

	if (err == 0)
		err = open_shared(a, d);
	for (uint32_t i = 0; err == 0 && i < a->cfg->n_stages; i++) {
		err = open_stage(a, i, seen[a->cfg->stage[i].kind]++, d);
		if (err == PLX_E_FULL)
			plx_diag_set(d, err, "%s: more than %d stages on lcore %" PRIu32,
			             a->cfg->board_path, PLX_LCORE_MAX_STAGES,
			             a->cfg->stage[i].lcore);
	}
	if (err == 0) {
		plx_arena_seal(&a->arena);
		plx_share_state_set(&a->share, PLX_SHARE_SERVING);
		settle(a);
	}
	return err;
}

bool plx_can_compress(const struct plx_config *cfg)
{
	const uint32_t need = PLX_CAP_SHIFT | PLX_CAP_COPY;

	for (uint32_t i = 0; i < cfg->n_devs; i++)
		if ((plx_dev_kind_caps(cfg->dev[i].kind) & need) != need)
			return false;
	return true;
}

/* What keeps a sequence from more positions. */
static const char *context_bound(uint32_t wanted, uint32_t n_ctx, uint64_t pool)
{
	if (wanted != 0 && wanted <= n_ctx && wanted <= pool)
		return "limits.context_tokens would raise it";
	return pool < n_ctx ? "KV memory holds no more; limits.n_kv_blocks would raise it"
	                    : "the model holds no more";
}

void plx_context_fit(struct plx_config *cfg, uint32_t n_ctx, bool beyond)
{
	struct plx_cfg_limits *l = &cfg->lim;
	uint64_t pool = (uint64_t)l->n_kv_blocks * l->block_tokens;
	uint64_t most = pool < n_ctx ? pool : n_ctx;
	const char *why = context_bound(l->context_tokens, n_ctx, pool);

	plx_log(PLX_LOG_INFO,
	        "context: the model has %" PRIu32 " tokens, KV memory %" PRIu64
	        " for all sequences together",
	        n_ctx, pool);
	if (l->context_tokens != 0 && l->context_tokens < most)
		most = l->context_tokens;
	l->context_tokens = (uint32_t)most;
	if (l->prompt_tokens < most) /* and one token of an answer */
		return;
	if (beyond) {
		plx_log(PLX_LOG_INFO,
		        "prompts of more than %" PRIu64 " tokens need leave to compress: %s",
		        most - 1, why);
		return;
	}
	plx_log(PLX_LOG_INFO, "limits.prompt_tokens lowered from %" PRIu32 " to %" PRIu64 ": %s",
	        l->prompt_tokens, most - 1, why);
	l->prompt_tokens = (uint32_t)most - 1;
}

static void log_placement(const struct plx_appliance *a)
{
	for (uint32_t i = 0; i < a->n_lcores; i++) {
		char line[256] = "";
		size_t used = 0;

		for (uint32_t k = 0; k < a->cfg->n_stages && used < sizeof(line) - 40; k++)
			if (a->cfg->stage[k].lcore == a->lcore[i].cpu)
				used += (size_t)snprintf(line + used, sizeof(line) - used, " %s",
				                         a->page[k].name);
		plx_log(PLX_LOG_INFO, "lcore %" PRIu32 ":%s%s", a->lcore[i].cpu, line,
		        a->lcore[i].backoff ? " (backs off when idle)" : "");
	}
}

void plx_appliance_log(const struct plx_appliance *a)
{
	const struct plx_cfg_limits *l = &a->cfg->lim;

	log_placement(a);
	plx_log(PLX_LOG_INFO,
	        "limits: %" PRIu32 " sessions an io stage, %" PRIu32 " requests, %" PRIu32
	        " sequences, %" PRIu32 " KV blocks of %" PRIu32 " tokens, %" PRIu32
	        " tokens a step, slice %" PRIu32 " us",
	        l->n_sessions, l->n_requests, l->n_slots, l->n_kv_blocks, l->block_tokens,
	        l->step_tokens, a->cfg->tmr.slice_us);
	for (uint32_t i = 0; i < a->n_ports; i++)
		plx_log(PLX_LOG_INFO, "port %s: %s, UDP port %u, datagrams of %u bytes at most",
		        a->port[i].name, plx_port_kind_name(a->port[i].kind),
		        a->cfg->port[i].udp_port, a->port[i].max_datagram);
	if (a->cfg->insecure)
		plx_log(PLX_LOG_WARN, "INSECURE: no keys; whoever reaches the port is served");
	else
		plx_log(PLX_LOG_INFO, "keys: %" PRIu32 " clients", plx_keys_get(a->keys)->n);
}

static uint64_t sum(const struct plx_appliance *a, enum plx_metric m)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < a->cfg->n_stages; i++)
		n += plx_counter_read(&a->page[i], m);
	return n;
}

static void log_times(const struct plx_page *p)
{
	for (uint32_t h = 0; h < PLX_H_COUNT; h++)
		if (p->hist[h].count != 0)
			plx_log(PLX_LOG_DEBUG,
			        "%s %s: %" PRIu64 " times, p50 %" PRIu64 " us, p99 %" PRIu64
			        " us, max %" PRIu64 " us",
			        p->name, plx_hist_name(h), p->hist[h].count,
			        plx_hist_quantile(&p->hist[h], 0.5) / PLX_NS_PER_US,
			        plx_hist_quantile(&p->hist[h], 0.99) / PLX_NS_PER_US,
			        p->hist[h].max_ns / PLX_NS_PER_US);
}

void plx_appliance_log_served(const struct plx_appliance *a)
{
	for (uint32_t i = 0; i < a->cfg->n_stages; i++) {
		const struct plx_page *p = &a->page[i];

		for (uint32_t m = 0; m < PLX_M_COUNT; m++)
			if (plx_counter_read(p, m) != 0)
				plx_log(PLX_LOG_DEBUG, "%s %s: %" PRIu64 " %s", p->name,
				        plx_metric_name(m), plx_counter_read(p, m),
				        plx_metric_unit(m));
		log_times(p);
		if (p->kind == PLX_STAGE_IO)
			plx_log(PLX_LOG_INFO,
			        "%s: %" PRIu64 " packets in, %" PRIu64 " out, %" PRIu64 " sessions",
			        p->name, plx_counter_read(p, PLX_M_IO_RX),
			        plx_counter_read(p, PLX_M_IO_TX),
			        plx_counter_read(p, PLX_M_SESSION_OPENED));
	}
	plx_log(
	    PLX_LOG_INFO,
	    "served: %" PRIu64 " requests done, %" PRIu64 " rejected, %" PRIu64
	    " cancelled; %" PRIu64 " prompt tokens, %" PRIu64 " from cache, %" PRIu64 " generated",
	    sum(a, PLX_M_REQ_DONE), sum(a, PLX_M_REQ_REJECTED), sum(a, PLX_M_REQ_CANCELLED),
	    sum(a, PLX_M_BATCH_PREFILL), sum(a, PLX_M_BATCH_CACHED), sum(a, PLX_M_BATCH_DECODE));
}

void plx_appliance_close(struct plx_appliance *a)
{
	for (uint32_t i = 0; i < a->n_io; i++) {
		plx_stage_io_farewell(a->io[i], plx_clock_ns());
		plx_stage_io_close(a->io[i]);
	}
	plx_stage_tok_close(&a->tok);
	for (uint32_t k = 0; k < a->n_dev; k++)
		plx_dev_close(a->dev[k]);
	for (uint32_t i = 0; i < a->n_ports; i++)
		plx_port_close(&a->port[i]);
	plx_share_close(&a->share);
	plx_arena_close(&a->arena);
}
