/* A treap with sums, and virtual time; queue.h says the order. */
#include "dataplane/batch/queue.h"

#include <string.h>

#include "fw/base/check.h"
#include "fw/base/err.h"

#define NONE PLX_QUEUE_NONE

/* ---- order ---- */

size_t plx_order_bytes(uint32_t n)
{
	return n * sizeof(struct plx_order_node) + 64;
}

int plx_order_init(struct plx_order *o, struct plx_arena *a, uint32_t n)
{
	o->n = n;
	o->root = NONE;
	o->serial = 0;
	o->node = plx_arena_take(a, n * sizeof(*o->node), 64);
	return o->node ? 0 : PLX_E_NOMEM;
}

/* splitmix64's finaliser, so that no order of coming makes a deep tree. */
static uint32_t hash(uint64_t x)
{
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return (uint32_t)(x >> 32);
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static void sum_up(struct plx_order *o, uint32_t k)
{
	struct plx_order_node *v = &o->node[k];

	v->count = 1;
	v->sum = v->tokens;
	v->first_deadline_ns = v->deadline_ns;
	for (int side = 0; side < 2; side++) {
		uint32_t c = side ? v->right : v->left;

		if (c == NONE)
			continue;
		v->count += o->node[c].count;
		v->sum += o->node[c].sum;
		v->first_deadline_ns = earlier(v->first_deadline_ns, o->node[c].first_deadline_ns);
	}
}

static void sum_path(struct plx_order *o, uint32_t k)
{
	for (; k != NONE; k = o->node[k].up)
		sum_up(o, k);
}

/* Where the pointer to k stands. */
static uint32_t *link_to(struct plx_order *o, uint32_t k)
{
	uint32_t up = o->node[k].up;

	if (up == NONE)
		return &o->root;
	return o->node[up].left == k ? &o->node[up].left : &o->node[up].right;
}

/* k changes places with the node above it. */
static void rotate_up(struct plx_order *o, uint32_t k)
{
	struct plx_order_node *v = &o->node[k];
	uint32_t p = v->up, inner;
	struct plx_order_node *w = &o->node[p];

	*link_to(o, p) = k;
	v->up = w->up;
	w->up = k;
	if (w->left == k) {
		inner = w->left = v->right;
		v->right = p;
	} else {
		inner = w->right = v->left;
		v->left = p;
	}
	if (inner != NONE)
		o->node[inner].up = p;
	sum_up(o, p);
	sum_up(o, k);
}

/* A new entry stands behind all of its rank, since its serial number is the largest. */
void plx_order_add(struct plx_order *o, uint32_t key, int64_t rank, uint32_t tokens,
                   uint64_t deadline_ns)
{
	uint32_t up = NONE, *link = &o->root;

	PLX_DCHECK(key < o->n && o->node[key].serial == 0);
	while (*link != NONE) {
		up = *link;
		link = rank < o->node[up].rank ? &o->node[up].left : &o->node[up].right;
	}
	*link = key;
	o->serial++;
	o->node[key] =
	    (struct plx_order_node){.left = NONE,
	                            .right = NONE,
	                            .up = up,
	                            .heap = hash(o->serial),
	                            .rank = rank,
	                            .serial = o->serial,
	                            .deadline_ns = deadline_ns ? deadline_ns : UINT64_MAX,
	                            .tokens = tokens};
	sum_path(o, key);
	while (o->node[key].up != NONE && o->node[o->node[key].up].heap < o->node[key].heap)
		rotate_up(o, key);
}

void plx_order_remove(struct plx_order *o, uint32_t key)
{
	struct plx_order_node *v = &o->node[key];

	PLX_DCHECK(key < o->n && v->serial != 0);
	while (v->left != NONE && v->right != NONE)
		rotate_up(o, o->node[v->left].heap > o->node[v->right].heap ? v->left : v->right);
	uint32_t child = v->left != NONE ? v->left : v->right;

	*link_to(o, key) = child;
	if (child != NONE)
		o->node[child].up = v->up;
	sum_path(o, v->up);
	v->serial = 0;
}

void plx_order_tokens(struct plx_order *o, uint32_t key, uint32_t tokens)
{
	o->node[key].tokens = tokens;
	sum_path(o, key);
}

static uint32_t leftmost(const struct plx_order *o, uint32_t k)
{
	while (k != NONE && o->node[k].left != NONE)
		k = o->node[k].left;
	return k;
}

uint32_t plx_order_first(const struct plx_order *o)
{
	return leftmost(o, o->root);
}

uint32_t plx_order_next(const struct plx_order *o, uint32_t key)
{
	if (o->node[key].right != NONE)
		return leftmost(o, o->node[key].right);
	uint32_t up = o->node[key].up;

	while (up != NONE && o->node[up].right == key) {
		key = up;
		up = o->node[key].up;
	}
	return up;
}

uint32_t plx_order_after(const struct plx_order *o, int64_t rank)
{
	uint32_t best = NONE;

	for (uint32_t k = o->root; k != NONE;) {
		bool above = o->node[k].rank > rank;

		best = above ? k : best;
		k = above ? o->node[k].left : o->node[k].right;
	}
	return best;
}

struct plx_order_ahead plx_order_ahead(const struct plx_order *o, int64_t rank)
{
	struct plx_order_ahead a = {0, 0};

	for (uint32_t k = o->root; k != NONE;) {
		const struct plx_order_node *v = &o->node[k];

		if (v->rank > rank) {
			k = v->left;
			continue;
		}
		a.count += 1 + (v->left != NONE ? o->node[v->left].count : 0);
		a.tokens += v->tokens + (v->left != NONE ? o->node[v->left].sum : 0);
		k = v->right;
	}
	return a;
}

uint32_t plx_order_overdue(const struct plx_order *o, uint64_t now_ns)
{
	uint32_t k = o->root;

	if (k == NONE || o->node[k].first_deadline_ns > now_ns)
		return NONE;
	uint64_t first = o->node[k].first_deadline_ns;

	while (o->node[k].deadline_ns != first) {
		uint32_t l = o->node[k].left;

		k = l != NONE && o->node[l].first_deadline_ns == first ? l : o->node[k].right;
	}
	return k;
}

int64_t plx_queue_rank(uint64_t now_ns, uint64_t horizon_ns, uint64_t own_work_ns, uint8_t priority,
                       uint64_t lag_ns)
{
	const uint64_t most = PLX_QUEUE_HORIZON_NS;
	int64_t horizon = (int64_t)earlier(horizon_ns, most);
	int64_t work = (int64_t)earlier(own_work_ns, (uint64_t)horizon);

	return (int64_t)now_ns + horizon - work - (int64_t)(priority * most) +
	       (int64_t)earlier(lag_ns, most);
}

/* ---- fair shares ---- */

static uint32_t n_flows(uint32_t n_requests)
{
	return 2 * n_requests;
}

static uint32_t n_buckets(uint32_t n)
{
	uint32_t b = 1;

	while (b < n)
		b *= 2;
	return b;
}

size_t plx_fair_bytes(uint32_t n_requests)
{
	uint32_t n = n_flows(n_requests);

	return n * sizeof(struct plx_flow) + n_buckets(n) * sizeof(uint32_t) + 128;
}

static void idle_append(struct plx_fair *f, uint32_t i)
{
	f->flow[i].older = f->newest;
	f->flow[i].newer = NONE;
	if (f->newest != NONE)
		f->flow[f->newest].newer = i;
	else
		f->oldest = i;
	f->newest = i;
}

static void idle_remove(struct plx_fair *f, uint32_t i)
{
	const struct plx_flow *v = &f->flow[i];

	if (v->older != NONE)
		f->flow[v->older].newer = v->newer;
	else
		f->oldest = v->newer;
	if (v->newer != NONE)
		f->flow[v->newer].older = v->older;
	else
		f->newest = v->older;
}

static uint32_t *bucket_of(const struct plx_fair *f, uint32_t session)
{
	return &f->bucket[hash(session + UINT64_C(0x9e3779b97f4a7c15)) & f->mask];
}

int plx_fair_init(struct plx_fair *f, struct plx_arena *a, uint32_t n_requests)
{
	uint32_t n = n_flows(n_requests);

	*f = (struct plx_fair){.n = n, .mask = n_buckets(n) - 1, .oldest = NONE, .newest = NONE};
	f->flow = plx_arena_take(a, n * sizeof(*f->flow), 64);
	f->bucket = plx_arena_take(a, ((size_t)f->mask + 1) * sizeof(*f->bucket), 64);
	if (!f->flow || !f->bucket)
		return PLX_E_NOMEM;
	memset(f->bucket, 0xff, ((size_t)f->mask + 1) * sizeof(*f->bucket));
	/* Flows that nobody has used yet are session i's: harmless, and so every flow is someone's.
	 */
	for (uint32_t i = 0; i < n; i++) {
		uint32_t *b = bucket_of(f, i);

		f->flow[i] = (struct plx_flow){.session = i, .next = *b};
		*b = i;
		idle_append(f, i);
	}
	return 0;
}

static uint32_t find(const struct plx_fair *f, uint32_t session)
{
	uint32_t i = *bucket_of(f, session);

	while (i != NONE && f->flow[i].session != session)
		i = f->flow[i].next;
	return i;
}

/* The flow that was idle longest forgets what it was ahead; there are as many as requests. */
static uint32_t take_over(struct plx_fair *f, uint32_t session)
{
	uint32_t i = f->oldest, *link = bucket_of(f, f->flow[i].session);

	while (*link != i)
		link = &f->flow[*link].next;
	*link = f->flow[i].next;
	link = bucket_of(f, session);
	f->flow[i].session = session;
	f->flow[i].next = *link;
	f->flow[i].finish = 0;
	f->flow[i].turn_ns = 0;
	*link = i;
	return i;
}

double plx_fair_peek(const struct plx_fair *f, uint32_t session)
{
	uint32_t i = find(f, session);

	return i != NONE && f->flow[i].finish > f->now ? f->flow[i].finish : f->now;
}

uint32_t plx_fair_enter(struct plx_fair *f, uint32_t session, uint32_t weight, uint32_t tokens,
                        double *start)
{
	uint32_t i = find(f, session);

	if (i == NONE)
		i = take_over(f, session);
	struct plx_flow *v = &f->flow[i];

	if (v->n_live++ == 0) {
		idle_remove(f, i);
		v->weight = weight ? weight : 1;
		f->weight += v->weight;
	}
	*start = v->finish > f->now ? v->finish : f->now;
	v->finish = *start + (double)tokens / v->weight;
	return i;
}

void plx_fair_serve(struct plx_fair *f, double start)
{
	f->now = start > f->now ? start : f->now;
}

void plx_fair_charge(struct plx_fair *f, uint32_t flow, int64_t tokens)
{
	struct plx_flow *v = &f->flow[flow];

	v->finish += (double)tokens / v->weight;
}

void plx_fair_leave(struct plx_fair *f, uint32_t flow)
{
	struct plx_flow *v = &f->flow[flow];

	PLX_DCHECK(v->n_live > 0);
	if (--v->n_live > 0)
		return;
	f->weight -= v->weight;
	idle_append(f, flow);
}

uint64_t plx_fair_lag_ns(const struct plx_fair *f, double start, double token_ns)
{
	double lag = (start - f->now) * token_ns * (f->weight > 1 ? f->weight : 1);

	return lag <= 0                             ? 0
	       : lag < (double)PLX_QUEUE_HORIZON_NS ? (uint64_t)lag
	                                            : PLX_QUEUE_HORIZON_NS;
}

uint64_t plx_fair_turn_ns(const struct plx_fair *f, uint32_t session, uint64_t now_ns,
                          double token_ns)
{
	uint32_t i = find(f, session);
	uint64_t lag = plx_fair_lag_ns(f, plx_fair_peek(f, session), token_ns);

	if (i == NONE || lag == 0 || f->flow[i].turn_ns < now_ns + lag)
		return now_ns + lag;
	return earlier(f->flow[i].turn_ns, now_ns + PLX_QUEUE_HORIZON_NS);
}

void plx_fair_took_turn(struct plx_fair *f, uint32_t flow, uint64_t turn_ns)
{
	f->flow[flow].turn_ns = turn_ns;
}
