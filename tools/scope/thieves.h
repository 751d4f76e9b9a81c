/* What the eBPF programs and their reader agree on. */
#ifndef PLX_TOOLS_SCOPE_THIEVES_H
#define PLX_TOOLS_SCOPE_THIEVES_H

#include "tools/scope/thief.h"

#define PLX_WATCH_THREADS  128
#define PLX_WATCH_CPUS     1024
#define PLX_WATCH_IRQ_NS   1000    /* interrupts shorter than that are not reported */
#define PLX_WATCH_CALL_NS  20000   /* nor system calls; they are counted */
#define PLX_WATCH_SLEEP_NS 1000000 /* nor sleeps, which idle back-off makes by the thousand */

#endif
