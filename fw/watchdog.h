/*
 * Is every lcore alive? Main looks at the heartbeats of the lcores' loops; only when each has moved
 * since the last look is systemd's watchdog fed. A hung lcore is named once in the log.
 */
#ifndef PLX_FW_WATCHDOG_H
#define PLX_FW_WATCHDOG_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define PLX_WATCHDOG_MAX_LCORES 128

struct plx_watchdog {
	uint32_t n;
	struct {
		const _Atomic uint64_t *heartbeat; /* turns of the lcore's loop */
		uint32_t cpu;
		uint64_t last;
		uint64_t moved_ns; /* when it was last seen to move */
		bool named;        /* its hang was logged */
	} lcore[PLX_WATCHDOG_MAX_LCORES];
};

/* plx_watchdog_add - watch one lcore's heartbeat. Errors: FULL. */
int plx_watchdog_add(struct plx_watchdog *w, const _Atomic uint64_t *heartbeat, uint32_t cpu,
                     uint64_t now_ns);

/*
 * plx_watchdog_look - look at all heartbeats.
 *
 * @hung_ns  a heartbeat that stands still for longer is a hang.
 * @hung_cpu out: the first lcore that hangs, when the answer is false; may be NULL.
 *
 * Returns true when every lcore moved since the last look, which is when systemd may be fed.
 */
bool plx_watchdog_look(struct plx_watchdog *w, uint64_t now_ns, uint64_t hung_ns,
                       uint32_t *hung_cpu);

#endif
