/* Goal: whatever bytes an event holds, it is one line of valid JSON, or in text form a line of its own followed by
 * indented ones, without a byte that a terminal obeys. */
#include "log.h"

#include "log_capture.h"

/* "2026-11-22T05:30:20.123Z" */
static void check_time(const char *text)
{
    static const char pattern[] = "dddd-dd-ddTdd:dd:dd.dddZ";
    for (size_t i = 0; pattern[i] != '\0'; i++) {
        if (pattern[i] == 'd') check(text[i] >= '0' && text[i] <= '9');
        else check_eq(text[i], pattern[i]);
    }
}

static void expect_line(bool json, const char *text, size_t len, const char *expected)
{
    capture_begin();
    log_open(LOG_DEBUG, json);
    log_text(LOG_WARN, text, len);
    log_close();
    capture_end();
    const char *line = capture.text;
    if (json) {
        check_eq(strncmp(line, "{\"time\":\"", 9), 0);
        check_time(line + 9);
        check_str(line + 9 + 24, expected);
    } else {
        check_time(line);
        check_str(line + 24, expected);
    }
}

#define expect_text(text, expected) expect_line(false, text, sizeof(text) - 1, " warn  " expected "\n")
#define expect_json(text, expected) \
    expect_line(true, text, sizeof(text) - 1, "\",\"level\":\"warn\",\"message\":\"" expected "\"}\n")

static void text_is_left_alone_where_it_can_be(void)
{
    expect_text("hello", "hello");
    expect_text("", "");
    expect_text("tab\there, Gr\xc3\xbc\xc3\x9f"
                "e \xe2\x82\xac \xf0\x9f\x98\x80 \\ \"",
                "tab\there, Gr\xc3\xbc\xc3\x9f"
                "e \xe2\x82\xac \xf0\x9f\x98\x80 \\ \"");
}

static void line_breaks_are_indented(void)
{
    expect_text("a\nb\n\tc\n", "a\n  b\n  \tc");
    expect_text("x\n2026-01-01T00:00:00.000Z error forged\r\n", "x\n  2026-01-01T00:00:00.000Z error forged");
}

static void controls_are_escaped(void)
{
    expect_text("\x1b[31mred\x07\x7f\r\0!", "\\x1b[31mred\\x07\\x7f\\x0d\\x00!");
    expect_text("c1 \xc2\x9b"
                "31m",
                "c1 \\xc2\\x9b31m");
    expect_text("a\rb", "a\\x0db");
}

static void bytes_that_are_not_utf8_are_escaped(void)
{
    expect_text("\xff\xfe \xc0\xaf \xed\xa0\x80 \xe2\x82", "\\xff\\xfe \\xc0\\xaf \\xed\\xa0\\x80 \\xe2\\x82");
}

static void json_escapes(void)
{
    expect_json("plain", "plain");
    expect_json("q\" b\\ n\n t\t r\r z\0 e\x1b d\x7f", "q\\\" b\\\\ n\\n t\\t r\\u000d z\\u0000 e\\u001b d\\u007f");
    expect_json("\xc3\xbc\xe2\x82\xac\xf0\x9f\x98\x80", "\xc3\xbc\xe2\x82\xac\xf0\x9f\x98\x80");
}

#define BAD "\xef\xbf\xbd"

/* The examples of The Unicode Standard 15, section 3.9, tables 3-8 to 3-11. */
static void json_replaces_what_is_not_utf8(void)
{
    expect_json("\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41", BAD BAD BAD BAD BAD BAD BAD BAD "A");
    expect_json("\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41", BAD BAD BAD BAD BAD BAD BAD BAD "A");
    expect_json("\xf4\x91\x92\x93\xff\x41\x80\xbf\x42", BAD BAD BAD BAD BAD "A" BAD BAD "B");
    expect_json("\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", BAD BAD BAD BAD "A");
}

static void levels_are_padded_and_obeyed(void)
{
    capture_begin();
    log_write(LOG_INFO, "before %d", 1);
    log_write(LOG_DEBUG, "not yet");
    log_open(LOG_WARN, false);
    check(!log_wants(LOG_INFO) && log_wants(LOG_WARN) && log_wants(LOG_ERROR) && !log_wants(LOG_NONE));
    log_write(LOG_INFO, "no");
    log_write(LOG_ERROR, "%s", "yes");
    log_close();
    log_write(LOG_WARN, "after");
    capture_end();
    const char *line = capture.text;
    check_time(line);
    check_eq(strncmp(line + 24, " info  before 1\n", 16), 0);
    line += 24 + 16;
    check_time(line);
    check_eq(strncmp(line + 24, " error yes\n", 11), 0);
    line += 24 + 11;
    check_time(line);
    check_str(line + 24, " warn  after\n");
    log_open(LOG_NONE, false);
    check(!log_wants(LOG_ERROR) && !log_wants(LOG_NONE));
    log_close();
}

static void level_names_are_read(void)
{
    log_level level = LOG_INFO;
    check(log_level_parse(&level, "debug") && level == LOG_DEBUG);
    check(log_level_parse(&level, "none") && level == LOG_NONE);
    check(!log_level_parse(&level, "Warn") && !log_level_parse(&level, "") && level == LOG_NONE);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    check_run(levels_are_padded_and_obeyed);
    check_run(text_is_left_alone_where_it_can_be);
    check_run(line_breaks_are_indented);
    check_run(controls_are_escaped);
    check_run(bytes_that_are_not_utf8_are_escaped);
    check_run(json_escapes);
    check_run(json_replaces_what_is_not_utf8);
    check_run(level_names_are_read);
    return check_end();
}
