/*
 * A progress bar on the terminal: one line on standard error that is redrawn ten times a second and
 * wiped at the end. Nothing is written where standard error is no terminal.
 */
#ifndef PLX_TOOLS_GGUF_PROGRESS_H
#define PLX_TOOLS_GGUF_PROGRESS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct plx_progress {
	const char *what; /* "quantising" */
	uint64_t total;   /* bytes */
	_Atomic uint64_t done;
	uint64_t start_ns;
	uint64_t drawn_ns; /* thread 0's alone */
	bool shown;
};

/* plx_progress_begin - @show: false: never draw. */
void plx_progress_begin(struct plx_progress *p, const char *what, uint64_t total, bool show);

/* plx_progress_add - n more bytes are done. Thread: any; thread 0 draws. */
void plx_progress_add(struct plx_progress *p, uint32_t thread, uint64_t n);

/* plx_progress_end - wipe the line. */
void plx_progress_end(struct plx_progress *p);

/* plx_progress_line - what would be drawn at that time, for terminals of width columns. */
void plx_progress_line(const struct plx_progress *p, uint64_t now_ns, uint32_t width, char *buf,
                       uint32_t buf_bytes);

#endif
