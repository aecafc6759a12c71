/* frame.c - an input is a rule and what a peer sends under it: the messages are the same however the bytes come, they and
 * what has to be kept stay within the rule's bounds, and what is sent as a message is received as that message. */
#include "frame.h"
#include "check.h"
#include "fuzz.h"

enum { MESSAGES_MAX = 4096, NETSTRING_COAT = 12 /* ten digits, ':' and ',' */ };

typedef struct found {
    size_t count;
    size_t start[MESSAGES_MAX]; /* in the whole stream */
    size_t len[MESSAGES_MAX];
    size_t kept; /* bytes of a message that is not whole */
    frame_status status;
    frame_fault fault;
} found;

static frame_rule read_rule(fuzz_input *in)
{
    static const uint8_t sizes[] = {1, 2, 3, 4, 8};
    frame_rule rule = {.type = fuzz_below(in, FRAME_CUSTOM), .size = sizes[fuzz_below(in, array_count(sizes))]};
    uint8_t flags = fuzz_byte(in);
    rule.keep = (flags & 1) != 0;
    rule.strip = (flags & 2) != 0;
    rule.little = (flags & 4) != 0;
    rule.max = (flags & 8) != 0 ? 1 + fuzz_u32(in) % FRAME_BYTES_MAX : 1u + fuzz_byte(in);
    if (rule.type == FRAME_LENGTH) {
        rule.offset = rule.strip ? 0 : fuzz_below(in, FRAME_OFFSET_MAX + 1);
        rule.adjust = (flags & 16) != 0 ? (int32_t)(fuzz_u32(in) % (2u * FRAME_ADJUST_MAX)) - FRAME_ADJUST_MAX
                                        : (int8_t)fuzz_byte(in);
    }
    if (rule.type == FRAME_LINE) {
        rule.sep_len = fuzz_below(in, FRAME_SEP_MAX + 1);
        for (uint8_t i = 0; i < rule.sep_len; i++) rule.sep[i] = (char)fuzz_byte(in);
    }
    return rule;
}

/* What may go beside a message's bytes. */
static size_t coat_of(const frame_rule *rule)
{
    switch ((frame_type)rule->type) {
    case FRAME_LINE:
        return rule->sep_len == 0 ? 2 : rule->sep_len;
    case FRAME_NETSTRING:
        return NETSTRING_COAT;
    case FRAME_LENGTH:
        return frame_header_bytes(rule);
    default:
        return 0;
    }
}

static void check_message(const frame_rule *rule, const frame_found *f, size_t len)
{
    fuzz_check(f->used > 0 && f->used <= len, "a message takes %zu of %zu bytes", f->used, len);
    fuzz_check(f->start <= f->used && f->len <= f->used - f->start, "a message stands at %zu + %zu of %zu", f->start,
               f->len, f->used);
    fuzz_check(rule->type == FRAME_RAW || f->len <= rule->max + coat_of(rule), "a message has %zu bytes, max is %u",
               f->len, (unsigned)rule->max);
}

/* How an owner goes on when bytes have come: cuts off what is whole. *seen and *need are of what is left. Returns how many
 * bytes were taken. */
static size_t cut(found *out, const frame_rule *rule, const uint8_t *data, size_t from, size_t len, size_t *seen,
                  size_t *need)
{
    size_t at = from;
    while (at < len) {
        frame_found f = {0};
        out->status = frame_decode(&f, rule, data + at, len - at, *seen);
        if (out->status == FRAME_MORE) {
            fuzz_check(f.need > len - at, "%zu bytes are needed, and there are %zu", f.need, len - at);
            fuzz_check(f.need <= rule->max + coat_of(rule), "%zu bytes are to be kept, max is %u", f.need,
                       (unsigned)rule->max);
            *seen = len - at;
            *need = f.need;
            break;
        }
        if (out->status != FRAME_MESSAGE) {
            out->fault = f.fault;
            fuzz_check(*frame_fault_text(f.fault) != '\0', "a fault without words");
            break;
        }
        check_message(rule, &f, len - at);
        if (out->count < MESSAGES_MAX) {
            out->start[out->count] = at + f.start;
            out->len[out->count++] = f.len;
        }
        at += f.used;
        *seen = *need = 0;
    }
    return at;
}

/* piece_max  all in one piece if it is len; else pieces of random sizes up to it.
 * patient    the owner believes what `need` says, and does not ask before. */
static void decode(found *out, const frame_rule *rule, const uint8_t *data, size_t len, uint64_t seed, size_t piece_max,
                   bool patient)
{
    size_t at = 0, seen = 0, need = 0;
    *out = (found){.status = FRAME_MORE};
    for (size_t there = 0; there < len && out->status != FRAME_LIMIT && out->status != FRAME_WRONG;) {
        size_t piece = piece_max == len ? len : 1 + (size_t)check_random_below(&seed, piece_max);
        there = piece < len - there ? there + piece : len;
        if (patient && there - at < need) continue;
        uint8_t *exact = fuzz_copy(data, there);
        at = cut(out, rule, exact, at, there, &seen, &need);
        free(exact);
    }
    out->kept = len - at;
    if (out->status == FRAME_MESSAGE) out->status = FRAME_MORE; /* and nothing of the next is there */
}

static void compare(const found *whole, const found *pieces)
{
    fuzz_check(whole->count == pieces->count, "%zu messages in one piece, %zu in several", whole->count, pieces->count);
    for (size_t i = 0; i < whole->count; i++) {
        fuzz_check(whole->start[i] == pieces->start[i] && whole->len[i] == pieces->len[i],
                   "message %zu is %zu + %zu in one piece, %zu + %zu in several", i, whole->start[i], whole->len[i],
                   pieces->start[i], pieces->len[i]);
    }
    fuzz_check(whole->status == pieces->status && whole->fault == pieces->fault && whole->kept == pieces->kept,
               "it ends with status %d, fault %d, %zu bytes in one piece, and %d, %d, %zu in several", whole->status,
               whole->fault, whole->kept, pieces->status, pieces->fault, pieces->kept);
}

static void take_apart(const frame_rule *rule, const uint8_t *data, size_t len)
{
    static found whole, pieces;
    uint64_t seed = fuzz_hash(data, len);
    decode(&whole, rule, data, len, seed, len, false);
    if (rule->type == FRAME_RAW) return; /* a piece is a message */
    decode(&pieces, rule, data, len, seed, 1, false);
    compare(&whole, &pieces);
    decode(&pieces, rule, data, len, seed, 1, true);
    compare(&whole, &pieces);
    decode(&pieces, rule, data, len, seed, 1 + len / 3, false);
    compare(&whole, &pieces);
}

/* A message that holds its own separator, or a line that ends with "\r", cannot come back. */
static bool is_ambiguous(const frame_rule *rule, const uint8_t *message, size_t len, const uint8_t *bytes, size_t total)
{
    if (rule->type != FRAME_LINE) return false;
    const char *sep = rule->sep_len == 0 ? "\n" : rule->sep;
    size_t sep_len = rule->sep_len == 0 ? 1 : rule->sep_len;
    const uint8_t *first = memmem(bytes, total, sep, sep_len);
    bool ends_early = first != bytes + total - sep_len;
    bool loses_cr = rule->sep_len == 0 && !rule->keep && len > 0 && message[len - 1] == '\r';
    return ends_early || loses_cr;
}

static void put_together(const frame_rule *rule, const uint8_t *data, size_t len)
{
    frame_coat coat;
    uint8_t *message = fuzz_copy(data, len);
    const char *wrong = frame_encode(&coat, rule, message, len);
    if (wrong == NULL && rule->type != FRAME_RAW && len <= rule->max) {
        fuzz_check(coat.head_len <= FRAME_HEAD_MAX && coat.skip <= len, "a coat that does not fit");
        size_t total = coat.head_len + (len - coat.skip) + coat.tail_len;
        uint8_t *bytes = malloc(total > 0 ? total : 1);
        if (bytes == NULL) abort();
        memcpy(bytes, coat.head, coat.head_len);
        memcpy(bytes + coat.head_len, message + coat.skip, len - coat.skip);
        if (coat.tail_len > 0) memcpy(bytes + total - coat.tail_len, coat.tail, coat.tail_len);
        frame_found f;
        if (!is_ambiguous(rule, message, len, bytes, total)) {
            frame_status status = frame_decode(&f, rule, bytes, total, 0);
            fuzz_check(status == FRAME_MESSAGE && f.used == total, "a message of %zu bytes does not come back: %d", len,
                       status);
            size_t same = coat.skip; /* the length in it is filled in */
            fuzz_check(f.len >= len && memcmp(bytes + f.start + same, message + same, len - same) == 0,
                       "a message of %zu bytes comes back as another", len);
        }
        free(bytes);
    }
    free(message);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = {data, size};
    frame_rule rule = read_rule(&in);
    take_apart(&rule, in.next, in.left);
    put_together(&rule, in.next, in.left);
    return 0;
}
