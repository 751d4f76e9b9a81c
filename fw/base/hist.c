/* Reading log-linear histograms back. */
#include "fw/base/hist.h"

uint64_t plx_hist_low_ns(uint32_t bin)
{
	uint32_t exp = (bin >> PLX_HIST_SUB_BITS) + PLX_HIST_MIN_EXP;
	uint64_t sub = bin & ((1u << PLX_HIST_SUB_BITS) - 1);

	return (UINT64_C(1) << exp) + (sub << (exp - PLX_HIST_SUB_BITS));
}

uint64_t plx_hist_quantile(const struct plx_hist *h, double q)
{
	if (h->count == 0)
		return 0;
	if (q >= 1.0)
		return h->max_ns;
	uint64_t want = (uint64_t)(q * (double)h->count);
	uint64_t seen = 0;

	for (uint32_t b = 0; b < PLX_HIST_BINS; b++) {
		seen += h->bin[b];
		if (seen > want) {
			uint64_t mid = (plx_hist_low_ns(b) + plx_hist_low_ns(b + 1)) / 2;

			return mid < h->max_ns ? mid : h->max_ns;
		}
	}
	return h->max_ns;
}
