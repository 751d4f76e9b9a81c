/* Compares heartbeats with what they were at the last look. */
#include "fw/watchdog.h"

#include <stddef.h>

#include "fw/base/err.h"
#include "fw/base/log.h"

int plx_watchdog_add(struct plx_watchdog *w, const _Atomic uint64_t *heartbeat, uint32_t cpu,
                     uint64_t now_ns)
{
	if (w->n == PLX_WATCHDOG_MAX_LCORES)
		return PLX_E_FULL;
	w->lcore[w->n].heartbeat = heartbeat;
	w->lcore[w->n].cpu = cpu;
	w->lcore[w->n].last = atomic_load_explicit(heartbeat, memory_order_relaxed);
	w->lcore[w->n].moved_ns = now_ns;
	w->lcore[w->n].named = false;
	w->n++;
	return PLX_E_OK;
}

/* One lcore: did it move? A hang, and its end, are logged once each. */
static bool look_at(struct plx_watchdog *w, uint32_t i, uint64_t now_ns, uint64_t hung_ns)
{
	uint64_t beat = atomic_load_explicit(w->lcore[i].heartbeat, memory_order_relaxed);

	if (beat != w->lcore[i].last) {
		if (w->lcore[i].named)
			plx_log(PLX_LOG_WARN, "lcore %u moves again", w->lcore[i].cpu);
		w->lcore[i].last = beat;
		w->lcore[i].moved_ns = now_ns;
		w->lcore[i].named = false;
		return true;
	}
	if (!w->lcore[i].named && now_ns - w->lcore[i].moved_ns > hung_ns) {
		plx_log(PLX_LOG_ERROR, "lcore %u hangs: no turn for %llu ms", w->lcore[i].cpu,
		        (unsigned long long)((now_ns - w->lcore[i].moved_ns) / 1000000));
		w->lcore[i].named = true;
	}
	return false;
}

bool plx_watchdog_look(struct plx_watchdog *w, uint64_t now_ns, uint64_t hung_ns,
                       uint32_t *hung_cpu)
{
	bool all = true;

	for (uint32_t i = 0; i < w->n; i++) {
		bool moved = look_at(w, i, now_ns, hung_ns);

		if (!moved && all && hung_cpu != NULL)
			*hung_cpu = w->lcore[i].cpu;
		all = all && moved;
	}
	return all;
}
