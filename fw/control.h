/*
 * What main does while the stages run: signals, systemd, the watchdog, the drain. It sleeps
 * between looks and shares nothing with the data path but a few atomics.
 */
#ifndef PLX_FW_CONTROL_H
#define PLX_FW_CONTROL_H

#include <stdbool.h>

#include "dataplane/keytab.h"
#include "dataplane/request.h"
#include "fw/watchdog.h"

struct plx_control {
	const struct plx_config *cfg;
	struct plx_links *links;
	struct plx_keys *keys;
	struct plx_watchdog watchdog;
};

/*
 * plx_control_block_signals - block TERM, INT and HUP for this thread and those it will start, so
 * that plx_control_run alone takes them. Thread: main, before any other thread exists.
 */
void plx_control_block_signals(void);

/*
 * plx_control_run - tell systemd that we are ready, then serve until TERM or INT, then drain.
 *
 * HUP reloads the keys; a file that is wrong is reported and the old keys stay. The drain refuses
 * new requests and waits timers.drain_ms for those in flight; then, or at a second TERM, the rest
 * is ended and its clients told.
 *
 * Returns true when every request in flight had finished by itself. The stages still run.
 */
bool plx_control_run(struct plx_control *c);

/* plx_control_stop_asked - a TERM or INT waits to be taken, so starting is not worth going on. */
bool plx_control_stop_asked(void);

/* plx_control_notify - one line of systemd's notify protocol; nothing happens without systemd. */
void plx_control_notify(const char *state);

#endif
