/*
 * Which table this machine gets, and the thread's floating-point settings.
 */
#include "kernels/kernels.h"

#include <cpuid.h>
#include <string.h>
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

static bool has_avx2(void)
{
	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
	       __builtin_cpu_supports("bmi2") && has_f16c();
}

static bool has_avx512(void)
{
	return has_avx2() && __builtin_cpu_supports("avx512f") &&
	       __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
	       __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd") &&
	       __builtin_cpu_supports("avx512vnni");
}

const struct plx_kernels *plx_kernels_select(enum plx_k_isa isa)
{
	switch (isa) {
	case PLX_K_ISA_BEST:
		if (has_avx512())
			return &plx_kernels_avx512;
		return has_avx2() ? &plx_kernels_avx2 : &plx_kernels_scalar;
	case PLX_K_ISA_SCALAR:
		return &plx_kernels_scalar;
	case PLX_K_ISA_AVX2:
		return has_avx2() ? &plx_kernels_avx2 : NULL;
	case PLX_K_ISA_AVX512:
		return has_avx512() ? &plx_kernels_avx512 : NULL;
	}
	return NULL;
}

int plx_kernels_isa(const char *name)
{
	if (strcmp(name, "best") == 0)
		return PLX_K_ISA_BEST;
	if (strcmp(name, plx_kernels_scalar.isa_name) == 0)
		return PLX_K_ISA_SCALAR;
	if (strcmp(name, plx_kernels_avx2.isa_name) == 0)
		return PLX_K_ISA_AVX2;
	if (strcmp(name, plx_kernels_avx512.isa_name) == 0)
		return PLX_K_ISA_AVX512;
	return PLX_E_INVAL;
}

void plx_k_fpu_setup(void)
{
	/* All exceptions masked (0x1f80), nearest rounding, DAZ (bit 6), FTZ (bit 15). */
	_mm_setcsr(0x1f80u | 1u << 6 | 1u << 15);
}
