/* shared_from_many_threads.c - operations of several threads on the same keys are each of one piece: sums add up, what one
 * pushes another pops once, a lock made of cas is held by one. The thread sanitizer looks on.
 */
#include "check.h"
#include "os.h"
#include "shared.h"

enum { THREADS = 4, ROUNDS = 5000, KEYS = 8 };

typedef struct worker_data {
    shared_dict *dict;
    int number;
    int64_t popped;
    int64_t sum;
    int64_t *guarded; /* by the lock made of cas */
} worker_data;

static shared_key key_of(const char *text)
{
    return (shared_key){text, strlen(text)};
}

static void run(void *argument)
{
    worker_data *w = argument;
    shared_dict *dict;
    check_eq(shared_find(&dict, shared_store(w->dict), "threads", 7), SHARED_OK);
    check(dict == w->dict);
    const shared_value none = {.type = SHARED_NONE}, zero = {.type = SHARED_INTEGER};
    const shared_value mine = {.type = SHARED_INTEGER, .as.integer = w->number};
    for (int i = 0; i < ROUNDS; i++) {
        char name[32];
        snprintf(name, sizeof(name), "sum %d", i % KEYS);
        shared_value value = {.type = SHARED_INTEGER, .as.integer = 1}, got;
        check_eq(shared_incr(dict, key_of(name), &value, &zero, 0), SHARED_OK);
        size_t count;
        value = (shared_value){.type = SHARED_INTEGER, .as.integer = i};
        check_eq(shared_push(dict, key_of("list"), &value, SHARED_RIGHT, &count), SHARED_OK);
        if (shared_pop(dict, key_of("list"), SHARED_LEFT, &got, NULL, 0) == SHARED_OK) {
            w->popped++;
            w->sum += got.as.integer;
        }
        value = (shared_value){.type = SHARED_STRING, .as.bytes = "some text that moves", .len = (size_t)(i % 20)};
        check_eq(shared_set(dict, key_of("text"), &value, i % 3 == 0 ? 1000 : 0, SHARED_SET), SHARED_OK);
        char buffer[32];
        shared_status status = shared_get(dict, key_of("text"), &got, buffer, sizeof(buffer));
        check(status == SHARED_OK || status == SHARED_ABSENT);
        if (status == SHARED_OK) check_mem(buffer, "some text that moves", got.len);
        if (shared_cas(dict, key_of("lock"), &none, &mine) == SHARED_OK) {
            ++*w->guarded;
            check_eq(shared_cas(dict, key_of("lock"), &mine, &none), SHARED_OK);
        }
        if (i % 500 == 0) {
            shared_keys keys;
            check_eq(shared_list(dict, key_of("sum"), 100, &keys), SHARED_OK);
            check(keys.count <= KEYS);
            mem_free(keys.bytes);
            check(shared_count(dict) <= KEYS + 3);
        }
    }
}

static void operations_are_of_one_piece(void)
{
    shared *store = shared_open(16 << 20, os_monotonic_ns);
    shared_dict *dict;
    int64_t guarded = 0, popped = 0, sum = 0, total = 0;
    worker_data data[THREADS];
    os_thread *threads[THREADS];
    check_eq(shared_find(&dict, store, "threads", 7), SHARED_OK);
    size_t empty = shared_bytes(store);
    for (int i = 0; i < THREADS; i++) {
        data[i] = (worker_data){.dict = dict, .number = i, .guarded = &guarded};
        threads[i] = os_thread_start("shared", run, &data[i]);
        check(threads[i] != NULL);
    }
    for (int i = 0; i < THREADS; i++) os_thread_join(threads[i]);
    shared_value value;
    for (int i = 0; i < THREADS; i++) {
        popped += data[i].popped;
        sum += data[i].sum;
    }
    while (shared_pop(dict, key_of("list"), SHARED_LEFT, &value, NULL, 0) == SHARED_OK) {
        popped++;
        sum += value.as.integer;
    }
    check_eq(popped, THREADS * ROUNDS);
    check_eq(sum, (int64_t)THREADS * ROUNDS * (ROUNDS - 1) / 2);
    for (int i = 0; i < KEYS; i++) {
        char name[32];
        snprintf(name, sizeof(name), "sum %d", i);
        check_eq(shared_get(dict, key_of(name), &value, NULL, 0), SHARED_OK);
        total += value.as.integer;
    }
    check_eq(total, THREADS * ROUNDS);
    check(guarded > 0);
    shared_flush(dict);
    check_eq(shared_bytes(store), empty);
    shared_close(store);
}

/* ---- In a store that is full ---- */

enum { FULL_MAX = 200000, FULL_DICTS = 3 };

/* What expires at once makes room for others, whose dictionaries are others. */
static void fill(void *argument)
{
    const worker_data *w = argument;
    static const char bytes[20000];
    for (int i = 0; i < ROUNDS; i++) {
        char name[32];
        shared_dict *dict;
        snprintf(name, sizeof(name), "full %d", (i + w->number) % FULL_DICTS);
        check_eq(shared_find(&dict, shared_store(w->dict), name, strlen(name)), SHARED_OK);
        snprintf(name, sizeof(name), "%d %d", w->number, i);
        shared_value value = {.type = SHARED_STRING, .as.bytes = bytes, .len = (size_t)i * 37 % sizeof(bytes)};
        shared_status status = shared_set(dict, key_of(name), &value, 1, SHARED_SET);
        check(status == SHARED_OK || status == SHARED_FULL); /* others may hold the room for a moment */
    }
}

static void who_makes_room_locks_one_at_a_time(void)
{
    shared *store = shared_open(FULL_MAX, os_monotonic_ns);
    worker_data data[THREADS];
    os_thread *threads[THREADS];
    for (int i = 0; i < FULL_DICTS; i++) {
        char name[32];
        snprintf(name, sizeof(name), "full %d", i);
        check_eq(shared_find(&data[0].dict, store, name, strlen(name)), SHARED_OK);
    }
    for (int i = 0; i < THREADS; i++) {
        data[i] = (worker_data){.dict = data[0].dict, .number = i};
        threads[i] = os_thread_start("shared", fill, &data[i]);
        check(threads[i] != NULL);
    }
    for (int i = 0; i < THREADS; i++) os_thread_join(threads[i]);
    check(shared_bytes(store) <= FULL_MAX);
    shared_close(store);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    check_run(operations_are_of_one_piece);
    check_run(who_makes_room_locks_one_at_a_time);
    return check_end();
}
