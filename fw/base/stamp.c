/* The names of the metrics, from the one list. */
#include "fw/base/stamp.h"

static const char *const metric_name[] = {
#define PLX_METRIC(name, unit, help) #name,
#include "fw/base/metrics.def"
};

static const char *const metric_unit[] = {
#define PLX_METRIC(name, unit, help) unit,
#include "fw/base/metrics.def"
};

static const char *const metric_help[] = {
#define PLX_METRIC(name, unit, help) help,
#include "fw/base/metrics.def"
};

static const char *const gauge_name[] = {
#define PLX_GAUGE(name, unit, help) #name,
#include "fw/base/metrics.def"
};

static const char *const gauge_unit[] = {
#define PLX_GAUGE(name, unit, help) unit,
#include "fw/base/metrics.def"
};

static const char *const gauge_help[] = {
#define PLX_GAUGE(name, unit, help) help,
#include "fw/base/metrics.def"
};

static const char *const hist_name[] = {
#define PLX_HIST(name, help) #name,
#include "fw/base/metrics.def"
};

static const char *const hist_help[] = {
#define PLX_HIST(name, help) help,
#include "fw/base/metrics.def"
};

const char *plx_metric_name(enum plx_metric m)
{
	return m < PLX_M_COUNT ? metric_name[m] : "UNKNOWN";
}

const char *plx_metric_unit(enum plx_metric m)
{
	return m < PLX_M_COUNT ? metric_unit[m] : "";
}

const char *plx_metric_help(enum plx_metric m)
{
	return m < PLX_M_COUNT ? metric_help[m] : "";
}

const char *plx_gauge_name(enum plx_gauge g)
{
	return g < PLX_G_COUNT ? gauge_name[g] : "UNKNOWN";
}

const char *plx_gauge_unit(enum plx_gauge g)
{
	return g < PLX_G_COUNT ? gauge_unit[g] : "";
}

const char *plx_gauge_help(enum plx_gauge g)
{
	return g < PLX_G_COUNT ? gauge_help[g] : "";
}

const char *plx_hist_name(enum plx_hist_idx h)
{
	return h < PLX_H_COUNT ? hist_name[h] : "UNKNOWN";
}

const char *plx_hist_help(enum plx_hist_idx h)
{
	return h < PLX_H_COUNT ? hist_help[h] : "";
}

const char *plx_regime_name(enum plx_regime r)
{
	static const char *const name[] = {"busy", "idle", "backpressured", "housekeeping"};

	return r < PLX_REGIME_COUNT ? name[r] : "unknown";
}

const char *plx_trace_name(uint32_t kind)
{
	static const char *const name[] = {
	    "unknown",  "req_whole", "req_encoded", "req_taken", "req_accepted", "token", "text",
	    "taken_tx", "sent",      "req_end",     "req_gone",  "step",         "stall", "long"};

	return name[kind < PLX_TR_KIND_END ? kind : 0];
}
