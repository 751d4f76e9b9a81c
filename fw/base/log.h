/*
 * Log lines for the operator: start-up, configuration, state changes. Never from the data path,
 * which counts instead (metrics.def), and never prompt text, token ids or keys.
 *
 * One line a call on standard error: "<4>polluxd: warning: text" under systemd (priority prefix),
 * "polluxd: warning: text" otherwise.
 */
#ifndef PLX_FW_BASE_LOG_H
#define PLX_FW_BASE_LOG_H

enum plx_log_level {
	PLX_LOG_ERROR = 3, /* syslog's numbers */
	PLX_LOG_WARN = 4,
	PLX_LOG_INFO = 6,
	PLX_LOG_DEBUG = 7,
};

/* plx_log_init - set the program's name and the least important level that is printed. */
void plx_log_init(const char *program, enum plx_log_level max_level);

/* plx_log - print one line. Thread: any, but not on the data path (it enters the kernel). */
__attribute__((format(printf, 2, 3))) void plx_log(enum plx_log_level level, const char *fmt, ...);

#endif
