/* Goal: a misspelt name leads to the right one, and the marks of the send queue always fit each other. */
#include "check.h"

#include "host_internal.h"

static const char *const names[] = {"on_connect", "on_message", "on_close", "on_eof", "on_error", "idle", NULL};

static void misspelt_names_are_guessed(void)
{
    check_str(host_nearest("on_mesage", names), "on_message");
    check_str(host_nearest("on_messgae", names), "on_message");
    check_str(host_nearest("onmessage", names), "on_message");
    check_str(host_nearest("on_clsoe", names), "on_close");
    check_str(host_nearest("idel", names), "idle");
    check_str(host_nearest("on_eof", names), "on_eof");
    check_str(host_nearest("on_err", names), "on_error");
}

static void other_names_are_not(void)
{
    check(host_nearest("banana", names) == NULL);
    check(host_nearest("on_me", names) == NULL);
    check(host_nearest("", names) == NULL);
    check(host_nearest("x", names) == NULL);
    check(host_nearest("on_message_that_is_much_longer_than_any_name", names) == NULL);
}

static void every_handler_is_found_by_its_name(void)
{
    for (host_kind kind = HOST_ON_CONNECT; kind <= HOST_ON_UNLOAD; kind++) {
        check_eq(host_kind_find(host_kind_name(kind)), kind);
    }
    check_eq(host_kind_find("on_streams"), HOST_NOTHING);
}

static void marks_that_were_not_given_follow(void)
{
    conn_limits limits = {.send_high = 65536, .send_low = 16384, .send_max = 1 << 20};
    limits.send_high = 1000;
    check(host_limits_settle(&limits, HOST_LIMIT_SEND_HIGH) == NULL);
    check_eq(limits.send_low, 250);
    limits.send_max = 500;
    check(host_limits_settle(&limits, HOST_LIMIT_SEND_MAX) == NULL);
    check_eq(limits.send_high, 500);
    check(limits.send_low < limits.send_high);
    limits.send_high = 2000;
    check(host_limits_settle(&limits, HOST_LIMIT_SEND_HIGH) == NULL);
    check_eq(limits.send_max, 2000);
    limits.send_high = 1;
    check(host_limits_settle(&limits, HOST_LIMIT_SEND_HIGH) == NULL);
    check_eq(limits.send_low, 0);
}

static void marks_that_contradict_each_other_are_refused(void)
{
    conn_limits limits = {.send_high = 100, .send_low = 200, .send_max = 0};
    check(host_limits_settle(&limits, HOST_LIMIT_SEND_HIGH | HOST_LIMIT_SEND_LOW) != NULL);
    limits = (conn_limits){.send_high = 100, .send_low = 10, .send_max = 50};
    check(host_limits_settle(&limits, HOST_LIMIT_SEND_HIGH | HOST_LIMIT_SEND_MAX) != NULL);
    limits = (conn_limits){.send_high = 100, .send_low = 10, .send_max = 0};
    check(host_limits_settle(&limits, HOST_LIMIT_SEND_MAX) == NULL); /* 0 is no limit */
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    check_run(misspelt_names_are_guessed);
    check_run(other_names_are_not);
    check_run(every_handler_is_found_by_its_name);
    check_run(marks_that_were_not_given_follow);
    check_run(marks_that_contradict_each_other_are_refused);
    return check_end();
}
