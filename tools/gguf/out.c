/* Output files: temporary name, reserved room, fsync, rename. */
#include "tools/gguf/out.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fw/base/err.h"

static volatile sig_atomic_t interrupted;

static void on_signal(int sig)
{
	(void)sig;
	interrupted = 1;
}

void plx_out_catch(void)
{
	struct sigaction stop = {.sa_handler = on_signal};
	struct sigaction ignore = {.sa_handler = SIG_IGN};

	sigaction(SIGINT, &stop, NULL);
	sigaction(SIGTERM, &stop, NULL);
	sigaction(SIGHUP, &stop, NULL);
	sigaction(SIGXFSZ, &ignore, NULL);
}

bool plx_out_interrupted(void)
{
	return interrupted != 0;
}

static int refused(const char *path, int why, struct plx_diag *d)
{
	const char *help = why == ENOSPC || why == EDQUOT ? "; free some room, or write elsewhere"
	                   : why == EFBIG  ? "; raise the limit of file sizes (ulimit -f)"
	                   : why == ENOENT ? "; make the folder first"
	                                   : "";

	return plx_diag_set(d, PLX_E_IO, "%s: can't write it: %s%s", path, strerror(why), help);
}

int plx_out_check(const char *path, bool force, struct plx_diag *d)
{
	struct stat st;

	if (stat(path, &st))
		return 0;
	if (!S_ISREG(st.st_mode))
		return plx_diag_set(d, PLX_E_IO, "%s: this is no regular file; give another name",
		                    path);
	if (!force)
		return plx_diag_set(d, PLX_E_EXISTS,
		                    "%s: is there already; give --force to replace it", path);
	return 0;
}

/* "folder/.name.XXXXXX"; false where it is too long. */
static bool temp_name(struct plx_out *o)
{
	const char *slash = strrchr(o->path, '/');
	size_t folder = slash ? (size_t)(slash + 1 - o->path) : 0;
	int n = snprintf(o->temp, sizeof o->temp, "%.*s.%s.XXXXXX", (int)folder, o->path,
	                 o->path + folder);

	return n > 0 && (size_t)n < sizeof o->temp;
}

/* As open(2) would have made it. */
static void usual_mode(int fd)
{
	mode_t mask = umask(0);

	umask(mask);
	(void)fchmod(fd, 0666 & ~mask);
}

static int reserve(const struct plx_out *o, uint64_t n_bytes, struct plx_diag *d)
{
	if (n_bytes == 0 || fallocate(o->fd, 0, 0, (off_t)n_bytes) == 0)
		return 0;
	int why = errno;

	if (why == EOPNOTSUPP || why == ENOSYS || why == EINTR)
		return ftruncate(o->fd, (off_t)n_bytes) ? refused(o->path, errno, d) : 0;

	if (why == ENOSPC || why == EDQUOT)
		return plx_diag_set(d, PLX_E_IO,
		                    "%s: no room for %.1f MiB; free some, or write elsewhere",
		                    o->path, (double)n_bytes / 1048576);
	return refused(o->path, why, d);
}

int plx_out_open(struct plx_out *o, const char *path, bool force, uint64_t n_bytes,
                 struct plx_diag *d)
{
	int err = plx_out_check(path, force, d);

	*o = (struct plx_out){.fd = -1, .force = force};
	if (err)
		return err;
	if ((size_t)snprintf(o->path, sizeof o->path, "%s", path) >= sizeof o->path ||
	    !temp_name(o))
		return plx_diag_set(d, PLX_E_IO, "%s: the name is too long", path);
	o->fd = mkostemp(o->temp, O_CLOEXEC);
	if (o->fd < 0) {
		err = refused(o->path, errno, d);
		o->temp[0] = '\0';
		return err;
	}
	usual_mode(o->fd);
	err = reserve(o, n_bytes, d);
	if (err)
		plx_out_abort(o);
	return err;
}

int plx_out_write(const struct plx_out *o, const void *p, size_t n, uint64_t off,
                  struct plx_diag *d)
{
	const char *at = p;

	while (n > 0) {
		ssize_t w = pwrite(o->fd, at, n, (off_t)off);

		if (w < 0 && errno == EINTR)
			continue;
		if (w <= 0)
			return refused(o->path, w < 0 ? errno : EIO, d);
		at += w;
		off += (uint64_t)w;
		n -= (size_t)w;
	}
	return 0;
}

/* The name itself has to reach the disk too. */
static void sync_folder(const char *path)
{
	char folder[PATH_MAX];
	const char *slash = strrchr(path, '/');
	size_t n = slash ? (size_t)(slash - path) : 0;

	snprintf(folder, sizeof folder, "%.*s", slash ? (int)(n ? n : 1) : 1, slash ? path : ".");
	int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd >= 0) {
		(void)fsync(fd);
		close(fd);
	}
}

static int give_name(const struct plx_out *o)
{
	if (o->force)
		return rename(o->temp, o->path);
	if (renameat2(AT_FDCWD, o->temp, AT_FDCWD, o->path, RENAME_NOREPLACE) == 0)
		return 0;
	return errno == EINVAL || errno == ENOSYS ? rename(o->temp, o->path) : -1;
}

int plx_out_commit(struct plx_out *o, struct plx_diag *d)
{
	int why = 0;

	if (fsync(o->fd))
		why = errno;
	if (close(o->fd) && !why)
		why = errno;
	o->fd = -1;
	if (!why && give_name(o))
		why = errno;
	if (why) {
		unlink(o->temp);
		o->temp[0] = '\0';
		return why == EEXIST
		           ? plx_diag_set(d, PLX_E_EXISTS,
		                          "%s: appeared meanwhile; give --force to replace it",
		                          o->path)
		           : refused(o->path, why, d);
	}
	o->temp[0] = '\0';
	sync_folder(o->path);
	return 0;
}

void plx_out_abort(struct plx_out *o)
{
	if (o->temp[0] == '\0')
		return;
	close(o->fd);
	unlink(o->temp);
	o->temp[0] = '\0';
	o->fd = -1;
}

int plx_out_file(const char *path, const void *p, size_t n, bool force, struct plx_diag *d)
{
	struct plx_out o;
	int err = plx_out_open(&o, path, force, n, d);

	if (err)
		return err;
	err = plx_out_write(&o, p, n, 0, d);
	if (!err)
		return plx_out_commit(&o, d);
	plx_out_abort(&o);
	return err;
}
