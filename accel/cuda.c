/* Loads the CUDA plug-in when a board asks for a GPU. It stays loaded: its threads and its context
 * outlive a device. */
#include "accel/cuda.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "accel/model/model.h"
#include "fw/base/err.h"

int plx_cuda_plugin_file(char *path, uint32_t path_bytes)
{
	char exe[512];
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);

	if (n <= 0)
		return PLX_E_NOT_FOUND;
	exe[n] = '\0';
	char *slash = strrchr(exe, '/');

	if (slash == NULL)
		return PLX_E_NOT_FOUND;
	*slash = '\0';
	int len = snprintf(path, path_bytes, "%s/%s", exe, PLX_CUDA_PLUGIN);

	return len > 0 && (uint32_t)len < path_bytes ? PLX_E_OK : PLX_E_NOT_FOUND;
}

static int plugin_check(const struct plx_cuda_plugin *p, const char *path, struct plx_diag *d)
{
	if (p->abi == PLX_ACCEL_ABI && p->dev_bytes == sizeof(struct plx_dev_limits) &&
	    p->step_bytes == sizeof(struct plx_step) + sizeof(struct plx_sampler) &&
	    p->model_bytes == sizeof(struct plx_model))
		return PLX_E_OK;
	return plx_diag_set(d, PLX_E_UNSUPPORTED,
	                    "%s was built from other sources than this program; build both anew",
	                    path);
}

int plx_cuda_open(const struct plx_dev_conf *conf, struct plx_dev **out, struct plx_diag *d)
{
	char path[600];

	if (plx_cuda_plugin_file(path, sizeof(path)) != 0)
		return plx_diag_set(d, PLX_E_NOT_FOUND,
		                    "device %.31s: /proc/self/exe can't be read", conf->name);
	if (access(path, R_OK) != 0)
		return plx_diag_set(d, PLX_E_UNSUPPORTED,
		                    "device %.31s: no %s; `make` builds it where nvcc is "
		                    "installed (NVCC=/path/to/nvcc)",
		                    conf->name, path);
	void *so = dlopen(path, RTLD_NOW | RTLD_LOCAL);

	if (so == NULL)
		return plx_diag_set(d, PLX_E_UNSUPPORTED, "device %.31s: %s", conf->name,
		                    dlerror());
	const struct plx_cuda_plugin *p = dlsym(so, PLX_CUDA_SYMBOL);

	if (p == NULL)
		return plx_diag_set(d, PLX_E_UNSUPPORTED, "device %.31s: %s has no %s", conf->name,
		                    path, PLX_CUDA_SYMBOL);
	int err = plugin_check(p, path, d);

	return err != 0 ? err : p->open(conf, out, d);
}
