/*
 * Which table this machine gets, and the thread's floating-point settings.
 */
#include "kernels/kernels.h"

#include <cpuid.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <xmmintrin.h>

#include "fw/base/err.h"
#include "kernels/cpu/isa.h"

/* clang 14 does not know the name "f16c". */
static bool has_f16c(void)
{
	unsigned a;
	unsigned b;
	unsigned c;
	unsigned d;

	return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

/* A bit of EAX of cpuid leaf 7, subleaf 1; the compilers' lists of names lack some. */
static bool has_7_1_eax(unsigned bit)
{
	unsigned a;
	unsigned b;
	unsigned c;
	unsigned d;

	return __get_cpuid_count(7, 0, &a, &b, &c, &d) && a >= 1 &&
	       __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> bit & 1);
}

static bool has_avx2(void)
{
	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
	       __builtin_cpu_supports("bmi2") && has_f16c();
}

static bool has_avxvnni(void)
{
	return has_avx2() && has_7_1_eax(4);
}

static bool has_avx512(void)
{
	return has_avx2() && __builtin_cpu_supports("avx512f") &&
	       __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
	       __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd") &&
	       __builtin_cpu_supports("avx512vnni");
}

static bool has_avx512bf16(void)
{
	return has_avx512() && has_7_1_eax(5) && plx_k_bf16_agrees();
}

#define REQ_XCOMP_PERM 0x1023 /* arch_prctl: may this process use a state component */
#define XTILEDATA      18

/* Linux saves tiles of those processes alone that asked: the one system call, at start. */
static bool has_amx(void)
{
	const unsigned tile_int8 = 3u << 24;
	const unsigned tile_state = 3u << 17;
	unsigned a;
	unsigned b;
	unsigned c;
	unsigned d;

	if (!has_avx512bf16() || !__get_cpuid_count(7, 0, &a, &b, &c, &d) ||
	    (d & tile_int8) != tile_int8)
		return false;
	__asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
	return (a & tile_state) == tile_state &&
	       syscall(SYS_arch_prctl, REQ_XCOMP_PERM, XTILEDATA) == 0;
}

/* From the least to the best. */
static const struct {
	const struct plx_kernels *k;
	bool (*here)(void); /* NULL: everywhere */
} list[] = {
    {&plx_kernels_scalar, NULL},
    {&plx_kernels_avx2, has_avx2},
    {&plx_kernels_avxvnni, has_avxvnni},
    {&plx_kernels_avx512, has_avx512},
    {&plx_kernels_avx512bf16, has_avx512bf16},
    {&plx_kernels_amx, has_amx},
};
#define N_LIST (sizeof list / sizeof *list)

const struct plx_kernels *plx_kernels_select(enum plx_k_isa isa)
{
	for (size_t i = N_LIST; i-- > 0;)
		if ((isa == PLX_K_ISA_BEST || isa == list[i].k->isa) &&
		    (list[i].here == NULL || list[i].here()))
			return list[i].k;
	return NULL;
}

int plx_kernels_isa(const char *name)
{
	if (strcmp(name, "best") == 0)
		return PLX_K_ISA_BEST;
	for (size_t i = 0; i < N_LIST; i++)
		if (strcmp(name, list[i].k->isa_name) == 0)
			return (int)list[i].k->isa;
	return PLX_E_INVAL;
}

void plx_k_fpu_setup(void)
{
	/* All exceptions masked (0x1f80), nearest rounding, DAZ (bit 6), FTZ (bit 15). */
	_mm_setcsr(0x1f80u | 1u << 6 | 1u << 15);
}
