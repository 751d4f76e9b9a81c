/* The control loop: wait for a signal for a short time, look at the heartbeats, again. */
#include "fw/control.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>

#include <systemd/sd-daemon.h>

#include "fw/base/clock.h"
#include "fw/base/err.h"
#include "fw/base/log.h"

#define LOOK_MS     200u  /* between two looks at the heartbeats */
#define HUNG_MS     2000u /* a heartbeat that stands still for longer is a hang */
#define LAST_ACK_MS 1000u /* for clients to hear that their request was ended */

static sigset_t control_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	return set;
}

void plx_control_block_signals(void)
{
	sigset_t set = control_signals();

	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
}

bool plx_control_stop_asked(void)
{
	sigset_t set;

	return sigpending(&set) == 0 &&
	       (sigismember(&set, SIGTERM) == 1 || sigismember(&set, SIGINT) == 1);
}

void plx_control_notify(const char *state)
{
	(void)sd_notify(0, state); /* without systemd there is nobody to tell */
}

/* The next of our signals, or 0 when none came within wait_ms. */
static int next_signal(uint32_t wait_ms)
{
	sigset_t set = control_signals();
	struct timespec wait = {.tv_sec = wait_ms / 1000,
	                        .tv_nsec = (long)(wait_ms % 1000) * 1000000};
	int sig = sigtimedwait(&set, NULL, &wait);

	return sig > 0 ? sig : 0;
}

static void look(struct plx_control *c)
{
	if (plx_watchdog_look(&c->watchdog, plx_clock_ns(), HUNG_MS * PLX_NS_PER_MS, NULL))
		plx_control_notify("WATCHDOG=1");
}

/* Returns true when the reload is done, well or badly; false: call again. */
static bool reload_keys(struct plx_control *c)
{
	struct plx_diag d = {0};
	int err = plx_keys_reload(c->keys, c->cfg->keys_path, &d);

	if (err == PLX_E_AGAIN)
		return false;
	if (err != 0)
		plx_log(PLX_LOG_ERROR, "keys not reloaded, the old ones stay: %s", d.text);
	else
		plx_log(PLX_LOG_INFO, "keys reloaded: %" PRIu32 " clients",
		        plx_keys_get(c->keys)->n);
	return true;
}

static void serve(struct plx_control *c)
{
	bool reload = false;

	for (;;) {
		int sig = next_signal(LOOK_MS);

		if (sig == SIGTERM || sig == SIGINT)
			return;
		if (sig == SIGHUP && c->cfg->insecure)
			plx_log(PLX_LOG_WARN, "insecure: there are no keys to reload");
		else if (sig == SIGHUP)
			reload = true;
		if (reload) {
			plx_control_notify("RELOADING=1");
			reload = !reload_keys(c);
			plx_control_notify("READY=1");
		}
		look(c);
	}
}

/* Waits until no request is busy; false when the time is over or another TERM came. */
static bool wait_idle(struct plx_control *c, uint32_t limit_ms)
{
	uint64_t end_ns = plx_clock_ns() + limit_ms * PLX_NS_PER_MS;

	while (plx_req_busy(c->links) > 0) {
		if (plx_clock_ns() >= end_ns)
			return false;
		int sig = next_signal(10);

		if (sig == SIGTERM || sig == SIGINT)
			return false;
		look(c);
	}
	return true;
}

bool plx_control_run(struct plx_control *c)
{
	plx_control_notify("READY=1");
	plx_log(PLX_LOG_INFO, "ready");
	serve(c);
	plx_control_notify("STOPPING=1");
	plx_log(PLX_LOG_INFO, "draining: %" PRIu32 " requests in flight, at most %" PRIu32 " ms",
	        plx_req_busy(c->links), c->cfg->tmr.drain_ms);
	atomic_store_explicit(&c->links->drain, 1, memory_order_release);
	bool clean = wait_idle(c, c->cfg->tmr.drain_ms);

	if (!clean) {
		plx_log(PLX_LOG_WARN, "the drain ends %" PRIu32 " requests in flight",
		        plx_req_busy(c->links));
		atomic_store_explicit(&c->links->drain, 2, memory_order_release);
		(void)wait_idle(c, LAST_ACK_MS);
	}
	return clean;
}
