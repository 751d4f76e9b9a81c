/* Counting system calls, page faults and allocations of one thread; x86-64. */
#include "tests/lib/watch.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <linux/filter.h>
#include <linux/seccomp.h>

#include "fw/base/quiet.h"

/*
 * long watch_pass(long call, long a0 .. a4, long a5): the one place from which the filter lets a
 * call through; it knows it by the address behind the instruction.
 */
long watch_pass(long call, long a0, long a1, long a2, long a3, long a4, long a5);
extern const char watch_passed[];
__asm__(".text\n.globl watch_pass\n.type watch_pass,@function\nwatch_pass:\n"
        "	mov %rdi, %rax\n	mov %rsi, %rdi\n	mov %rdx, %rsi\n"
        "	mov %rcx, %rdx\n	mov %r8, %r10\n	mov %r9, %r8\n	mov 8(%rsp), %r9\n"
        "	syscall\n.globl watch_passed\nwatch_passed:\n	ret\n"
        ".size watch_pass,.-watch_pass\n"
        ".section .note.GNU-stack,\"\",@progbits\n.text\n");

static _Thread_local struct plx_watch *watched;

static void on_call(int sig, siginfo_t *si, void *context)
{
	ucontext_t *u = context;
	greg_t *g = u->uc_mcontext.gregs;
	struct plx_watch *w = watched;
	int was = errno;

	(void)sig;
	if (w != NULL && atomic_load_explicit(&w->at, memory_order_relaxed) == PLX_WATCH_ON) {
		w->n_calls++;
		if ((unsigned int)si->si_syscall < PLX_WATCH_CALLS)
			w->call[si->si_syscall]++;
	}
	g[REG_RAX] = watch_pass(si->si_syscall, g[REG_RDI], g[REG_RSI], g[REG_RDX], g[REG_R10],
	                        g[REG_R8], g[REG_R9]);
	errno = was;
}

/* From now on every system call of this thread, but for those of watch_pass, comes to on_call. */
static int filter(void)
{
	uint64_t ip = (uint64_t)(uintptr_t)watch_passed;
	struct sock_filter prog[] = {
	    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer)),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)ip, 0, 3),
	    BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
	             offsetof(struct seccomp_data, instruction_pointer) + 4),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(ip >> 32), 0, 1),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
	    /* The end of the handler itself. */
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_rt_sigreturn, 0, 1),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
	};
	struct sock_fprog p = {sizeof(prog) / sizeof(prog[0]), prog};
	struct sigaction sa = {.sa_sigaction = on_call, .sa_flags = SA_SIGINFO | SA_RESTART};

	if (sigaction(SIGSYS, &sa, NULL) != 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
	    syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &p) != 0)
		return -errno;
	return 0;
}

static struct rusage usage(void)
{
	struct rusage u;

	(void)watch_pass(SYS_getrusage, RUSAGE_THREAD, (long)&u, 0, 0, 0, 0);
	return u;
}

/* The counters as they are now; added with sign, so that a span is stop minus start. */
static void span(struct plx_watch *w, int64_t sign)
{
	struct rusage u = usage();

	w->n_alloc += (uint64_t)sign * plx_watch_allocs();
	w->n_minor += (uint64_t)(sign * u.ru_minflt);
	w->n_major += (uint64_t)(sign * u.ru_majflt);
}

/* Proves that what is to be counted is seen: one of each, taken back afterwards. */
static int prove(struct plx_watch *w)
{
	uint64_t before = plx_watch_allocs();

	atomic_store_explicit(&w->at, PLX_WATCH_ON, memory_order_relaxed);
	void *volatile p = malloc(100);

	free(p);
	(void)syscall(SYS_getppid);
	atomic_store_explicit(&w->at, PLX_WATCH_NONE, memory_order_relaxed);
	if (w->call[SYS_getppid] != 1 || plx_watch_allocs() == before)
		return -ENOSYS;
	for (uint32_t i = 0; i < PLX_WATCH_CALLS; i++)
		w->call[i] = 0;
	w->n_calls = 0;
	return 0;
}

static void take_up(struct plx_watch *w, int ask)
{
	if (!w->filtered) {
		bool was = plx_quiet_set(false);

		w->filtered = true;
		watched = w;
		w->err = plx_watch_allocs != NULL ? filter() : -ENOSYS;
		if (w->err == 0)
			w->err = prove(w);
		(void)plx_quiet_set(was);
	}
	if (w->err != 0) {
		/* Nothing is counted. */
	} else if (ask == PLX_WATCH_OFF) {
		/* First no more counting, so that the end counts nothing of its own. */
		atomic_store_explicit(&w->at, PLX_WATCH_NONE, memory_order_relaxed);
		span(w, 1);
	} else {
		span(w, -1);
	}
	atomic_store_explicit(&w->at, ask, memory_order_release);
}

uint32_t plx_watch_poll(void *state, uint64_t now_ns)
{
	struct plx_watch *w = state;
	int ask = atomic_load_explicit(&w->ask, memory_order_acquire);

	(void)now_ns;
	if (ask == atomic_load_explicit(&w->at, memory_order_relaxed))
		return 0;
	take_up(w, ask);
	return 1;
}

int plx_watch_set(struct plx_watch *w, int what)
{
	atomic_store_explicit(&w->ask, what, memory_order_release);
	while (atomic_load_explicit(&w->at, memory_order_acquire) != what)
		sched_yield();
	return w->err;
}

const char *plx_watch_name(uint32_t call)
{
	static const struct {
		uint32_t nr;
		const char *name;
	} known[] = {
#define NAME(n) {SYS_##n, #n}
	    NAME(read),       NAME(write),    NAME(poll),          NAME(mmap),
	    NAME(mprotect),   NAME(munmap),   NAME(brk),           NAME(madvise),
	    NAME(nanosleep),  NAME(sendto),   NAME(recvfrom),      NAME(sendmsg),
	    NAME(recvmsg),    NAME(sendmmsg), NAME(recvmmsg),      NAME(futex),
	    NAME(getrandom),  NAME(gettid),   NAME(sched_yield),   NAME(clock_nanosleep),
	    NAME(ioctl),      NAME(bpf),      NAME(clock_gettime), NAME(gettimeofday),
	    NAME(setsockopt), NAME(ppoll),    NAME(epoll_wait),    NAME(mlock),
	    NAME(open),       NAME(openat),   NAME(close),         NAME(getppid),
#undef NAME
	};
	static _Thread_local char other[16];

	for (uint32_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (known[i].nr == call)
			return known[i].name;
	snprintf(other, sizeof(other), "call %u", call);
	return other;
}
