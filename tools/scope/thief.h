/* What the kernel did to an lcore's thread: when, how long, who. On the one clock. */
#ifndef PLX_TOOLS_SCOPE_THIEF_H
#define PLX_TOOLS_SCOPE_THIEF_H

#ifdef __bpf__ /* a machine without a C library */
#include <linux/types.h>
typedef __u32 uint32_t;
typedef __u64 uint64_t;
#else
#include <stdint.h>
#endif

#define PLX_THIEF_NAME_BYTES 16

enum plx_thief_kind {
	PLX_THIEF_SCHED = 1, /* another task had the core; name, pid are its */
	PLX_THIEF_IRQ,       /* a hard interrupt; name of its handler, pid its number */
	PLX_THIEF_SOFTIRQ,   /* name of its kind */
	PLX_THIEF_FAULT,     /* a page fault of the thread, addr without its low bits in arg */
	PLX_THIEF_SYSCALL,   /* a system call of the thread; pid its number */
	PLX_THIEF_MIGRATE,   /* the thread went to another core: pid its number */
	PLX_THIEF_KIND_END
};

/* One of them. Shared with the eBPF programs: fixed sizes, no padding. */
struct plx_thief {
	uint64_t begin_ns;
	uint64_t end_ns; /* begin_ns where it has no length */
	uint32_t cpu;    /* lcore it happened to */
	uint32_t tid;    /* the lcore's thread */
	uint32_t kind;   /* enum plx_thief_kind */
	uint32_t pid;
	char name[PLX_THIEF_NAME_BYTES];
};

#endif
