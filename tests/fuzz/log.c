/* log.c - an input is a text that a peer may have sent, and which is logged: first as text, then as JSON. Whatever it is,
 * it is one event, UTF-8, not too long, and talks to no terminal. */
#include "log.h"
#include "fuzz.h"
#include "os.h"

static struct {
    size_t len;
    char bytes[LOG_LINE_MAX * 2];
} written;

/* Stands for the system's: see CMakeLists.txt. */
bool __wrap_os_write_stderr(const char *bytes, size_t len);
bool __wrap_os_write_stderr(const char *bytes, size_t len)
{
    fuzz_check(len <= sizeof(written.bytes) - written.len, "%zu bytes for one event", written.len + len);
    memcpy(written.bytes + written.len, bytes, len);
    written.len += len;
    return true;
}

/* Bytes of the character at the front, 0 when it is none. */
static size_t character(const unsigned char *at, size_t left)
{
    size_t len = at[0] < 0x80 ? 1 : at[0] < 0xc2 ? 0 : at[0] < 0xe0 ? 2 : at[0] < 0xf0 ? 3 : at[0] < 0xf5 ? 4 : 0;
    if (len == 0 || len > left) return 0;
    uint32_t point = len == 1 ? at[0] : at[0] & (0x7fu >> len);
    for (size_t i = 1; i < len; i++) {
        if ((at[i] & 0xc0) != 0x80) return 0;
        point = point << 6 | (at[i] & 0x3fu);
    }
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    bool is_surrogate = point >= 0xd800 && point < 0xe000;
    return point >= least[len] && point <= 0x10ffff && !is_surrogate ? len : 0;
}

static void check_line(bool json)
{
    const unsigned char *text = (const unsigned char *)written.bytes;
    size_t len = written.len;
    fuzz_check(len > 0 && len <= LOG_LINE_MAX && text[len - 1] == '\n', "an event of %zu bytes", len);
    for (size_t i = 0; i < len;) {
        size_t bytes = character(text + i, len - i);
        fuzz_check(bytes > 0, "byte %zu, 0x%02x, is not UTF-8", i, text[i]);
        bool is_c1 = bytes == 2 && text[i] == 0xc2 && text[i + 1] < 0xa0;
        bool is_break = text[i] == '\n' && (i == len - 1 || !json);
        bool is_control = (text[i] < 0x20 && !is_break && (json || text[i] != '\t')) || text[i] == 0x7f;
        fuzz_check(!is_control && (json || !is_c1), "byte %zu, 0x%02x, is for terminals", i, text[i]);
        fuzz_check(json || text[i] != '\n' || i == len - 1 || memcmp(text + i, "\n  ", 3) == 0,
                   "what follows byte %zu looks like an event of its own", i);
        i += bytes;
    }
}

/* The message is one string, and nothing follows it. */
static void check_json(void)
{
    static const char begin[] = "\"message\":\"";
    written.bytes[written.len - 1] = '\0';
    char *at = strstr(written.bytes, begin);
    fuzz_check(at != NULL, "no message in %s", written.bytes);
    for (at += strlen(begin); *at != '"'; at++) {
        fuzz_check(*at != '\0', "the string has no end");
        if (*at != '\\') continue;
        at++;
        fuzz_check(*at != '\0' && strchr("\"\\ntu", *at) != NULL, "\\%c", *at);
        fuzz_check(*at != 'u' || strspn(at + 1, "0123456789abcdef") >= 4, "\\u without four digits");
    }
    fuzz_check(strcmp(at, "\"}") == 0, "behind the string follows %s", at);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *text = fuzz_copy(data, size);
    for (int json = 0; json <= 1; json++) {
        log_open(LOG_DEBUG, json != 0);
        written.len = 0;
        log_text(LOG_WARN, (const char *)text, size);
        log_close();
        check_line(json != 0);
        if (json != 0) check_json();
    }
    free(text);
    return 0;
}
