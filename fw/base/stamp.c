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

static const char *const hist_name[] = {
#define PLX_HIST(name, help) #name,
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

const char *plx_hist_name(enum plx_hist_idx h)
{
	return h < PLX_H_COUNT ? hist_name[h] : "UNKNOWN";
}
