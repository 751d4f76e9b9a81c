/* Formats a log line into one buffer and writes it with one write(2), so lines never mix. */
#include "fw/base/log.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const char *log_program = "pollux";
static enum plx_log_level log_max = PLX_LOG_INFO;
static bool log_systemd;

void plx_log_init(const char *program, enum plx_log_level max_level)
{
	log_program = program;
	log_max = max_level;
	log_systemd = getenv("JOURNAL_STREAM") != NULL;
}

static const char *level_word(enum plx_log_level level)
{
	switch (level) {
	case PLX_LOG_ERROR:
		return "error: ";
	case PLX_LOG_WARN:
		return "warning: ";
	case PLX_LOG_DEBUG:
		return "debug: ";
	case PLX_LOG_INFO:
	default:
		return "";
	}
}

void plx_log(enum plx_log_level level, const char *fmt, ...)
{
	char line[1024];
	int used = 0;
	va_list ap;

	if (level > log_max)
		return;
	if (log_systemd)
		used = snprintf(line, sizeof(line), "<%d>", (int)level);
	used += snprintf(line + used, sizeof(line) - (size_t)used, "%s: %s", log_program,
	                 level_word(level));
	va_start(ap, fmt);
	int n = vsnprintf(line + used, sizeof(line) - (size_t)used, fmt, ap);
	va_end(ap);
	if (n > 0)
		used += n;
	if (used > (int)sizeof(line) - 2)
		used = (int)sizeof(line) - 2;
	line[used++] = '\n';
	ssize_t written = write(STDERR_FILENO, line, (size_t)used);
	(void)written; /* nobody is left to tell */
}
