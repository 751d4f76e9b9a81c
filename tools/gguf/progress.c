/* "quantising  [=========>          ]  47 %  121.3 MiB/s  0:12 left" */
#include "tools/gguf/progress.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "fw/base/clock.h"

#define REDRAW_NS (100 * PLX_NS_PER_MS)
#define MAX_WIDTH 120u
#define MAX_BAR   40u

void plx_progress_begin(struct plx_progress *p, const char *what, uint64_t total, bool show)
{
	p->what = what;
	p->total = total ? total : 1;
	atomic_init(&p->done, 0);
	p->start_ns = p->drawn_ns = plx_clock_ns();
	p->shown = show && isatty(STDERR_FILENO);
}

static uint32_t terminal_width(void)
{
	struct winsize w;

	if (ioctl(STDERR_FILENO, TIOCGWINSZ, &w) || w.ws_col == 0)
		return 80;
	return w.ws_col;
}

void plx_progress_line(const struct plx_progress *p, uint64_t now_ns, uint32_t width, char *buf,
                       uint32_t buf_bytes)
{
	uint64_t done = atomic_load_explicit(&p->done, memory_order_relaxed);
	double share = done >= p->total ? 1 : (double)done / (double)p->total;
	double s = (double)(now_ns - p->start_ns) / 1e9;
	double rate = s > 0 ? (double)done / s : 0;
	uint32_t left = rate > 0 ? (uint32_t)((double)(p->total - done) / rate + 0.5) : 0;
	char figures[64], bar[MAX_BAR + 1];

	snprintf(figures, sizeof figures, "%3.0f %%  %.1f MiB/s  %u:%02u left", share * 100,
	         rate / 1048576, left / 60, left % 60);
	size_t used = strlen(p->what) + strlen(figures) + 6;
	uint32_t room = width > used + 5 ? width - (uint32_t)used - 1 : 0;
	uint32_t n = room > MAX_BAR ? MAX_BAR : room;
	uint32_t full = (uint32_t)(share * n);

	memset(bar, ' ', n);
	memset(bar, '=', full);
	if (full < n)
		bar[full] = '>';
	bar[n] = '\0';
	if (n > 0)
		snprintf(buf, buf_bytes, "%s  [%s]  %s", p->what, bar, figures);
	else
		snprintf(buf, buf_bytes, "%s  %s", p->what, figures);
}

void plx_progress_add(struct plx_progress *p, uint32_t thread, uint64_t n)
{
	char line[MAX_WIDTH + 1];

	atomic_fetch_add_explicit(&p->done, n, memory_order_relaxed);
	if (!p->shown || thread != 0)
		return;
	uint64_t now = plx_clock_ns();

	if (now - p->drawn_ns < REDRAW_NS)
		return;
	p->drawn_ns = now;
	plx_progress_line(p, now, terminal_width(), line, sizeof line);
	fprintf(stderr, "\r%s\033[K", line);
	fflush(stderr);
}

void plx_progress_end(struct plx_progress *p)
{
	if (p->shown)
		fputs("\r\033[K", stderr);
	p->shown = false;
}
