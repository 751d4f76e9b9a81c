/* plx-tune: the best trade of speed and accuracy on this machine, for this model and this text. */
#include <stdio.h>

#include "fw/base/err.h"
#include "tools/gguf/out.h"
#include "tools/tune/tune.h"

static int complain(const struct plx_diag *d, int rc)
{
	fprintf(stderr, "plx-tune: %s\n", d->text[0] ? d->text : "failed");
	return rc;
}

int main(int argc, char **argv)
{
	static struct plx_tune t;
	static struct plx_tune_options o;
	struct plx_diag d = {0};
	int err = plx_tune_parse(&o, argc, argv, &d);

	if (err)
		return complain(&d, PLX_TUNE_USAGE);
	if (o.help) {
		plx_tune_usage(stdout);
		return 0;
	}
	plx_out_catch();
	err = plx_tune_open(&t, &o, &d);
	if (err)
		return complain(&d, plx_tune_exit_of(err));
	err = plx_tune_find(&t, &d);
	if (!err)
		err = plx_tune_report(&t, &d);
	if (err == PLX_E_CANCELLED)
		fprintf(stderr,
		        "plx-tune: interrupted; %u measurements are in %s: the same command "
		        "goes on\n",
		        t.journal.n, t.journal.path);
	else if (err)
		(void)complain(&d, 0);
	plx_tune_close(&t);
	if (!err && (fflush(stdout) || ferror(stdout)))
		return complain(&(struct plx_diag){"can't write to standard output"},
		                PLX_TUNE_OUTPUT);
	return plx_tune_exit_of(err);
}
