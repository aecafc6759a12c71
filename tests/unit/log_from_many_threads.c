/* Goal: lines of many threads come out whole, each thread's in order, and long ones are cut with a mark. */
#include "log.h"

#include "log_capture.h"

enum { THREADS = 8, LINES = 2000 };

static void write_lines(void *argument)
{
    for (int i = 0; i < LINES; i++) log_write(LOG_INFO, "thread %d line %d end", *(int *)argument, i);
}

static void lines_are_whole_and_in_order(void)
{
    static int ids[THREADS];
    os_thread *threads[THREADS];
    capture_begin();
    log_open(LOG_INFO, false);
    for (int i = 0; i < THREADS; i++) {
        ids[i] = i;
        threads[i] = os_thread_start("writer", write_lines, &ids[i]);
        check(threads[i] != NULL);
    }
    for (int i = 0; i < THREADS; i++) os_thread_join(threads[i]);
    uint64_t dropped = log_dropped();
    log_close();
    capture_end();

    int next[THREADS] = {0};
    uint64_t lines = 0;
    uint64_t reported = 0;
    for (char *line = capture.text; *line != '\0'; line = strchr(line, '\n') + 1) {
        int thread = 0;
        int index = 0;
        int end = 0;
        unsigned long long count = 0;
        check(strchr(line, '\n') != NULL);
        if (sscanf(line + 24, " warn %llu log lines were dropped", &count) == 1) {
            reported += count;
            continue;
        }
        check_eq(sscanf(line + 24, " info thread %d line %d end%n", &thread, &index, &end), 2);
        check_eq(line[24 + end], '\n');
        check(thread >= 0 && thread < THREADS && index >= next[thread]);
        next[thread] = index + 1;
        lines++;
    }
    printf("# %llu lines, %llu dropped\n", (unsigned long long)lines, (unsigned long long)dropped);
    check_eq(lines + dropped, THREADS * LINES);
    check_eq(reported, dropped);
}

static void a_long_line_is_cut_and_says_so(void)
{
    static const char mark[] = "\xe2\x80\xa6 [cut]";
    size_t mark_len = sizeof(mark) - 1;
    for (int json = 0; json <= 1; json++) {
        for (size_t len = LOG_LINE_MAX - 120; len < LOG_LINE_MAX + 20; len++) {
            static char text[2 * LOG_LINE_MAX];
            memset(text, 'x', len);
            text[len] = '\0';
            capture_begin();
            log_open(LOG_INFO, json != 0);
            log_write(LOG_INFO, "%s", text);
            log_text(LOG_INFO, text, len);
            log_close();
            capture_end();
            char *second = strchr(capture.text, '\n');
            check(second != NULL);
            second++;
            size_t first_len = (size_t)(second - capture.text);
            check(first_len <= LOG_LINE_MAX);
            check_eq(capture.len, 2 * first_len);
            size_t end_len = json ? 3 : 1; /* "}, line feed */
            if (json) check(memcmp(second - 3, "\"}\n", 3) == 0);
            const char *end = second - end_len;
            bool whole = first_len > len + end_len && memcmp(end - len, text, len) == 0;
            bool marked = memcmp(end - mark_len, mark, mark_len) == 0;
            check(whole != marked);
        }
    }
}

/* Each byte of the event becomes six. */
static void a_line_of_escapes_is_cut(void)
{
    static char text[LOG_LINE_MAX];
    capture_begin();
    log_open(LOG_INFO, true);
    log_text(LOG_INFO, text, sizeof(text));
    log_close();
    capture_end();
    check(capture.len <= LOG_LINE_MAX);
    static const char end[] = "\\u0000\xe2\x80\xa6 [cut]\"}\n";
    check_str(capture.text + capture.len - (sizeof(end) - 1), end);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    check_run(lines_are_whole_and_in_order);
    check_run(a_long_line_is_cut_and_says_so);
    check_run(a_line_of_escapes_is_cut);
    return check_end();
}
