/* Goal: mem_live() is exact, whoever frees, and large requests fail without harm. */
#include "check.h"
#include "os.h"

enum { BLOCKS = 1000 };

static void every_verb_counts(void)
{
    int64_t before = mem_live();
    char *a = mem_alloc(1);
    unsigned char *b = mem_zalloc(100000);
    char *c = mem_strdup("text");
    char *d = mem_realloc(NULL, 10);
    check(a != NULL && b != NULL && c != NULL && d != NULL);
    check_eq(mem_live() - before, 4);
    for (int i = 0; i < 100000; i++) check_eq(b[i], 0);
    check_str(c, "text");
    mem_free(NULL);
    check_eq(mem_live() - before, 4);
    mem_free(a);
    mem_free(b);
    mem_free(c);
    mem_free(d);
    check_eq(mem_live() - before, 0);
}

static void realloc_keeps_count_and_content(void)
{
    int64_t before = mem_live();
    unsigned char *block = NULL;
    size_t len = 0;
    for (size_t bytes = 1; bytes < 4000000; bytes *= 3) {
        block = mem_realloc(block, bytes);
        check(block != NULL);
        for (size_t i = 0; i < len; i++) check_eq(block[i], i % 251);
        len = bytes;
        for (size_t i = 0; i < len; i++) block[i] = (unsigned char)(i % 251);
        check_eq(mem_live() - before, 1);
    }
    block = mem_realloc(block, 7);
    check(block != NULL);
    for (size_t i = 0; i < 7; i++) check_eq(block[i], i);
    check_eq(mem_live() - before, 1);
    mem_free(block);
    check_eq(mem_live() - before, 0);
}

static void free_all(void *blocks)
{
    void **each = blocks;
    for (int i = 0; i < BLOCKS; i++) mem_free(each[i]);
}

static void another_thread_may_free(void)
{
    int64_t before = mem_live();
    static void *blocks[BLOCKS];
    for (size_t i = 0; i < BLOCKS; i++) {
        blocks[i] = mem_alloc(i + 1);
        check(blocks[i] != NULL);
    }
    check_eq(mem_live() - before, BLOCKS);
    os_thread *thread = os_thread_start("free", free_all, blocks);
    check(thread != NULL);
    os_thread_join(thread);
    check_eq(mem_live() - before, 0);
}

static void it_says_what_it_is(void)
{
    printf("# %s\n", mem_describe());
    check(strcmp(mem_describe(), "C library") == 0 || strcmp(mem_describe(), "mimalloc 2.0.9") == 0);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    check_run(every_verb_counts);
    check_run(realloc_keeps_count_and_content);
    check_run(another_thread_may_free);
    check_run(it_says_what_it_is);
    return check_end();
}
