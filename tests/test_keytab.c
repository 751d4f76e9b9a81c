/* Key files: what is taken, what is refused with which words, and tables that are swapped. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sodium.h>

#include "dataplane/keytab.h"
#include "fw/base/err.h"

#define K1 "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define K2 "ff112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

static struct plx_keytab *tab;
static struct plx_diag diag;

static int parse(const char *text)
{
	plx_keytab_free(tab);
	tab = NULL;
	diag.text[0] = '\0';
	return plx_keytab_parse(&tab, text, strlen(text), "keys", &diag);
}

static void refused(const char *text, int err, const char *message)
{
	assert_int_equal(parse(text), err);
	assert_string_equal(diag.text, message);
	assert_null(tab);
}

static void test_keytab_takes_every_field(void **state)
{
	(void)state;
	assert_int_equal(parse("# clients\n\n"
	                       "id=1f key=" K1 " tenant=acme sessions=4 requests=8 kv_percent=50 "
	                       "priority=7 # rack 3\n"
	                       "\tkey=" K2 "\tid=2\tshare_prefix=no\r\n"
	                       "id=FFFFFFFFFFFFFFFF key=" K1 " tenant=acme share_prefix=yes"),
	                 PLX_E_OK);
	assert_int_equal(tab->n, 3);
	assert_int_equal(tab->key[0].psk.key_id, 2);
	assert_string_equal(tab->key[0].tenant, "default");
	assert_int_equal(tab->key[0].max_sessions, UINT32_MAX);
	assert_int_equal(tab->key[0].kv_percent, 100);
	assert_int_equal(tab->key[0].max_priority, 15);
	assert_int_equal(tab->key[0].psk.psk[0], 0xff);
	const struct plx_key *k = plx_keytab_find(tab, 0x1f);

	assert_non_null(k);
	assert_string_equal(k->tenant, "acme");
	assert_int_equal(k->max_sessions, 4);
	assert_int_equal(k->max_requests, 8);
	assert_int_equal(k->kv_percent, 50);
	assert_int_equal(k->max_priority, 7);
	assert_int_equal(k->line, 3);
	assert_non_null(plx_keytab_find(tab, UINT64_MAX));
	assert_true(plx_keytab_find(tab, UINT64_MAX)->share_prefix);
	assert_false(plx_keytab_find(tab, 2)->share_prefix);
	assert_false(k->share_prefix); /* not said */
	assert_null(plx_keytab_find(tab, 3));
}

static void test_keytab_names_each_mistake(void **state)
{
	(void)state;
	refused("id=1", PLX_E_FORMAT,
	        "keys:1: id= and key= must both be there; plx-key makes such lines");
	refused("\nid=0 key=" K1, PLX_E_FORMAT,
	        "keys:2: id= wants 1 to 16 hex digits, not all zero");
	refused("id=12345678901234567 key=" K1, PLX_E_FORMAT,
	        "keys:1: id= wants 1 to 16 hex digits, not all zero");
	refused("id=1 key=abc", PLX_E_FORMAT,
	        "keys:1: key= wants 64 hex digits, not all zero; plx-key makes one");
	refused("id=1 key=" K1 " id=2", PLX_E_FORMAT, "keys:1: id= stands there twice; remove one");
	refused("id=1 key=" K1 " sessions=0", PLX_E_FORMAT,
	        "keys:1: sessions= wants a number from 1 to 999999999");
	refused("id=1 key=" K1 " kv_percent=101", PLX_E_FORMAT,
	        "keys:1: kv_percent= wants a number from 1 to 100");
	refused("id=1 key=" K1 " priority=-1", PLX_E_FORMAT,
	        "keys:1: priority= wants a number from 0 to 15");
	refused("id=1 key=" K1 " tenant=a/b", PLX_E_FORMAT,
	        "keys:1: tenant= wants 1 to 31 of letters, digits, '_', '.' and '-'");
	refused("id=1 key=" K1 " colour=red", PLX_E_FORMAT,
	        "keys:1: a field is not known; there are id, key, tenant, sessions, requests, "
	        "kv_percent, priority, share_prefix");
	refused("id=1 key=" K1 " share_prefix=1", PLX_E_FORMAT,
	        "keys:1: share_prefix= wants yes or no");
	refused("id=1 key=" K1 " share_prefix=yes share_prefix=no", PLX_E_FORMAT,
	        "keys:1: share_prefix= stands there twice; remove one");
	refused("id = 1", PLX_E_FORMAT,
	        "keys:1: fields are written name=value, without blanks around =");
	refused("id=1 key=" K1 "\n\nid=1 key=" K2, PLX_E_EXISTS,
	        "keys:3: id=1 stands in line 1 already; remove one");
	refused("# none\n", PLX_E_FORMAT,
	        "keys: no key in it, so nobody could connect; plx-key makes one");
}

static void test_keytab_messages_hold_no_key(void **state)
{
	(void)state;
	assert_int_equal(parse("id=1 key=" K1 "x"), PLX_E_FORMAT);
	assert_null(strstr(diag.text, "0011"));
	assert_int_equal(parse("id=1 " K1 "=key"), PLX_E_FORMAT);
	assert_null(strstr(diag.text, "0011"));
}

static char path[64];

static void write_file(const char *text, mode_t mode)
{
	snprintf(path, sizeof(path), "/tmp/plx-keys-%d", getpid());
	unlink(path);
	int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC, mode);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	fchmod(fd, mode);
	close(fd);
}

static void test_keytab_checks_the_mode(void **state)
{
	struct plx_keytab *t;
	struct plx_diag d = {0};
	char want[200];

	(void)state;
	write_file("id=1 key=" K1 "\n", 0640);
	assert_int_equal(plx_keytab_load(&t, path, &d), PLX_E_AUTH);
	snprintf(want, sizeof(want),
	         "%s: mode is 0640, so others may read the keys; `chmod 600 %s`", path, path);
	assert_string_equal(d.text, want);
	chmod(path, 0600);
	assert_int_equal(plx_keytab_load(&t, path, &d), PLX_E_OK);
	plx_keytab_free(t);
	d.text[0] = '\0';
	assert_int_equal(plx_keytab_load(&t, "/nonexistent/keys", &d), PLX_E_NOT_FOUND);
	assert_string_equal(
	    d.text, "/nonexistent/keys: No such file or directory; `plx-key` makes a key file");
	d.text[0] = '\0';
	assert_int_equal(plx_keytab_load(&t, "/dev", &d), PLX_E_AUTH);
	unlink(path);
}

static void test_keys_reload_waits_for_readers(void **state)
{
	static struct plx_keys k;
	struct plx_diag d = {0};

	(void)state;
	write_file("id=1 key=" K1 " tenant=a\nid=2 key=" K2 " tenant=b\n", 0600);
	assert_int_equal(plx_keys_open(&k, path, &d), PLX_E_OK);
	int reader = plx_keys_reader(&k);

	assert_int_equal(reader, 0);
	const struct plx_keytab *t = plx_keys_get(&k);
	uint16_t use2 = plx_keytab_find(t, 2)->use_idx;

	plx_keys_seen(&k, 0, t->gen);
	assert_int_equal(plx_keytab_find(t, 2)->tenant_idx, 1);
	write_file("id=2 key=" K2 " tenant=b\nid=3 key=" K1 " tenant=c\n", 0600);
	assert_int_equal(plx_keys_reload(&k, path, &d), PLX_E_OK);
	t = plx_keys_get(&k);
	assert_int_equal(t->gen, 2);
	assert_null(plx_keytab_find(t, 1));
	assert_int_equal(plx_keytab_find(t, 2)->use_idx, use2);
	assert_int_equal(plx_keytab_find(t, 2)->tenant_idx, 1);
	assert_int_equal(plx_keytab_find(t, 3)->tenant_idx, 2);
	assert_int_equal(plx_keys_reload(&k, path, &d), PLX_E_AGAIN);
	plx_keys_seen(&k, 0, 2);
	assert_int_equal(plx_keys_reload(&k, path, &d), PLX_E_OK);
	plx_keys_seen(&k, 0, 3);
	write_file("nonsense\n", 0600);
	assert_int_equal(plx_keys_reload(&k, path, &d), PLX_E_FORMAT);
	assert_int_equal(plx_keys_get(&k)->gen, 3); /* the old table stays */
	plx_keys_close(&k);
	unlink(path);
}

static void test_keytab_insecure_has_key_zero(void **state)
{
	struct plx_keytab *t;

	(void)state;
	assert_int_equal(plx_keytab_insecure(&t, NULL), PLX_E_OK);
	assert_true(t->insecure);
	assert_non_null(plx_keytab_find(t, 0));
	assert_null(plx_keytab_find(t, 1));
	plx_keytab_free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_keytab_takes_every_field),
	    cmocka_unit_test(test_keytab_names_each_mistake),
	    cmocka_unit_test(test_keytab_messages_hold_no_key),
	    cmocka_unit_test(test_keytab_checks_the_mode),
	    cmocka_unit_test(test_keys_reload_waits_for_readers),
	    cmocka_unit_test(test_keytab_insecure_has_key_zero),
	};

	if (sodium_init() < 0)
		return 1;
	int rc = cmocka_run_group_tests(tests, NULL, NULL);

	plx_keytab_free(tab);
	return rc;
}
