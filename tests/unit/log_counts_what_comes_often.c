/* Goal: what may happen as often as a stranger likes is one line, then a count; another cause has its own; what was left out at
 * the end is said, too. Method: a log that is opened, flooded and closed, captured. */
#include "log.h"

#include "check.h"
#include "log_capture.h"

enum { FLOOD = 5000 };

static uint32_t lines_with(const char *text)
{
    uint32_t count = 0;
    for (const char *at = strstr(capture.text, text); at != NULL; at = strstr(at + 1, text)) count++;
    return count;
}

static void a_flood_is_one_line_and_a_count(void)
{
    static log_cause flood;
    static log_cause other;
    static log_cause burst;
    capture_begin();
    log_open(LOG_INFO, false);
    for (int i = 0; i < FLOOD; i++) check_eq(log_rarely(&flood, LOG_WARN, "a flood", "flooded by %d", i), i == 0);
    check(log_rarely(&other, LOG_WARN, "another thing", "something else"));
    for (int i = 0; i < 5; i++) {
        bool due = log_due(&burst, LOG_ERROR, "a burst", 3);
        check_eq(due, i < 3);
        if (due) log_text(LOG_ERROR, "burst", 5);
    }
    check(!log_rarely(&other, LOG_DEBUG, "another thing", "nobody wants this"));
    log_close();
    capture_end();
    check_eq(lines_with("flooded by"), 1);
    check_eq(lines_with("flooded by 0\n"), 1);
    check_eq(lines_with("warn  4999 more in 10 s: a flood\n"), 1);
    check_eq(lines_with("something else"), 1);
    check_eq(lines_with("another thing"), 0);
    check_eq(lines_with("error burst"), 3);
    check_eq(lines_with("error 2 more in 10 s: a burst\n"), 1);
}

static void a_log_that_is_opened_again_begins_anew(void)
{
    static log_cause cause;
    for (int i = 0; i < 2; i++) {
        capture_begin();
        log_open(LOG_INFO, false);
        check(log_rarely(&cause, LOG_INFO, "it", "first"));
        check(!log_rarely(&cause, LOG_INFO, "it", "second"));
        log_close();
        capture_end();
        check_eq(lines_with("1 more in 10 s: it"), 1);
    }
}

static void before_the_log_is_open_nothing_is_left_out(void)
{
    static log_cause cause;
    capture_begin();
    check(log_rarely(&cause, LOG_INFO, "it", "direct"));
    check(log_rarely(&cause, LOG_INFO, "it", "direct"));
    capture_end();
    check_eq(lines_with("direct"), 2);
}

int main(void)
{
    before_the_log_is_open_nothing_is_left_out();
    a_flood_is_one_line_and_a_count();
    a_log_that_is_opened_again_begins_anew();
    return 0;
}
