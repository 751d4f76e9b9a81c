/*
 * What takes time from a polling lcore, for tests/e2e_thieves.sh: each is done once, AFTER ms from
 * now and for MS ms, to one CPU or one thread of a running process, and leaves that as it was.
 *
 *   thief hog CPU MS AFTER      a task of higher priority on that core
 *   thief storm CPU MS AFTER    timer interrupts there, as many as the kernel lets through
 *   thief fault TID MS AFTER    that thread touches a page which comes so late
 *   thief call TID MS AFTER     that thread waits so long in poll
 *   thief spin TID MS AFTER     that thread works so long for nothing: no kernel in it
 *   thief threads PID           "CPU TID" of each thread that may run on one CPU alone
 *
 * Threads are made to do it through ptrace: a few instructions in the program's entry, where nobody
 * comes any more, and its own registers back afterwards.
 */
#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#define STORM_EVENTS 40
#define STORM_NS     10000 /* the kernel's least for this event */
#define CODE_BYTES   24
#define PAGE         4096ul

static int fail(const char *what)
{
	fprintf(stderr, "thief: %s: %s\n", what, strerror(errno));
	return 1;
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int hog(int cpu, uint64_t ms)
{
	struct sched_param p = {.sched_priority = 60};
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((size_t)cpu, &set);
	(void)prctl(PR_SET_NAME, "plx-hog");
	if (sched_setaffinity(0, sizeof(set), &set) != 0 || sched_setscheduler(0, SCHED_FIFO, &p))
		return fail("hog");
	for (uint64_t end = now_ns() + ms * 1000000; now_ns() < end;)
		;
	return 0;
}

/* To another core: the storm's end must not wait for the storm. */
static bool step_aside(int cpu)
{
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set) != 0)
		return false;
	CPU_CLR((size_t)cpu, &set);
	return sched_setaffinity(0, sizeof(set), &set) == 0;
}

/* The software clock's events come by a timer of that CPU: each is an interrupt there. */
static int storm(int cpu, uint64_t ms, uint64_t after_ms)
{
	struct perf_event_attr a = {.type = PERF_TYPE_SOFTWARE,
	                            .size = sizeof(a),
	                            .config = PERF_COUNT_SW_CPU_CLOCK,
	                            .sample_period = STORM_NS,
	                            .disabled = 1};
	struct sched_param high = {.sched_priority = 60};
	int fd[STORM_EVENTS];

	if (!step_aside(cpu))
		return fail("storm");
	for (int i = 0; i < STORM_EVENTS; i++) {
		fd[i] = (int)syscall(SYS_perf_event_open, &a, -1, cpu, -1, PERF_FLAG_FD_CLOEXEC);
		if (fd[i] < 0)
			return fail("storm");
	}
	usleep((useconds_t)after_ms * 1000);
	if (sched_setscheduler(0, SCHED_FIFO, &high) != 0)
		return fail("storm");
	for (int i = 0; i < STORM_EVENTS; i++)
		(void)ioctl(fd[i], PERF_EVENT_IOC_ENABLE, 0);
	usleep((useconds_t)ms * 1000);
	return 0; /* the end of the process closes them */
}

/* ---- a thread that is made to do something ---- */

struct victim {
	pid_t tid, pid;
	uint64_t entry;
	uint64_t ticks_a_ms;          /* of the time-stamp counter */
	struct user_regs_struct regs; /* its own */
	long code[CODE_BYTES / 8];    /* what stood there */
};

static bool read_entry(struct victim *v)
{
	char path[64];
	Elf64_auxv_t a;

	snprintf(path, sizeof(path), "/proc/%d/auxv", (int)v->pid);
	FILE *f = fopen(path, "re");

	while (f != NULL && fread(&a, sizeof(a), 1, f) == 1)
		if (a.a_type == AT_ENTRY)
			v->entry = a.a_un.a_val;
	if (f != NULL)
		fclose(f);
	return v->entry != 0;
}

static bool read_pid(struct victim *v)
{
	char path[64], line[128];

	snprintf(path, sizeof(path), "/proc/%d/status", (int)v->tid);
	FILE *f = fopen(path, "re");

	while (f != NULL && fgets(line, sizeof(line), f) != NULL)
		if (strncmp(line, "Tgid:", 5) == 0)
			v->pid = (pid_t)atoi(line + 5);
	if (f != NULL)
		fclose(f);
	return v->pid != 0;
}

static bool stopped(struct victim *v, int sig)
{
	int status = 0;

	return waitpid(v->tid, &status, __WALL) == v->tid && WIFSTOPPED(status) &&
	       WSTOPSIG(status) == sig;
}

static bool hold(struct victim *v)
{
	if (!read_pid(v) || !read_entry(v) || ptrace(PTRACE_SEIZE, v->tid, 0, 0) != 0 ||
	    ptrace(PTRACE_INTERRUPT, v->tid, 0, 0) != 0 || !stopped(v, SIGTRAP) ||
	    ptrace(PTRACE_GETREGS, v->tid, 0, &v->regs) != 0)
		return false;
	for (size_t i = 0; i < CODE_BYTES / 8; i++)
		v->code[i] = ptrace(PTRACE_PEEKTEXT, v->tid, v->entry + 8 * i, 0);
	return true;
}

static bool put_code(struct victim *v, const void *code)
{
	long word[CODE_BYTES / 8];
	bool ok = true;

	memcpy(word, code, sizeof(word));
	for (size_t i = 0; i < CODE_BYTES / 8; i++)
		ok &= ptrace(PTRACE_POKETEXT, v->tid, v->entry + 8 * i, word[i]) == 0;
	return ok;
}

/* Begin the code with these registers; it ends in int3. */
static bool begin(struct victim *v, const uint8_t code[CODE_BYTES], struct user_regs_struct r)
{
	r.rip = v->entry;
	r.orig_rax = UINT64_MAX; /* no system call to be taken up again */
	return put_code(v, code) && ptrace(PTRACE_SETREGS, v->tid, 0, &r) == 0 &&
	       ptrace(PTRACE_CONT, v->tid, 0, 0) == 0;
}

static bool end(struct victim *v, uint64_t *rax)
{
	struct user_regs_struct r;

	if (!stopped(v, SIGTRAP) || ptrace(PTRACE_GETREGS, v->tid, 0, &r) != 0)
		return false;
	*rax = r.rax;
	return true;
}

/* A system call of the victim's: its result, negative errno as the kernel gives it. */
static long call(struct victim *v, long nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
	static const uint8_t code[CODE_BYTES] = {0x0f, 0x05, 0xcc}; /* syscall; int3 */
	struct user_regs_struct r = v->regs;
	uint64_t rax = 0;

	r.rax = (uint64_t)nr;
	r.rdi = a;
	r.rsi = b;
	r.rdx = c;
	r.r10 = d;
	r.r8 = UINT64_MAX;
	r.r9 = 0;
	if (!begin(v, code, r) || !end(v, &rax))
		return -ESRCH;
	return (long)rax;
}

static int let_go(struct victim *v, bool ok, const char *what)
{
	int e = errno;

	put_code(v, v->code);
	(void)ptrace(PTRACE_SETREGS, v->tid, 0, &v->regs);
	(void)ptrace(PTRACE_DETACH, v->tid, 0, 0);
	errno = e;
	return ok ? 0 : fail(what);
}

/* The victim's page that comes when we say so: our copy of its descriptor, or -1. */
static int late_page(struct victim *v, long fd, long page)
{
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register reg = {.range = {(uint64_t)page, PAGE},
	                              .mode = UFFDIO_REGISTER_MODE_MISSING};
	int pidfd = (int)syscall(SYS_pidfd_open, v->pid, 0);
	int own = pidfd < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, pidfd, (int)fd, 0);

	if (own >= 0 && ioctl(own, UFFDIO_API, &api) == 0 && ioctl(own, UFFDIO_REGISTER, &reg) == 0)
		return own;
	return -1;
}

static int fault(struct victim *v, uint64_t ms)
{
	static const uint8_t code[CODE_BYTES] = {0x8a, 0x07, 0xcc}; /* mov (%rdi), %al; int3 */
	struct user_regs_struct r = v->regs;
	long fd = call(v, SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY, 0, 0, 0);
	long page = call(v, SYS_mmap, 0, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS);
	int own = fd < 0 || page < 0 ? -1 : late_page(v, fd, page);
	struct uffdio_zeropage zero = {.range = {(uint64_t)page, PAGE}};
	uint64_t rax;

	if (own < 0) {
		errno = fd < 0 ? (int)-fd : errno;
		return let_go(v, false, "userfaultfd");
	}
	r.rdi = (uint64_t)page;
	bool ok = begin(v, code, r);

	usleep((useconds_t)ms * 1000);
	ok &= ioctl(own, UFFDIO_ZEROPAGE, &zero) == 0 && end(v, &rax);
	(void)call(v, SYS_munmap, (uint64_t)page, PAGE, 0, 0);
	(void)call(v, SYS_close, (uint64_t)fd, 0, 0, 0);
	return let_go(v, ok, "page fault");
}

static int spin(struct victim *v, uint64_t ms)
{
	/* 1: rdtsc; shl $32, %rdx; or %rdx, %rax; cmp %rbx, %rax; jb 1b; int3 */
	static const uint8_t code[CODE_BYTES] = {0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09,
	                                         0xd0, 0x48, 0x39, 0xd8, 0x72, 0xf2, 0xcc};
	struct user_regs_struct r = v->regs;
	uint64_t rax;

	r.rbx = __rdtsc() + v->ticks_a_ms * ms;
	return let_go(v, begin(v, code, r) && end(v, &rax), "spin");
}

static int make(const char *what, pid_t tid, uint64_t ms)
{
	struct victim v = {.tid = tid};
	uint64_t t0 = now_ns(), tsc = __rdtsc();

	usleep(10000);
	v.ticks_a_ms = (__rdtsc() - tsc) * 1000 / ((now_ns() - t0) / 1000);
	if (!hold(&v))
		return fail("ptrace");
	if (strcmp(what, "fault") == 0)
		return fault(&v, ms);
	if (strcmp(what, "spin") == 0)
		return spin(&v, ms);
	return let_go(&v, call(&v, SYS_poll, 0, 0, ms, 0) == 0, "poll");
}

static int threads(const char *pid)
{
	char path[64];
	struct dirent *e;

	snprintf(path, sizeof(path), "/proc/%.20s/task", pid);
	DIR *dir = opendir(path);

	if (dir == NULL)
		return fail(path);
	while ((e = readdir(dir)) != NULL) {
		cpu_set_t set;
		pid_t tid = (pid_t)atoi(e->d_name);

		if (tid == 0 || sched_getaffinity(tid, sizeof(set), &set) != 0 ||
		    CPU_COUNT(&set) != 1)
			continue;
		for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++)
			if (CPU_ISSET(cpu, &set))
				printf("%zu %d\n", cpu, (int)tid);
	}
	closedir(dir);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "threads") == 0)
		return threads(argv[2]);
	if (argc != 5) {
		fputs(
		    "usage: thief hog|storm CPU MS AFTER | fault|call|spin TID MS AFTER | threads "
		    "PID\n",
		    stderr);
		return 2;
	}
	int who = atoi(argv[2]);
	uint64_t ms = (uint64_t)atoi(argv[3]), after_ms = (uint64_t)atoi(argv[4]);

	if (strcmp(argv[1], "storm") == 0)
		return storm(who, ms, after_ms);
	usleep((useconds_t)after_ms * 1000);
	if (strcmp(argv[1], "hog") == 0)
		return hog(who, ms);
	return make(argv[1], who, ms);
}
