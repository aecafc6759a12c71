/* frame_cuts_messages.c - every type of frame, cut at every place and one byte at a time, says the same; what is encoded is
 * decoded; nothing above max is waited for. Bytes lie at the end of a block of their own, for the address sanitizer.
 * argv[1]: the seed.
 */
#include "check.h"
#include "frame.h"

enum { OUT_MAX = 4096 };

static uint64_t seed;

/* What came out of a stream: "[abc][]" and, where it ended so, "limit", "wrong" or "more". */
typedef struct outcome {
    char text[OUT_MAX];
    size_t len;
} outcome;

static void say(outcome *out, const void *bytes, size_t len)
{
    check(out->len + len < sizeof(out->text));
    memcpy(out->text + out->len, bytes, len);
    out->len += len;
    out->text[out->len] = '\0';
}

/* A copy with nothing behind it. */
static uint8_t *lone_copy(const uint8_t *data, size_t len)
{
    uint8_t *copy = mem_alloc(len > 0 ? len : 1);
    check(copy != NULL);
    if (len > 0) memcpy(copy, data, len);
    return copy;
}

static frame_status decode(frame_found *found, const frame_rule *rule, const uint8_t *data, size_t len, size_t seen)
{
    uint8_t *copy = lone_copy(data, len);
    memset(found, 0, sizeof(*found));
    frame_status status = frame_decode(found, rule, copy, len, seen);
    mem_free(copy);
    if (status == FRAME_MORE) {
        check(found->need > len);
        check(found->need <= rule->max + (size_t)FRAME_HEAD_MAX + FRAME_SEP_MAX);
    } else if (status == FRAME_MESSAGE) {
        check(found->used > 0 && found->used <= len);
        check(found->start + found->len <= found->used);
    } else {
        check(frame_fault_text(found->fault)[0] != '\0');
    }
    return status;
}

/* Feeds pieces that end at the given places, as an owner does. eager: asks again with every piece, though fewer bytes are
 * there than are needed. */
static void feed(outcome *out, const frame_rule *rule, const uint8_t *data, const size_t *ends, size_t count,
                 bool eager)
{
    size_t start = 0, seen = 0, needed = 1;
    out->len = 0;
    out->text[0] = '\0';
    for (size_t i = 0; i < count; i++) {
        while (ends[i] - start >= needed || eager) {
            frame_found found;
            size_t len = ends[i] - start;
            frame_status status = decode(&found, rule, data + start, len, seen);
            if (status == FRAME_LIMIT || status == FRAME_WRONG) {
                say(out, status == FRAME_LIMIT ? "limit" : "wrong", 5);
                return;
            }
            if (status == FRAME_MORE) {
                if (len < needed)
                    check_eq(found.need >= needed, true); /* what it asked for was no less than it needs */
                needed = found.need;
                seen = len;
                break;
            }
            check(len >= needed);
            say(out, "[", 1);
            say(out, data + start + found.start, found.len);
            say(out, "]", 1);
            start += found.used;
            seen = 0;
            needed = 1;
        }
    }
    if (count > 0 && start < ends[count - 1]) say(out, "more", 4);
}

typedef struct known {
    frame_rule rule;
    const char *stream;
    size_t len; /* 0: as strlen() says */
    const char *expected;
} known;

#define LINE .type = FRAME_LINE
#define SEP(text) .sep = text, .sep_len = sizeof(text) - 1
#define LENGTH(bytes) .type = FRAME_LENGTH, .size = bytes, .strip = true
#define BYTES(text) text, sizeof(text) - 1

static const known table[] = {
    {{LINE, .max = 9}, "a\nbc\r\n\n\r\n", 0, "[a][bc][][]"},
    {{LINE, .max = 9}, "a\r\r\nb\rc\nde", 0, "[a\r][b\rc]more"},
    {{LINE, .max = 9, .keep = true}, "a\nbc\r\n", 0, "[a\n][bc\r\n]"},
    {{LINE, .max = 3}, "abc\nabc\r\nabcd\n", 0, "[abc][abc]limit"},
    {{LINE, .max = 3}, "abcd", 0, "limit"},
    {{LINE, .max = 3}, "abc\r", 0, "more"},
    {{LINE, .max = 3}, "abc\rd", 0, "limit"},
    {{LINE, .max = 3}, "abc", 0, "more"},
    {{LINE, .max = 9, SEP("\r\n")}, "a\r\nb\nc\r\r\nd\r", 0, "[a][b\nc\r]more"},
    {{LINE, .max = 9, SEP("\r\n"), .keep = true}, "a\r\nb\n", 0, "[a\r\n]more"},
    {{LINE, .max = 4, SEP("aab")},
     "aaab"
     "xaab"
     "abxxaab"
     "xxxxxaab",
     0,
     "[a][x][abxx]limit"},
    {{LINE, .max = 4, SEP("aab")}, "xxxxaaxx", 0, "limit"},
    {{LINE, .max = 4, SEP("aab")}, "xxxxaa", 0, "more"},
    {{LINE, .max = 9, .sep = "", .sep_len = 1}, BYTES("a\0b\nc\0"), "[a][b\nc]"},
    {{.type = FRAME_NETSTRING, .max = 12}, "5:hello,0:,12:hello world!,3:a,b,", 0, "[hello][][hello world!][a,b]"},
    {{.type = FRAME_NETSTRING, .max = 12}, "13", 0, "limit"},
    {{.type = FRAME_NETSTRING, .max = 12}, "99999999999999999999999:", 0, "limit"},
    {{.type = FRAME_NETSTRING, .max = 12}, "1:a,00:,", 0, "[a]wrong"},
    {{.type = FRAME_NETSTRING, .max = 12}, "01:a,", 0, "wrong"},
    {{.type = FRAME_NETSTRING, .max = 12}, ":a,", 0, "wrong"},
    {{.type = FRAME_NETSTRING, .max = 12}, "x", 0, "wrong"},
    {{.type = FRAME_NETSTRING, .max = 12}, "-1:a,", 0, "wrong"},
    {{.type = FRAME_NETSTRING, .max = 12}, "1;a,", 0, "wrong"},
    {{.type = FRAME_NETSTRING, .max = 12}, "1:ab", 0, "wrong"},
    {{.type = FRAME_NETSTRING, .max = 12}, "3:ab", 0, "more"},
    {{LENGTH(1), .max = 255}, BYTES("\3abc\0\1x\2y"), "[abc][][x]more"},
    {{LENGTH(2), .max = 5}, BYTES("\0\5abcde\0\6"), "[abcde]limit"},
    {{LENGTH(2), .max = 5, .little = true}, BYTES("\5\0abcde\0\1"), "[abcde]limit"},
    {{LENGTH(3), .max = 5}, BYTES("\0\0\2ab\1\0\0"), "[ab]limit"},
    {{LENGTH(3), .max = 5, .little = true}, BYTES("\2\0\0ab"), "[ab]"},
    {{LENGTH(4), .max = 5}, BYTES("\0\0\0\2ab\x40\0\0\0"), "[ab]limit"},
    {{LENGTH(4), .max = 5}, BYTES("\xff\xff\xff\xff"), "limit"},
    {{LENGTH(8), .max = 5}, BYTES("\0\0\0\0\0\0\0\2ab\0\0\0\0\0\0\0"), "[ab]more"},
    {{LENGTH(8), .max = 5}, BYTES("\xff\xff\xff\xff\xff\xff\xff\xff"), "limit"},
    {{LENGTH(8), .max = 5, .adjust = FRAME_ADJUST_MAX}, BYTES("\x7f\xff\xff\xff\xff\xff\xff\xff"), "limit"},
    {{LENGTH(8), .max = 5, .adjust = -FRAME_ADJUST_MAX}, BYTES("\0\0\0\0\x40\0\0\1x"), "[x]"},
    {{LENGTH(2), .max = 5, .adjust = -2}, BYTES("\0\4ab\0\2\0\1"), "[ab][]wrong"},
    {{LENGTH(1), .max = 5, .adjust = 2}, BYTES("\1abc\0de\4"), "[abc][de]limit"},
    {{.type = FRAME_LENGTH, .size = 1, .offset = 2, .max = 5}, BYTES("ab\3cdeab\0ab\6"), "[ab\3cde][ab0]limit"},
    {{.type = FRAME_FIXED, .max = 3}, "abcdefgh", 0, "[abc][def]more"},
    {{.type = FRAME_FIXED, .max = 1}, "ab", 0, "[a][b]"},
};

/* Some expected texts hold a zero byte, so they are compared as far as the first. */
static void feed_known(const known *k, size_t len, const size_t *ends, size_t count)
{
    outcome out;
    for (int eager = 0; eager < 2; eager++) {
        feed(&out, &k->rule, (const uint8_t *)k->stream, ends, count, eager);
        if (memchr(out.text, '\0', out.len) != NULL) {
            for (size_t i = 0; i < out.len; i++) {
                if (out.text[i] == '\0') out.text[i] = '0';
            }
        }
        if (strcmp(out.text, k->expected) != 0) {
            fail("line %d of the table, first cut at %zu of %zu, %s: \"%s\" and not \"%s\"", (int)(k - table), ends[0],
                 len, eager ? "eager" : "patient", out.text, k->expected);
        }
    }
}

static void every_cut_says_the_same(void)
{
    for (const known *k = table; k < table + array_count(table); k++) {
        size_t len = k->len > 0 ? k->len : strlen(k->stream);
        size_t ends[64];
        check(len < array_count(ends));
        for (size_t a = 1; a <= len; a++) {
            for (size_t b = a; b <= len; b++) {
                ends[0] = a;
                ends[1] = b;
                ends[2] = len;
                feed_known(k, len, ends, 3);
            }
        }
        for (size_t i = 0; i < len; i++) ends[i] = i + 1;
        feed_known(k, len, ends, len);
    }
}

/* The length's bytes are enough to say no. */
static void a_length_above_max_is_refused_with_its_last_byte(void)
{
    static const uint8_t gib[] = {0x40, 0, 0, 1};
    frame_rule rule = {.type = FRAME_LENGTH, .size = 4, .strip = true, .max = FRAME_BYTES_MAX};
    frame_found found;
    check_eq(decode(&found, &rule, gib, 3, 0), FRAME_MORE);
    check_eq(decode(&found, &rule, gib, 4, 0), FRAME_LIMIT);
    rule.max = FRAME_MAX_DEFAULT;
    check_eq(decode(&found, &rule, (const uint8_t *)"\0\1\0\0", 4, 0), FRAME_MORE);
    check_eq(found.need, 4 + FRAME_MAX_DEFAULT);
    check_eq(decode(&found, &rule, (const uint8_t *)"\0\1\0\1", 4, 0), FRAME_LIMIT);
}

static void raw_is_what_is_there(void)
{
    frame_found found;
    check_eq(decode(&found, &frame_raw, (const uint8_t *)"", 0, 0), FRAME_MORE);
    check_eq(decode(&found, &frame_raw, (const uint8_t *)"abc", 3, 0), FRAME_MESSAGE);
    check_eq(found.start, 0);
    check_eq(found.len, 3);
    check_eq(found.used, 3);
}

/* ---- Encoding ---- */

static size_t encode(uint8_t *out, const frame_rule *rule, const uint8_t *data, size_t len)
{
    frame_coat coat;
    uint8_t *copy = lone_copy(data, len);
    const char *why = frame_encode(&coat, rule, copy, len);
    mem_free(copy);
    if (why != NULL) fail("%s", why);
    check(coat.skip <= len && coat.head_len <= sizeof(coat.head));
    memcpy(out, coat.head, coat.head_len);
    size_t at = coat.head_len;
    if (len > coat.skip) memcpy(out + at, data + coat.skip, len - coat.skip);
    at += len - coat.skip;
    if (coat.tail_len > 0) memcpy(out + at, coat.tail, coat.tail_len);
    return at + coat.tail_len;
}

static void check_encoded(const frame_rule *rule, const char *message, size_t len, const char *expected,
                          size_t expected_len)
{
    uint8_t out[128];
    check_eq(encode(out, rule, (const uint8_t *)message, len), expected_len);
    check_mem(out, expected, expected_len);
}

static void messages_get_their_coats(void)
{
    const frame_rule line = {LINE, .max = 9}, line_kept = {LINE, .max = 9, .keep = true};
    const frame_rule crlf_kept = {LINE, .max = 9, SEP("\r\n"), .keep = true},
                     netstring = {.type = FRAME_NETSTRING, .max = 9};
    const frame_rule big = {LENGTH(4), .max = 9}, little = {LENGTH(3), .max = 9, .little = true};
    const frame_rule self = {LENGTH(2), .max = 9, .adjust = -2}, fixed = {.type = FRAME_FIXED, .max = 3};
    const frame_rule inside = {.type = FRAME_LENGTH, .size = 2, .offset = 1, .max = 9};
    check_encoded(&frame_raw, BYTES("abc"), BYTES("abc"));
    check_encoded(&line, BYTES("abc"), BYTES("abc\n"));
    check_encoded(&line, BYTES(""), BYTES("\n"));
    check_encoded(&line_kept, BYTES("abc"), BYTES("abc\n"));
    check_encoded(&line_kept, BYTES("abc\n"), BYTES("abc\n"));
    check_encoded(&crlf_kept, BYTES("abc\n"), BYTES("abc\n\r\n"));
    check_encoded(&crlf_kept, BYTES("abc\r\n"), BYTES("abc\r\n"));
    check_encoded(&netstring, BYTES("hello world!"), BYTES("12:hello world!,"));
    check_encoded(&netstring, BYTES(""), BYTES("0:,"));
    check_encoded(&big, BYTES("abc"), BYTES("\0\0\0\3abc"));
    check_encoded(&little, BYTES("abc"), BYTES("\3\0\0abc"));
    check_encoded(&self, BYTES("abc"), BYTES("\0\5abc"));
    check_encoded(&inside, BYTES("T??abc"), BYTES("T\0\3abc"));
    check_encoded(&inside, BYTES("T??"), BYTES("T\0\0"));
    check_encoded(&fixed, BYTES("abc"), BYTES("abc"));
}

static void what_fits_no_frame_is_refused(void)
{
    const frame_rule fixed = {.type = FRAME_FIXED, .max = 3}, byte = {LENGTH(1), .max = 9};
    const frame_rule more = {LENGTH(1), .max = 9, .adjust = 2};
    const frame_rule inside = {.type = FRAME_LENGTH, .size = 2, .offset = 1, .max = 9};
    const frame_rule line = {LINE, .max = 9}, kept = {LINE, .max = 9, .keep = true},
                     crlf = {LINE, .max = 9, SEP("\r\n")};
    static const uint8_t long_one[256], text[] = "a\nb\r\n";
    frame_coat coat;
    check(frame_encode(&coat, &line, text, 1) == NULL);
    check(frame_encode(&coat, &line, text, 2) != NULL);
    check(frame_encode(&coat, &line, text, 3) != NULL);
    check(frame_encode(&coat, &kept, text, 2) == NULL);
    check(frame_encode(&coat, &kept, text, 5) != NULL); /* one at the end, and another before it */
    check(frame_encode(&coat, &crlf, text, 4) == NULL);
    check(frame_encode(&coat, &crlf, text, 5) != NULL);
    check(frame_encode(&coat, &fixed, long_one, 2) != NULL);
    check(frame_encode(&coat, &fixed, long_one, 4) != NULL);
    check(frame_encode(&coat, &byte, long_one, 255) == NULL);
    check(frame_encode(&coat, &byte, long_one, 256) != NULL);
    check(frame_encode(&coat, &more, long_one, 1) != NULL);
    check(frame_encode(&coat, &inside, long_one, 2) != NULL);
}

/* ---- Random ---- */

static frame_rule random_rule(void)
{
    static const uint8_t sizes[] = {1, 2, 3, 4, 8};
    frame_rule rule = {.type = (uint8_t)(FRAME_LINE + check_random_below(&seed, FRAME_CUSTOM - FRAME_LINE))};
    rule.max = 1 + (uint32_t)check_random_below(&seed, 200);
    if (rule.type == FRAME_LINE) {
        rule.sep_len = (uint8_t)check_random_below(&seed, 4);
        for (size_t i = 0; i < rule.sep_len; i++) rule.sep[i] = (char)('a' + check_random_below(&seed, 2));
    } else if (rule.type == FRAME_LENGTH) {
        rule.size = sizes[check_random_below(&seed, array_count(sizes))];
        rule.little = check_random_below(&seed, 2) == 1;
        rule.offset = (uint8_t)check_random_below(&seed, 5);
        rule.strip = rule.offset == 0;
        rule.adjust = -(int32_t)check_random_below(&seed, 9);
    }
    return rule;
}

/* Random bytes that contain no separator. */
static size_t random_message(uint8_t *message, const frame_rule *rule)
{
    size_t len = rule->type == FRAME_FIXED ? rule->max : check_random_below(&seed, rule->max + 1u);
    size_t header = rule->strip ? 0 : frame_header_bytes(rule);
    if (rule->type == FRAME_LENGTH && rule->size == 1 && len > 200) len = 200;
    for (size_t i = 0; i < len + header; i++) {
        message[i] = (uint8_t)(rule->type == FRAME_LINE ? 'c' + check_random_below(&seed, 9) : check_random(&seed));
    }
    return len + header;
}

static void what_is_encoded_is_decoded(void)
{
    for (int round = 0; round < 2000; round++) {
        frame_rule rule = random_rule();
        uint8_t stream[20 * 256], messages[20 * 256];
        size_t len = 0, starts[20], lens[20], count = 1 + check_random_below(&seed, array_count(starts)), at = 0,
               got = 0;
        for (size_t i = 0; i < count; i++) {
            starts[i] = at;
            lens[i] = random_message(messages + at, &rule);
            len += encode(stream + len, &rule, messages + at, lens[i]);
            at += lens[i];
        }
        size_t start = 0, end = 0, seen = 0;
        while (start < len) {
            frame_found found;
            frame_status status = decode(&found, &rule, stream + start, end - start, seen);
            check(status == FRAME_MORE || status == FRAME_MESSAGE);
            if (status == FRAME_MORE) {
                seen = end - start;
                check(end < len);
                end += 1 + check_random_below(&seed, len - end);
                continue;
            }
            check(got < count);
            check_eq(found.len, lens[got]);
            size_t header = rule.strip ? 0 : frame_header_bytes(&rule); /* the length in it has been filled in */
            check_mem(stream + start + found.start + header, messages + starts[got] + header, lens[got] - header);
            check_mem(stream + start + found.start, messages + starts[got], rule.offset);
            start += found.used;
            seen = 0;
            got++;
        }
        check_eq(got, count);
    }
}

/* Any bytes at all: whole and byte by byte they say the same. */
static void nonsense_is_the_same_however_it_comes(void)
{
    static const char few[] = "0123:,\r\nab";
    for (int round = 0; round < 20000; round++) {
        frame_rule rule = random_rule();
        uint8_t stream[64];
        size_t len = 1 + check_random_below(&seed, sizeof(stream)), ends[sizeof(stream)];
        bool is_text = check_random_below(&seed, 2) == 1;
        rule.max = 1 + (uint32_t)check_random_below(&seed, 20);
        rule.keep = check_random_below(&seed, 2) == 1;
        for (size_t i = 0; i < len; i++) {
            stream[i] =
                is_text ? (uint8_t)few[check_random_below(&seed, sizeof(few) - 1)] : (uint8_t)check_random(&seed);
            ends[i] = i + 1;
        }
        outcome whole, single;
        feed(&whole, &rule, stream, &len, 1, false);
        feed(&single, &rule, stream, ends, len, check_random_below(&seed, 2) == 1);
        check_eq(whole.len, single.len);
        check_mem(whole.text, single.text, whole.len);
    }
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    seed = check_seed(argc, argv, 1, 20261122);
    check_run(every_cut_says_the_same);
    check_run(a_length_above_max_is_refused_with_its_last_byte);
    check_run(raw_is_what_is_there);
    check_run(messages_get_their_coats);
    check_run(what_fits_no_frame_is_refused);
    check_run(what_is_encoded_is_decoded);
    check_run(nonsense_is_the_same_however_it_comes);
    return check_end();
}
