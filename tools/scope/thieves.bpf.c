/*
 * What happens to the watched threads, from the kernel's tracepoints. Types are the few fields that
 * are read, relocated to the running kernel's (CO-RE). Everything has a bound; what does not fit
 * the ring is counted.
 */
#include <linux/bpf.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "tools/scope/thieves.h"

struct task_struct {
	int pid;
	unsigned int __state;
	char comm[16];
} __attribute__((preserve_access_index));

struct irqaction {
	const char *name;
} __attribute__((preserve_access_index));

/* A watched thread and what it is in. */
struct thread {
	__u64 fault_ns; /* its last page fault, until it runs on */
	__u64 call_ns;  /* in a system call since; 0: in none */
	__u64 call;
	__u64 blocked_ns;
	__u32 cpu;
};

/* What one CPU is in. */
struct core {
	__u64 since_ns; /* the watched thread of this core waits to run since, or a task has it */
	__u64 irq_ns, soft_ns, timer_ns;
	__u32 tid; /* that waits; 0: none */
	__u32 watched;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PLX_WATCH_THREADS);
	__type(key, __u32);
	__type(value, struct thread);
} threads SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PLX_WATCH_CPUS);
	__type(key, __u32);
	__type(value, struct core);
} cores SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} out SEC(".maps");

__u64 n_lost, n_calls, n_faults;

static __always_inline struct plx_thief *begin(__u32 kind, __u32 cpu, __u32 tid, __u64 from,
                                               __u64 to)
{
	struct plx_thief *t = bpf_ringbuf_reserve(&out, sizeof(*t), 0);

	if (!t) {
		__sync_fetch_and_add(&n_lost, 1);
		return 0;
	}
	__builtin_memset(t, 0, sizeof(*t));
	t->kind = kind;
	t->cpu = cpu;
	t->tid = tid;
	t->begin_ns = from;
	t->end_ns = to;
	return t;
}

static __always_inline struct core *this_core(__u32 *cpu)
{
	*cpu = bpf_get_smp_processor_id();
	return bpf_map_lookup_elem(&cores, cpu);
}

/* A task had the core that a watched thread waits for. */
static __always_inline void taken(struct core *c, __u32 cpu, struct task_struct *by, __u64 now)
{
	struct plx_thief *t = begin(PLX_THIEF_SCHED, cpu, c->tid, c->since_ns, now);

	if (!t)
		return;
	t->pid = by->pid;
	bpf_probe_read_kernel(t->name, sizeof(t->name), by->comm);
	bpf_ringbuf_submit(t, 0);
}

/* A watched thread runs again after it slept in a page fault. */
static __always_inline void runs_again(struct thread *th, __u32 cpu, __u32 tid, __u64 now)
{
	struct plx_thief *t;

	th->cpu = cpu;
	if (th->blocked_ns == 0 || th->fault_ns == 0 || th->call_ns != 0) {
		th->blocked_ns = 0;
		return;
	}
	t = begin(PLX_THIEF_FAULT, cpu, tid, th->fault_ns, now);
	th->blocked_ns = 0;
	th->fault_ns = 0;
	if (!t)
		return;
	__builtin_memcpy(t->name, "page fault", 11);
	bpf_ringbuf_submit(t, 0);
}

SEC("tp_btf/sched_switch")
int BPF_PROG(on_switch, _Bool preempt, struct task_struct *prev, struct task_struct *next)
{
	__u64 now = bpf_ktime_get_ns();
	__u32 cpu, from = prev->pid, to = next->pid;
	struct core *c = this_core(&cpu);
	struct thread *th;

	if (!c)
		return 0;
	if (c->tid == from)
		c->tid = 0; /* it ran: how it came to that was not seen */
	if (c->tid != 0) {
		taken(c, cpu, prev, now);
		c->since_ns = now;
		if (to == c->tid || to == 0)
			c->tid = 0;
	}
	th = bpf_map_lookup_elem(&threads, &from);
	if (th && (preempt || prev->__state == 0)) {
		c->tid = to != 0 ? from : 0;
		c->since_ns = now;
	} else if (th) {
		th->blocked_ns = now;
	}
	th = bpf_map_lookup_elem(&threads, &to);
	if (th)
		runs_again(th, cpu, to, now);
	return 0;
}

SEC("tp_btf/sched_migrate_task")
int BPF_PROG(on_migrate, struct task_struct *p, int dest)
{
	__u32 tid = p->pid;
	struct thread *th = bpf_map_lookup_elem(&threads, &tid);
	__u64 now = bpf_ktime_get_ns();
	struct plx_thief *t;

	if (!th)
		return 0;
	t = begin(PLX_THIEF_MIGRATE, th->cpu, tid, now, now);
	if (!t)
		return 0;
	t->pid = dest;
	__builtin_memcpy(t->name, "migration", 10);
	bpf_ringbuf_submit(t, 0);
	return 0;
}

SEC("tp_btf/irq_handler_entry")
int BPF_PROG(on_irq, int irq, struct irqaction *action)
{
	__u32 cpu;
	struct core *c = this_core(&cpu);

	if (c && c->watched)
		c->irq_ns = bpf_ktime_get_ns();
	return 0;
}

SEC("tp_btf/irq_handler_exit")
int BPF_PROG(on_irq_end, int irq, struct irqaction *action)
{
	__u32 cpu;
	struct core *c = this_core(&cpu);
	struct plx_thief *t;

	if (!c || c->irq_ns == 0)
		return 0;
	t = begin(PLX_THIEF_IRQ, cpu, 0, c->irq_ns, bpf_ktime_get_ns());
	c->irq_ns = 0;
	if (!t)
		return 0;
	t->pid = irq;
	bpf_probe_read_kernel_str(t->name, sizeof(t->name), action->name);
	bpf_ringbuf_submit(t, 0);
	return 0;
}

SEC("tp_btf/local_timer_entry")
int BPF_PROG(on_timer, int vector)
{
	__u32 cpu;
	struct core *c = this_core(&cpu);

	if (c && c->watched)
		c->timer_ns = bpf_ktime_get_ns();
	return 0;
}

SEC("tp_btf/local_timer_exit")
int BPF_PROG(on_timer_end, int vector)
{
	__u32 cpu;
	struct core *c = this_core(&cpu);
	__u64 now = bpf_ktime_get_ns();
	struct plx_thief *t;

	if (!c || c->timer_ns == 0 || now - c->timer_ns < PLX_WATCH_IRQ_NS)
		return 0;
	t = begin(PLX_THIEF_IRQ, cpu, 0, c->timer_ns, now);
	c->timer_ns = 0;
	if (!t)
		return 0;
	t->pid = vector;
	__builtin_memcpy(t->name, "timer", 6);
	bpf_ringbuf_submit(t, 0);
	return 0;
}

SEC("tp_btf/softirq_entry")
int BPF_PROG(on_soft, unsigned int vec)
{
	__u32 cpu;
	struct core *c = this_core(&cpu);

	if (c && c->watched)
		c->soft_ns = bpf_ktime_get_ns();
	return 0;
}

SEC("tp_btf/softirq_exit")
int BPF_PROG(on_soft_end, unsigned int vec)
{
	__u32 cpu;
	struct core *c = this_core(&cpu);
	__u64 now = bpf_ktime_get_ns();
	struct plx_thief *t;

	if (!c || c->soft_ns == 0 || now - c->soft_ns < PLX_WATCH_IRQ_NS)
		return 0;
	t = begin(PLX_THIEF_SOFTIRQ, cpu, 0, c->soft_ns, now);
	c->soft_ns = 0;
	if (!t)
		return 0;
	t->pid = vec; /* the reader knows its name */
	bpf_ringbuf_submit(t, 0);
	return 0;
}

SEC("tp_btf/page_fault_user")
int BPF_PROG(on_fault, unsigned long address)
{
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	struct thread *th = bpf_map_lookup_elem(&threads, &tid);

	if (!th)
		return 0;
	th->fault_ns = bpf_ktime_get_ns();
	__sync_fetch_and_add(&n_faults, 1);
	return 0;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(on_call, void *regs, long id)
{
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	struct thread *th = bpf_map_lookup_elem(&threads, &tid);

	if (!th)
		return 0;
	th->call_ns = bpf_ktime_get_ns();
	th->call = id;
	th->fault_ns = 0;
	__sync_fetch_and_add(&n_calls, 1);
	return 0;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(on_call_end, void *regs, long ret)
{
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	struct thread *th = bpf_map_lookup_elem(&threads, &tid);
	__u64 now = bpf_ktime_get_ns(), from;
	struct plx_thief *t;

	if (!th || th->call_ns == 0)
		return 0;
	from = th->call_ns;
	th->call_ns = 0;
	/* Idle back-off sleeps by the thousand, 250 us at most. */
	if (now - from < PLX_WATCH_CALL_NS ||
	    ((th->call == 35 || th->call == 230) && now - from < PLX_WATCH_SLEEP_NS))
		return 0;
	t = begin(PLX_THIEF_SYSCALL, bpf_get_smp_processor_id(), tid, from, now);
	if (!t)
		return 0;
	t->pid = th->call;
	bpf_ringbuf_submit(t, 0);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
