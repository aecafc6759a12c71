/* shared_values.c - what shared.h promises for one caller: values, their ends, lists, the cap to the byte; random operations
 * beside a plain model. The clock is the test's. argv[1]: the seed.
 */
#include "check.h"
#include "mem.h"
#include "shared.h"
#include "siphash.h"

#include <float.h>
#include <math.h>

#define SECOND INT64_C(1000000000)

static uint64_t seed;
static int64_t now_ns;

static int64_t test_clock(void)
{
    return now_ns;
}

static shared_key key_of(const char *text)
{
    return (shared_key){text, strlen(text)};
}

static shared_value text(const char *bytes)
{
    return (shared_value){.type = SHARED_STRING, .as.bytes = bytes, .len = strlen(bytes)};
}

static shared_value integer(int64_t n)
{
    return (shared_value){.type = SHARED_INTEGER, .as.integer = n};
}

static shared_value number(double n)
{
    return (shared_value){.type = SHARED_FLOAT, .as.number = n};
}

static const shared_value none = {.type = SHARED_NONE};

static shared_dict *open_dict(shared **store, size_t max)
{
    shared_dict *dict;
    *store = shared_open(max, test_clock);
    check(*store != NULL);
    check_eq(shared_bytes(*store), 0);
    check_eq(shared_find(&dict, *store, "test", 4), SHARED_OK);
    return dict;
}

static shared_status set(shared_dict *dict, const char *key, shared_value value)
{
    return shared_set(dict, key_of(key), &value, 0, SHARED_SET);
}

/* The value as text: "1", "1.5", "true", "'abc'", "absent", "list of 3". Valid until the next call. */
static const char *show(shared_status status, const shared_value *value)
{
    static char shown[128];
    if (status == SHARED_ABSENT) return "absent";
    if (status == SHARED_TYPE) {
        snprintf(shown, sizeof(shown), "list of %zu", value->len);
        return shown;
    }
    check_eq(status, SHARED_OK);
    if (value->type == SHARED_INTEGER) snprintf(shown, sizeof(shown), "%lld", (long long)value->as.integer);
    else if (value->type == SHARED_FLOAT) snprintf(shown, sizeof(shown), "%.1f", value->as.number);
    else if (value->type == SHARED_BOOLEAN) return value->as.boolean ? "true" : "false";
    else snprintf(shown, sizeof(shown), "'%.*s'", (int)value->len, (const char *)value->as.bytes);
    return shown;
}

static const char *get(shared_dict *dict, const char *key)
{
    static char buffer[100];
    shared_value value;
    shared_status status = shared_get(dict, key_of(key), &value, buffer, sizeof(buffer));
    return show(status, &value);
}

static const char *pop(shared_dict *dict, const char *key, shared_side side)
{
    static char buffer[100];
    shared_value value;
    shared_status status = shared_pop(dict, key_of(key), side, &value, buffer, sizeof(buffer));
    return show(status, &value);
}

static void values_come_back_as_they_were(void)
{
    shared *store;
    shared_dict *dict = open_dict(&store, 1 << 20), *again, *other;
    check_str(get(dict, "a"), "absent");
    check_eq(set(dict, "a", integer(INT64_MIN)), SHARED_OK);
    check_str(get(dict, "a"), "-9223372036854775808");
    check_eq(set(dict, "a", text("hello")), SHARED_OK);
    check_str(get(dict, "a"), "'hello'");
    check_eq(set(dict, "a", text("")), SHARED_OK);
    check_str(get(dict, "a"), "''");
    check_eq(set(dict, "a", number(1.5)), SHARED_OK);
    check_str(get(dict, "a"), "1.5");
    check_eq(set(dict, "a", (shared_value){.type = SHARED_BOOLEAN, .as.boolean = false}), SHARED_OK);
    check_str(get(dict, "a"), "false");
    check_eq(set(dict, "", text("empty key")), SHARED_OK);
    check_str(get(dict, ""), "'empty key'");
    check_eq(shared_count(dict), 2);
    check_eq(shared_find(&again, store, "test", 4), SHARED_OK);
    check(again == dict);
    check_eq(shared_find(&other, store, "tes", 3), SHARED_OK);
    check(other != dict);
    check_str(get(other, "a"), "absent");
    check_eq(shared_delete(dict, key_of("a")), SHARED_OK);
    check_eq(shared_delete(dict, key_of("a")), SHARED_ABSENT);
    check_eq(shared_delete(dict, key_of("")), SHARED_OK);
    shared_close(store);
}

static void a_buffer_too_small_changes_nothing(void)
{
    shared *store;
    shared_dict *dict = open_dict(&store, 1 << 20);
    char buffer[4];
    shared_value value;
    size_t count;
    shared_value hello = text("hello");
    set(dict, "a", hello);
    check_eq(shared_get(dict, key_of("a"), &value, buffer, sizeof(buffer)), SHARED_ROOM);
    check_eq(value.len, 5);
    check_eq(shared_push(dict, key_of("l"), &hello, SHARED_RIGHT, &count), SHARED_OK);
    check_eq(shared_pop(dict, key_of("l"), SHARED_LEFT, &value, buffer, sizeof(buffer)), SHARED_ROOM);
    check_eq(value.len, 5);
    check_str(pop(dict, "l", SHARED_LEFT), "'hello'");
    shared_close(store);
}

static void add_takes_only_what_is_not_there(void)
{
    shared *store;
    shared_dict *dict = open_dict(&store, 1 << 20);
    shared_value one = integer(1), two = integer(2);
    check_eq(shared_set(dict, key_of("a"), &one, SECOND, SHARED_ADD), SHARED_OK);
    check_eq(shared_set(dict, key_of("a"), &two, 0, SHARED_ADD), SHARED_PRESENT);
    check_str(get(dict, "a"), "1");
    now_ns += SECOND;
    check_eq(shared_set(dict, key_of("a"), &two, 0, SHARED_ADD), SHARED_OK);
    check_str(get(dict, "a"), "2");
    shared_close(store);
}

static const char *incr(shared_dict *dict, const char *key, shared_value by, shared_value init, shared_status expected)
{
    check_eq(shared_incr(dict, key_of(key), &by, &init, 0), expected);
    return show(SHARED_OK, &by);
}

static void sums_are_lua_s(void)
{
    shared *store;
    shared_dict *dict = open_dict(&store, 1 << 20);
    check_str(incr(dict, "a", integer(2), integer(40), SHARED_OK), "42");
    check_str(incr(dict, "a", integer(-50), integer(7), SHARED_OK), "-8");
    check_str(incr(dict, "a", number(0.5), integer(7), SHARED_OK), "-7.5");
    check_str(get(dict, "a"), "-7.5");
    check_str(incr(dict, "b", integer(1), integer(INT64_MAX - 1), SHARED_OK), "9223372036854775807");
    incr(dict, "b", integer(1), integer(0), SHARED_RANGE);
    check_str(get(dict, "b"), "9223372036854775807");
    set(dict, "c", integer(INT64_MIN));
    incr(dict, "c", integer(-1), integer(0), SHARED_RANGE);
    check_str(incr(dict, "c", integer(INT64_MAX), integer(0), SHARED_OK), "-1");
    set(dict, "d", text("1"));
    incr(dict, "d", integer(1), integer(0), SHARED_TYPE);
    check_str(get(dict, "d"), "'1'");
    incr(dict, "e", integer(1), text("x"), SHARED_TYPE);
    check_str(get(dict, "e"), "absent");
    shared_close(store);
}

static void cas(shared_dict *dict, shared_value expected, shared_value wanted, shared_status status)
{
    check_eq(shared_cas(dict, key_of("a"), &expected, &wanted), status);
}

static void compare_and_swap_compares_as_lua_does(void)
{
    shared *store;
    shared_dict *dict = open_dict(&store, 1 << 20);
    cas(dict, integer(1), integer(2), SHARED_DIFFERS);
    cas(dict, none, none, SHARED_OK);
    cas(dict, none, integer(1), SHARED_OK);
    cas(dict, none, integer(2), SHARED_DIFFERS);
    cas(dict, number(1.0), number(2.0), SHARED_OK);
    cas(dict, integer(3), integer(4), SHARED_DIFFERS);
    cas(dict, integer(2), text("x"), SHARED_OK);
    cas(dict, integer(0), text("y"), SHARED_DIFFERS);
    cas(dict, text("xx"), text("y"), SHARED_DIFFERS);
    cas(dict, text("x"), number((double)NAN), SHARED_OK);
    cas(dict, number((double)NAN), integer(1), SHARED_DIFFERS);
    set(dict, "a", integer(INT64_MAX));
    cas(dict, number(0x1p63), integer(1), SHARED_DIFFERS);
    cas(dict, integer(INT64_MAX), none, SHARED_OK);
    check_str(get(dict, "a"), "absent");
    shared_value one = integer(1);
    check_eq(shared_set(dict, key_of("a"), &one, SECOND, SHARED_SET), SHARED_OK);
    cas(dict, integer(1), integer(2), SHARED_OK);
    now_ns += SECOND; /* its time to live stayed */
    cas(dict, none, integer(3), SHARED_OK);
    shared_close(store);
}

static void what_has_expired_is_not_there(void)
{
    shared *store;
    shared_dict *dict = open_dict(&store, 1 << 20);
    size_t empty = shared_bytes(store);
    shared_value one = integer(1);
    shared_keys keys;
    int64_t ttl_ns;
    check_eq(shared_set(dict, key_of("a"), &one, 2 * SECOND, SHARED_SET), SHARED_OK);
    check_eq(shared_ttl(dict, key_of("a"), &ttl_ns), SHARED_OK);
    check_eq(ttl_ns, 2 * SECOND);
    now_ns += 2 * SECOND - 1;
    check_str(get(dict, "a"), "1");
    now_ns++;
    check_eq(shared_list(dict, key_of(""), 10, &keys), SHARED_OK);
    check_eq(keys.count, 0);
    check_str(get(dict, "a"), "absent");
    check_eq(shared_bytes(store), empty);
    check_eq(shared_ttl(dict, key_of("a"), &ttl_ns), SHARED_ABSENT);
    check_eq(shared_expire(dict, key_of("a"), SECOND), SHARED_ABSENT);

    shared_set(dict, key_of("a"), &one, SECOND, SHARED_SET);
    shared_set(dict, key_of("a"), &one, 0, SHARED_SET); /* for ever */
    check_eq(shared_ttl(dict, key_of("a"), &ttl_ns), SHARED_OK);
    check_eq(ttl_ns, 0);
    check_eq(shared_expire(dict, key_of("a"), SECOND), SHARED_OK);
    incr(dict, "a", integer(1), integer(0), SHARED_OK); /* changes nothing about it */
    now_ns += SECOND;
    check_eq(shared_count(dict), 0);
    shared_set(dict, key_of("b"), &one, INT64_MAX, SHARED_SET);
    check_eq(shared_expire(dict, key_of("b"), SECOND), SHARED_OK);
    check_eq(shared_expire(dict, key_of("b"), 0), SHARED_OK);
    now_ns += 10 * SECOND;
    check_str(get(dict, "b"), "1");
    shared_close(store);
}

/* Without an operation on their keys, and without a count. */
static void changes_elsewhere_sweep_away_what_has_expired(void)
{
    shared *store;
    shared_dict *dict = open_dict(&store, 1 << 20);
    size_t empty = shared_bytes(store);
    shared_value one = integer(1);
    char key[32];
    for (int i = 0; i < 1000; i++) {
        snprintf(key, sizeof(key), "mortal %d", i);
        check_eq(shared_set(dict, key_of(key), &one, SECOND, SHARED_SET), SHARED_OK);
    }
    now_ns += SECOND;
    for (int i = 0; i < 20000 && shared_bytes(store) > empty; i++) { /* which part a key falls to is drawn by lot */
        snprintf(key, sizeof(key), "%d", i);
        check_eq(shared_delete(dict, key_of(key)), SHARED_ABSENT);
    }
    check_eq(shared_bytes(store), empty);
    shared_close(store);
}

static void lists_have_two_ends(void)
{
    shared *store;
    shared_dict *dict = open_dict(&store, 1 << 20);
    size_t count, empty = shared_bytes(store);
    shared_value values[] = {integer(1), text("two"), number(3.0)};
    for (size_t i = 0; i < array_count(values); i++) {
        check_eq(shared_push(dict, key_of("l"), &values[i], SHARED_RIGHT, &count), SHARED_OK);
        check_eq(count, i + 1);
    }
    check_eq(shared_push(dict, key_of("l"), &values[0], SHARED_LEFT, &count), SHARED_OK);
    check_eq(count, 4);
    check_str(get(dict, "l"), "list of 4");
    incr(dict, "l", integer(1), integer(0), SHARED_TYPE);
    check_str(pop(dict, "l", SHARED_RIGHT), "3.0");
    check_str(pop(dict, "l", SHARED_LEFT), "1");
    check_str(pop(dict, "l", SHARED_LEFT), "1");
    check_str(pop(dict, "l", SHARED_LEFT), "'two'");
    check_str(pop(dict, "l", SHARED_LEFT), "absent");
    check_eq(shared_bytes(store), empty);
    set(dict, "n", integer(1));
    shared_value value;
    check_eq(shared_push(dict, key_of("n"), &values[0], SHARED_LEFT, &count), SHARED_TYPE);
    check_eq(shared_pop(dict, key_of("n"), SHARED_LEFT, &value, NULL, 0), SHARED_TYPE);
    check_eq(shared_push(dict, key_of("l"), &values[1], SHARED_RIGHT, &count), SHARED_OK);
    check_eq(set(dict, "l", integer(7)), SHARED_OK); /* a list is replaced like anything else */
    check_str(get(dict, "l"), "7");
    shared_push(dict, key_of("m"), &values[1], SHARED_RIGHT, &count);
    shared_delete(dict, key_of("m"));
    shared_delete(dict, key_of("l"));
    shared_delete(dict, key_of("n"));
    check_eq(shared_bytes(store), empty);
    shared_close(store);
}

static void lists_are_read_from_anywhere(void)
{
    enum { COUNT = 7 };
    shared *store;
    shared_dict *dict = open_dict(&store, 1 << 20);
    size_t count;
    shared_values values;
    for (int64_t i = 1; i <= COUNT; i++) {
        shared_value value = integer(i);
        shared_push(dict, key_of("l"), &value, SHARED_RIGHT, &count);
    }
    for (int64_t first = -COUNT - 2; first <= COUNT + 2; first++) {
        for (int64_t last = -COUNT - 2; last <= COUNT + 2; last++) {
            int64_t from = first < 0 ? first + COUNT + 1 : first, to = last < 0 ? last + COUNT + 1 : last;
            if (from < 1) from = 1;
            if (to > COUNT) to = COUNT;
            check_eq(shared_range(dict, key_of("l"), first, last, &values), SHARED_OK);
            check_eq(values.count, from <= to ? (size_t)(to - from + 1) : 0);
            for (size_t i = 0; i < values.count; i++) check_eq(values.at[i].as.integer, from + (int64_t)i);
            mem_free(values.at);
        }
    }
    shared_value value = text("seven");
    shared_push(dict, key_of("l"), &value, SHARED_LEFT, &count);
    shared_push(dict, key_of("l"), &value, SHARED_RIGHT, &count);
    check_eq(shared_range(dict, key_of("l"), 1, -1, &values), SHARED_OK);
    check_eq(values.count, COUNT + 2);
    check_str(show(SHARED_OK, &values.at[0]), "'seven'");
    check_str(show(SHARED_OK, &values.at[COUNT + 1]), "'seven'");
    mem_free(values.at);
    check_eq(shared_range(dict, key_of("none"), 1, -1, &values), SHARED_ABSENT);
    check_eq(values.count, 0);
    set(dict, "n", integer(1));
    check_eq(shared_range(dict, key_of("n"), 1, -1, &values), SHARED_TYPE);
    shared_close(store);
}

static void the_cap_holds_and_what_is_there_stays(void)
{
    shared *store;
    shared_dict *dict = open_dict(&store, 100000), *other;
    static char bytes[200000];
    shared_value large = {.type = SHARED_STRING, .as.bytes = bytes, .len = sizeof(bytes)}, one = integer(1);
    size_t count, kept = 0;
    char key[32];
    check_eq(set(dict, "large", large), SHARED_FULL);
    check_str(get(dict, "large"), "absent");
    large.len = SIZE_MAX / 2;
    check_eq(set(dict, "large", large), SHARED_FULL);
    for (;; kept++) {
        snprintf(key, sizeof(key), "%zu", kept);
        if (set(dict, key, one) != SHARED_OK) break;
        check(shared_bytes(store) <= 100000);
    }
    check(kept > 300);
    check_eq(shared_count(dict), kept);
    large.len = 5000;
    check_eq(set(dict, "0", large), SHARED_FULL);
    check_str(get(dict, "0"), "1");
    while (shared_push(dict, key_of("list"), &one, SHARED_RIGHT, &count) == SHARED_OK) {
    }
    check_eq(shared_find(&other, store, "other", 5), SHARED_FULL);
    check_eq(shared_set(dict, key_of("0"), &one, SECOND, SHARED_SET), SHARED_OK); /* in its place */
    now_ns += SECOND;
    shared_flush(dict);
    check_eq(shared_count(dict), 0);
    check_eq(set(dict, "0", large), SHARED_OK);
    shared_close(store);
}

static void the_expired_make_room(void)
{
    shared *store;
    shared_dict *dict = open_dict(&store, 100000);
    shared_value one = integer(1);
    char key[32];
    int kept = 0;
    for (;; kept++) {
        snprintf(key, sizeof(key), "%d", kept);
        if (shared_set(dict, key_of(key), &one, SECOND, SHARED_SET) != SHARED_OK) break;
    }
    now_ns += SECOND;
    for (int i = 0; i < kept * 9 / 10; i++) { /* other keys, other tables: not all of them need fit */
        snprintf(key, sizeof(key), "new %d", i);
        if (set(dict, key, one) != SHARED_OK) fail("number %d of %d does not fit", i, kept);
    }
    check_eq(shared_count(dict), kept * 9 / 10);
    shared_close(store);
}

/* Those of other dictionaries, too, and as many as it takes. */
static void the_expired_make_room_everywhere(void)
{
    enum { MAX = 4 << 20, DICTS = 5 };
    shared *store;
    shared_dict *dict = open_dict(&store, MAX), *other;
    static char bytes[MAX];
    shared_value small = {.type = SHARED_STRING, .as.bytes = bytes, .len = 100}, large = small;
    char key[32];
    size_t count;
    int kept = 0;
    for (;; kept++) {
        snprintf(key, sizeof(key), "%d", kept % DICTS);
        check_eq(shared_find(&other, store, key, 1), SHARED_OK);
        snprintf(key, sizeof(key), "%d", kept);
        if (shared_set(other, key_of(key), &small, SECOND, SHARED_SET) != SHARED_OK) break;
    }
    check(kept > 10000);
    check_eq(set(dict, "large", small), SHARED_FULL);
    now_ns += SECOND;
    large.len = MAX / 2;
    check_eq(set(dict, "large", large), SHARED_OK); /* only so much goes as is needed */
    check(shared_bytes(store) > MAX * 3 / 4);
    large.len = MAX / 3;
    check_eq(shared_push(dict, key_of("list"), &large, SHARED_LEFT, &count), SHARED_OK);
    check_eq(set(dict, "last", large), SHARED_FULL);
    large.len = MAX - MAX / 2 - MAX / 3 - 25000; /* nothing that has expired is left beside it */
    check_eq(set(dict, "last", large), SHARED_OK);
    for (int i = 0; i < DICTS; i++) {
        snprintf(key, sizeof(key), "%d", i);
        check_eq(shared_find(&other, store, key, 1), SHARED_OK);
        check_eq(shared_count(other), 0);
    }
    check_eq(shared_count(dict), 3);
    shared_close(store);
}

static void the_expired_make_room_for_a_dictionary(void)
{
    shared *store;
    shared_dict *dict = open_dict(&store, 100000), *other;
    shared_value one = integer(1);
    char key[32] = "0";
    for (int i = 1; shared_set(dict, key_of(key), &one, SECOND, SHARED_SET) == SHARED_OK; i++)
        snprintf(key, sizeof(key), "%d", i);
    check_eq(shared_find(&other, store, "other", 5), SHARED_FULL);
    now_ns += SECOND;
    check_eq(shared_find(&other, store, "other", 5), SHARED_OK);
    shared_close(store);
}

/* An expiry that is put off, taken away or brought forward is known to who makes room. */
static void room_is_made_whenever_it_expires(void)
{
    enum { MAX = 100000 };
    shared *store;
    shared_dict *dict = open_dict(&store, MAX);
    static char bytes[MAX];
    shared_value half = {.type = SHARED_STRING, .as.bytes = bytes, .len = MAX / 2};
    check_eq(shared_set(dict, key_of("a"), &half, SECOND, SHARED_SET), SHARED_OK);
    check_eq(shared_expire(dict, key_of("a"), 3 * SECOND), SHARED_OK);
    now_ns += SECOND;
    check_eq(set(dict, "b", half), SHARED_FULL);
    check_eq(shared_expire(dict, key_of("a"), 0), SHARED_OK);
    now_ns += 10 * SECOND;
    check_eq(set(dict, "b", half), SHARED_FULL);
    check_eq(shared_expire(dict, key_of("a"), 5 * SECOND), SHARED_OK);
    check_eq(shared_expire(dict, key_of("a"), 2 * SECOND), SHARED_OK);
    now_ns += 2 * SECOND - 1;
    check_eq(set(dict, "b", half), SHARED_FULL);
    now_ns++;
    check_eq(set(dict, "b", half), SHARED_OK);
    shared_close(store);
}

static void a_replacement_needs_room_for_what_it_grows_by(void)
{
    enum { MAX = 1 << 20 };
    shared *store;
    shared_dict *dict = open_dict(&store, MAX);
    static char bytes[MAX];
    shared_value large = {.type = SHARED_STRING, .as.bytes = bytes, .len = 600000}, one = integer(1);
    size_t count, empty = shared_bytes(store);
    check_eq(set(dict, "large", large), SHARED_OK);
    large.len = 400000;
    check_eq(set(dict, "other", large), SHARED_OK);
    while (shared_push(dict, key_of("list"), &one, SHARED_RIGHT, &count) == SHARED_OK) {
    }
    size_t full = shared_bytes(store);
    large.len = 600200;
    check_eq(set(dict, "large", large), SHARED_FULL);
    check_eq(set(dict, "list", text("short")), SHARED_OK); /* all that the list held is free */
    check_str(get(dict, "list"), "'short'");
    check(shared_bytes(store) < full - 20000);
    check_eq(set(dict, "large", large), SHARED_OK); /* 200 bytes more */
    large.len = 800000;
    check_eq(set(dict, "large", large), SHARED_FULL);
    check_eq(set(dict, "large", text("small")), SHARED_OK);
    check_str(get(dict, "large"), "'small'");
    check(shared_bytes(store) < 410000);
    shared_flush(dict);
    check_eq(shared_bytes(store), empty);
    shared_close(store);
}

static void keys_are_listed_by_prefix(void)
{
    shared *store;
    shared_dict *dict = open_dict(&store, 1 << 20);
    shared_keys keys;
    char key[32];
    for (int i = 0; i < 100; i++) {
        snprintf(key, sizeof(key), "%s:%d", i % 4 == 0 ? "user" : "other", i);
        set(dict, key, integer(i));
    }
    check_eq(shared_list(dict, key_of("user:"), 1000, &keys), SHARED_OK);
    check_eq(keys.count, 25);
    size_t at = 0;
    int64_t sum = 0;
    for (size_t i = 0; i < keys.count; i++) {
        uint32_t len;
        memcpy(&len, keys.bytes + at, sizeof(len));
        memcpy(key, keys.bytes + at + sizeof(len), len);
        key[len] = '\0';
        at += sizeof(len) + len;
        sum += strtoll(key + 5, NULL, 10);
    }
    check_eq(at, keys.len);
    check_eq(sum, 25 * 48); /* 0, 4, … 96 */
    mem_free(keys.bytes);
    check_eq(shared_list(dict, key_of(""), 7, &keys), SHARED_OK);
    check_eq(keys.count, 7);
    mem_free(keys.bytes);
    check_eq(shared_list(dict, key_of("none"), 7, &keys), SHARED_OK);
    check_eq(keys.count, 0);
    check(keys.bytes == NULL);
    shared_close(store);
}

static void dictionaries_have_an_end(void)
{
    shared *store;
    shared_dict *dict = open_dict(&store, 64 << 20);
    char name[16];
    for (int i = 1; i < SHARED_DICTS_MAX; i++) {
        snprintf(name, sizeof(name), "%d", i);
        check_eq(shared_find(&dict, store, name, strlen(name)), SHARED_OK);
    }
    check_eq(shared_find(&dict, store, "one more", 8), SHARED_FULL);
    check_eq(shared_find(&dict, store, "test", 4), SHARED_OK);
    shared_close(store);
}

/* ---- Beside a model ---- */

enum { MODEL_KEYS = 200 };

typedef struct model {
    bool is_there;
    int64_t value;
    int64_t expires_ns;
} model;

static void random_operations_do_what_a_model_does(void)
{
    shared *store;
    shared_dict *dict = open_dict(&store, 1 << 20);
    size_t empty = shared_bytes(store);
    static model models[MODEL_KEYS];
    memset(models, 0, sizeof(models));
    for (int step = 0; step < 200000; step++) {
        size_t at = check_random_below(&seed, MODEL_KEYS);
        model *m = &models[at];
        char name[32];
        snprintf(name, sizeof(name), "key %zu", at);
        shared_key key = key_of(name);
        if (m->is_there && m->expires_ns <= now_ns) m->is_there = false;
        shared_value value = integer((int64_t)check_random_below(&seed, 10)), got, zero = integer(0);
        int64_t ttl_ns = check_random_below(&seed, 3) == 0 ? 1 + (int64_t)check_random_below(&seed, 1000) : 0;
        int64_t expires_ns = ttl_ns == 0 ? INT64_MAX : now_ns + ttl_ns;
        switch (check_random_below(&seed, 8)) {
        case 0:
            check_eq(shared_set(dict, key, &value, ttl_ns, SHARED_SET), SHARED_OK);
            *m = (model){true, value.as.integer, expires_ns};
            break;
        case 1:
            check_eq(shared_set(dict, key, &value, ttl_ns, SHARED_ADD), m->is_there ? SHARED_PRESENT : SHARED_OK);
            if (!m->is_there) *m = (model){true, value.as.integer, expires_ns};
            break;
        case 2:
            check_eq(shared_delete(dict, key), m->is_there ? SHARED_OK : SHARED_ABSENT);
            m->is_there = false;
            break;
        case 3:
            if (!m->is_there) *m = (model){true, 0, expires_ns};
            m->value += value.as.integer;
            check_eq(shared_incr(dict, key, &value, &zero, ttl_ns), SHARED_OK);
            check_eq(value.as.integer, m->value);
            break;
        case 4:
            check_eq(shared_cas(dict, key, &value, &zero),
                     m->is_there && m->value == value.as.integer ? SHARED_OK : SHARED_DIFFERS);
            if (m->is_there && m->value == value.as.integer) m->value = 0;
            break;
        case 5:
            now_ns += (int64_t)check_random_below(&seed, 20);
            break;
        default:
            check_eq(shared_get(dict, key, &got, NULL, 0), m->is_there ? SHARED_OK : SHARED_ABSENT);
            if (m->is_there) check_eq(got.as.integer, m->value);
        }
        if (step % 1000 == 0) {
            size_t count = 0;
            for (size_t i = 0; i < MODEL_KEYS; i++) count += models[i].is_there && models[i].expires_ns > now_ns;
            check_eq(shared_count(dict), count);
        }
    }
    shared_flush(dict);
    check_eq(shared_bytes(store), empty);
    shared_close(store);
}

/* source  the vectors of SipHash-1-3 in the tests of Rust's standard library, key 00 01 … 0f, bytes 00 01 … */
static void the_hash_is_siphash(void)
{
    const uint64_t key[2] = {0x0706050403020100, 0x0f0e0d0c0b0a0908};
    check_eq(siphash(key, "", 0), (int64_t)0xabac0158050fc4dc);
    check(siphash(key, "a", 1) != siphash(key, "b", 1));
    check(siphash(key, "\0", 1) != siphash(key, "\0\0", 2));
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    seed = check_seed(argc, argv, 1, 20261122);
    check_run(values_come_back_as_they_were);
    check_run(a_buffer_too_small_changes_nothing);
    check_run(add_takes_only_what_is_not_there);
    check_run(sums_are_lua_s);
    check_run(compare_and_swap_compares_as_lua_does);
    check_run(what_has_expired_is_not_there);
    check_run(changes_elsewhere_sweep_away_what_has_expired);
    check_run(lists_have_two_ends);
    check_run(lists_are_read_from_anywhere);
    check_run(the_cap_holds_and_what_is_there_stays);
    check_run(the_expired_make_room);
    check_run(the_expired_make_room_everywhere);
    check_run(the_expired_make_room_for_a_dictionary);
    check_run(room_is_made_whenever_it_expires);
    check_run(a_replacement_needs_room_for_what_it_grows_by);
    check_run(keys_are_listed_by_prefix);
    check_run(dictionaries_have_an_end);
    check_run(random_operations_do_what_a_model_does);
    check_run(the_hash_is_siphash);
    return check_end();
}
