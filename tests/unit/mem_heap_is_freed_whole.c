/* Goal: a heap keeps what is in its blocks while they grow and shrink, and closing it frees the rest. Method: random
 * work on many blocks, each filled with a pattern of its own; leak checkers see what closing forgot. */
#include "check.h"

enum { SLOTS = 500, STEPS = 100000, BYTES_MAX = 3000 };

static uint64_t seed;

static void fill(unsigned char *block, size_t bytes, size_t slot)
{
    for (size_t i = 0; i < bytes; i++) block[i] = (unsigned char)(slot * 31 + i);
}

static void verify(const unsigned char *block, size_t bytes, size_t slot)
{
    for (size_t i = 0; i < bytes; i++) check_eq(block[i], (unsigned char)(slot * 31 + i));
}

static void random_work_keeps_every_byte(void)
{
    static unsigned char *blocks[SLOTS];
    static size_t sizes[SLOTS];
    uint64_t state = seed;
    mem_heap *heap = mem_heap_open();
    check(heap != NULL);
    for (int step = 0; step < STEPS; step++) {
        size_t slot = (size_t)check_random_below(&state, SLOTS);
        size_t bytes = (size_t)check_random_below(&state, BYTES_MAX);
        if (bytes == 0 || check_random_below(&state, 4) == 0) {
            mem_heap_free(heap, blocks[slot], sizes[slot]);
            blocks[slot] = NULL;
            sizes[slot] = 0;
        } else {
            size_t kept = bytes < sizes[slot] ? bytes : sizes[slot];
            unsigned char *block = mem_heap_realloc(heap, blocks[slot], sizes[slot], bytes);
            check(block != NULL);
            verify(block, kept, slot);
            fill(block, bytes, slot);
            blocks[slot] = block;
            sizes[slot] = bytes;
        }
    }
    for (size_t slot = 0; slot < SLOTS; slot++) verify(blocks[slot], sizes[slot], slot);
    mem_heap_close(heap);
}

static void an_open_heap_counts_as_live(void)
{
    int64_t before = mem_live();
    mem_heap *a = mem_heap_open();
    mem_heap *b = mem_heap_open();
    check(a != NULL && b != NULL && a != b);
    check(mem_heap_realloc(a, NULL, 0, 10) != NULL);
    check_eq(mem_live() - before, 2);
    mem_heap_close(a);
    mem_heap_close(b);
    mem_heap_close(NULL);
    check_eq(mem_live() - before, 0);
}

static void closing_one_heap_leaves_the_other(void)
{
    mem_heap *a = mem_heap_open();
    mem_heap *b = mem_heap_open();
    check(a != NULL && b != NULL);
    unsigned char *kept[100];
    for (size_t i = 0; i < 100; i++) {
        check(mem_heap_realloc(a, NULL, 0, 100) != NULL);
        kept[i] = mem_heap_realloc(b, NULL, 0, 100);
        check(kept[i] != NULL);
        fill(kept[i], 100, i);
    }
    mem_heap_close(a);
    for (size_t i = 0; i < 100; i++) verify(kept[i], 100, i);
    mem_heap_close(b);
}

static void a_request_too_large_leaves_the_block(void)
{
    mem_heap *heap = mem_heap_open();
    check(heap != NULL);
    unsigned char *block = mem_heap_realloc(heap, NULL, 0, 50);
    check(block != NULL);
    fill(block, 50, 1);
    volatile size_t too_large = SIZE_MAX - 8; /* volatile: the compiler would warn */
    check(mem_heap_realloc(heap, block, 50, too_large) == NULL);
    check(mem_heap_realloc(heap, NULL, 0, too_large) == NULL);
    verify(block, 50, 1);
    mem_heap_free(heap, block, 50);
    mem_heap_free(heap, NULL, 0);
    mem_heap_close(heap);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    seed = check_seed(argc, argv, 1, 1);
    check_run(random_work_keeps_every_byte);
    check_run(an_open_heap_counts_as_live);
    check_run(closing_one_heap_leaves_the_other);
    check_run(a_request_too_large_leaves_the_block);
    return check_end();
}
