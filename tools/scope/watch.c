/* Loads the eBPF programs and reads what they find; see watch.h. */
#include "tools/scope/watch.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <tools/scope/thieves.skel.h>

#include "fw/base/clock.h"
#include "tools/scope/thieves.h"

struct thread {
	__u64 fault_ns, call_ns, call, blocked_ns;
	__u32 cpu;
};

struct core {
	__u64 since_ns, irq_ns, soft_ns, timer_ns;
	__u32 tid, watched;
};

struct plx_watch {
	struct thieves_bpf *skel;
	struct ring_buffer *ring;
	int stats_fd;
	uint64_t begin_ns;
	/* Where plx_watch_poll's caller wants them. */
	struct plx_thief *to;
	uint32_t max, n;
	uint64_t n_cut;
};

static int quiet(enum libbpf_print_level level, const char *fmt, va_list args)
{
	(void)level;
	(void)fmt;
	(void)args;
	return 0;
}

static const char *call_name(uint32_t nr)
{
	static const struct {
		uint32_t nr;
		const char *name;
	} row[] = {{0, "read"},         {1, "write"},        {7, "poll"},
	           {9, "mmap"},         {10, "mprotect"},    {11, "munmap"},
	           {16, "ioctl"},       {24, "sched_yield"}, {28, "madvise"},
	           {35, "nanosleep"},   {44, "sendto"},      {45, "recvfrom"},
	           {46, "sendmsg"},     {47, "recvmsg"},     {74, "fsync"},
	           {75, "fdatasync"},   {202, "futex"},      {230, "clock_nanosleep"},
	           {232, "epoll_wait"}, {257, "openat"}};

	for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++)
		if (row[i].nr == nr)
			return row[i].name;
	return NULL;
}

static const char *softirq_name(uint32_t vec)
{
	static const char *const name[] = {"HI",       "TIMER",   "NET_TX", "NET_RX",  "BLOCK",
	                                   "IRQ_POLL", "TASKLET", "SCHED",  "HRTIMER", "RCU"};

	return vec < sizeof(name) / sizeof(name[0]) ? name[vec] : "softirq";
}

static void name_it(struct plx_thief *t)
{
	if (t->kind == PLX_THIEF_SYSCALL) {
		const char *name = call_name(t->pid);

		if (name != NULL)
			snprintf(t->name, sizeof(t->name), "%s", name);
		else
			snprintf(t->name, sizeof(t->name), "number %u", (unsigned)t->pid % 1000);
	} else if (t->kind == PLX_THIEF_SOFTIRQ) {
		snprintf(t->name, sizeof(t->name), "%s", softirq_name(t->pid));
	}
}

static int take(void *ctx, void *data, size_t bytes)
{
	struct plx_watch *w = ctx;

	if (bytes < sizeof(struct plx_thief))
		return 0;
	if (w->n == w->max) {
		w->n_cut++;
		return 0;
	}
	memcpy(&w->to[w->n], data, sizeof(struct plx_thief));
	name_it(&w->to[w->n++]);
	return 0;
}

/* Programs whose tracepoint this kernel does not have are left out, and said. */
static void choose(struct plx_watch *w, FILE *say)
{
	struct bpf_program *p;

	bpf_object__for_each_program(p, w->skel->obj)
	{
		const char *name = strchr(bpf_program__section_name(p), '/');

		if (name == NULL || libbpf_find_vmlinux_btf_id(name + 1, BPF_TRACE_RAW_TP) > 0)
			continue;
		if (say != NULL)
			fprintf(say, "plx-scope: this kernel has no tracepoint %s: left out\n",
			        name + 1);
		(void)bpf_program__set_autoload(p, false);
	}
}

static uint32_t attach(struct plx_watch *w, FILE *say)
{
	struct bpf_object_skeleton *s = w->skel->skeleton;
	uint32_t n = 0;

	for (int i = 0; i < s->prog_cnt; i++) {
		struct bpf_program *p = *s->progs[i].prog;

		if (!bpf_program__autoload(p))
			continue;
		struct bpf_link *link = bpf_program__attach(p);

		if (link != NULL) {
			*s->progs[i].link = link;
			n++;
		} else if (say != NULL) {
			fprintf(say, "plx-scope: %s can't be attached: %s: left out\n",
			        bpf_program__section_name(p), strerror(errno));
		}
	}
	return n;
}

static void name_threads(struct plx_watch *w, const struct plx_scope *s)
{
	for (uint32_t i = 0; i < s->head.n_pages; i++) {
		const struct plx_page *p = plx_scope_page(s, i);
		struct thread th = {.cpu = p->lcore};
		struct core core = {.watched = 1};
		uint32_t tid = (uint32_t)p->thread_id, cpu = p->lcore;

		if (tid != 0)
			(void)bpf_map_update_elem(bpf_map__fd(w->skel->maps.threads), &tid, &th,
			                          BPF_ANY);
		if (cpu < PLX_WATCH_CPUS)
			(void)bpf_map_update_elem(bpf_map__fd(w->skel->maps.cores), &cpu, &core,
			                          BPF_ANY);
	}
}

static bool start(struct plx_watch *w, const struct plx_scope *s, FILE *say)
{
	w->skel = thieves_bpf__open();
	if (w->skel != NULL)
		choose(w, say);
	if (w->skel == NULL || thieves_bpf__load(w->skel) != 0) {
		if (say != NULL)
			fprintf(say,
			        "plx-scope: no eBPF here: %s (it takes root, or CAP_BPF and "
			        "CAP_PERFMON, and a kernel with BTF); the rest goes on\n",
			        strerror(errno));
		return false;
	}
	name_threads(w, s);
	w->ring = ring_buffer__new(bpf_map__fd(w->skel->maps.out), take, w, NULL);
	return w->ring != NULL && attach(w, say) > 0;
}

struct plx_watch *plx_watch_open(const struct plx_scope *s, FILE *say)
{
	struct plx_watch *w = calloc(1, sizeof(*w));

	if (w == NULL)
		return NULL;
	(void)libbpf_set_print(quiet);
	w->begin_ns = plx_clock_ns();
	w->stats_fd = bpf_enable_stats(BPF_STATS_RUN_TIME);
	if (start(w, s, say))
		return w;
	plx_watch_close(w);
	return NULL;
}

void plx_watch_close(struct plx_watch *w)
{
	if (w == NULL)
		return;
	ring_buffer__free(w->ring);
	thieves_bpf__destroy(w->skel);
	if (w->stats_fd >= 0)
		close(w->stats_fd);
	free(w);
}

void plx_watch_poll(struct plx_watch *w, struct plx_thief *thief, uint32_t max, uint32_t *n)
{
	w->to = thief;
	w->max = max;
	w->n = *n;
	(void)ring_buffer__consume(w->ring);
	*n = w->n;
}

void plx_watch_cost(const struct plx_watch *w, struct plx_text *out)
{
	uint64_t ns = 0, n = 0, passed = plx_clock_ns() - w->begin_ns;

	for (int i = 0; i < w->skel->skeleton->prog_cnt; i++) {
		struct bpf_prog_info info = {0};
		uint32_t bytes = sizeof(info);
		int fd = bpf_program__fd(*w->skel->skeleton->progs[i].prog);

		if (fd < 0 || bpf_obj_get_info_by_fd(fd, &info, &bytes) != 0)
			continue;
		ns += info.run_time_ns;
		n += info.run_cnt;
	}
	plx_text_add(out,
	             "watching: %" PRIu64 " runs of eBPF programs, %.0f ns each, %.2f %% of one "
	             "core; %" PRIu64 " system calls and %" PRIu64
	             " page faults of lcores' threads; %" PRIu64 " not kept\n",
	             n, n > 0 ? (double)ns / (double)n : 0.0,
	             passed > 0 ? 100.0 * (double)ns / (double)passed : 0.0,
	             (uint64_t)w->skel->bss->n_calls, (uint64_t)w->skel->bss->n_faults,
	             (uint64_t)w->skel->bss->n_lost + w->n_cut);
}
