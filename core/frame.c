/* frame.c - one function a type and direction. */
#include "frame.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

const frame_rule frame_raw = {.type = FRAME_RAW, .max = FRAME_BYTES_MAX};

static frame_status need(frame_found *found, size_t bytes)
{
    found->need = bytes;
    return FRAME_MORE;
}

static frame_status message(frame_found *found, size_t start, size_t len, size_t used)
{
    found->start = start;
    found->len = len;
    found->used = used;
    return FRAME_MESSAGE;
}

static frame_status refuse(frame_found *found, frame_status status, frame_fault fault)
{
    found->fault = fault;
    return status;
}

const char *frame_fault_text(frame_fault fault)
{
    static const char *const texts[] = {
        [FRAME_FAULT_NONE] = "",
        [FRAME_FAULT_LINE_LONG] = "a line is longer than max",
        [FRAME_FAULT_MESSAGE_LONG] = "a message is longer than max",
        [FRAME_FAULT_LENGTH_LARGE] = "the length of a message is above max",
        [FRAME_FAULT_LENGTH_SMALL] = "the length of a message is below 0",
        [FRAME_FAULT_NETSTRING_ZERO] = "the length of a netstring begins with 0",
        [FRAME_FAULT_NETSTRING_DIGITS] = "a netstring does not begin with its length",
        [FRAME_FAULT_NETSTRING_COLON] = "there is no ':' behind the length of a netstring",
        [FRAME_FAULT_NETSTRING_COMMA] = "there is no ',' behind a netstring",
    };
    assert(fault < FRAME_FAULTS);
    return texts[fault];
}

/* ---- Lines ---- */

/* The first separator at or behind from, or NULL. */
static const uint8_t *find(const frame_rule *rule, const uint8_t *data, size_t len, size_t from)
{
    size_t rest = rule->sep_len - 1u;
    while (len - from > rest) {
        const uint8_t *at = memchr(data + from, rule->sep[0], len - from - rest);
        if (at == NULL) return NULL;
        if (memcmp(at, rule->sep, rule->sep_len) == 0) return at;
        from = (size_t)(at - data) + 1;
    }
    return NULL;
}

static frame_status too_long(frame_found *found)
{
    return refuse(found, FRAME_LIMIT, FRAME_FAULT_LINE_LONG);
}

/* Up to "\n", with or without "\r" before it. */
static frame_status decode_text_line(frame_found *found, const frame_rule *rule, const uint8_t *data, size_t len,
                                     size_t seen)
{
    const uint8_t *end = memchr(data + seen, '\n', len - seen);
    if (end == NULL) {
        bool is_over = len > rule->max && !(len == rule->max + (size_t)1 && data[rule->max] == '\r');
        return is_over ? too_long(found) : need(found, len + 1);
    }
    size_t used = (size_t)(end - data) + 1, bytes = used - 1;
    if (bytes > 0 && data[bytes - 1] == '\r') bytes--;
    if (bytes > rule->max) return too_long(found);
    return message(found, 0, rule->keep ? used : bytes, used);
}

static frame_status decode_line(frame_found *found, const frame_rule *rule, const uint8_t *data, size_t len,
                                size_t seen)
{
    if (rule->sep_len == 0) return decode_text_line(found, rule, data, len, seen);
    size_t sep = rule->sep_len;
    const uint8_t *end = find(rule, data, len, seen >= sep ? seen - (sep - 1) : 0); /* it may have come in part */
    if (end == NULL) {
        if (len >= rule->max + sep) return too_long(found);
        return need(found, len < sep ? sep : len + 1);
    }
    size_t bytes = (size_t)(end - data);
    if (bytes > rule->max) return too_long(found);
    return message(found, 0, rule->keep ? bytes + sep : bytes, bytes + sep);
}

static const char *encode_line(frame_coat *coat, const frame_rule *rule, const uint8_t *data, size_t len)
{
    const char *sep = rule->sep_len == 0 ? "\n" : rule->sep;
    size_t bytes = rule->sep_len == 0 ? 1 : rule->sep_len;
    const uint8_t *end = NULL;
    if (len >= bytes) end = rule->sep_len == 0 ? memchr(data, '\n', len) : find(rule, data, len, 0);
    if (end != NULL) {
        if (rule->keep && end + bytes == data + len) return NULL; /* it has one */
        return "the message has a line end in it";                /* the peer would take it for two */
    }
    coat->tail = sep;
    coat->tail_len = bytes;
    return NULL;
}

/* ---- Netstrings ---- */

static frame_status decode_netstring(frame_found *found, const frame_rule *rule, const uint8_t *data, size_t len)
{
    uint64_t bytes = 0;
    size_t at = 0;
    for (; at < len && data[at] >= '0' && data[at] <= '9'; at++) {
        if (at == 1 && data[0] == '0') return refuse(found, FRAME_WRONG, FRAME_FAULT_NETSTRING_ZERO);
        bytes = bytes * 10 + (uint64_t)(data[at] - '0');
        if (bytes > rule->max) return refuse(found, FRAME_LIMIT, FRAME_FAULT_LENGTH_LARGE);
    }
    if (at == len) return need(found, len + 1);
    if (at == 0) return refuse(found, FRAME_WRONG, FRAME_FAULT_NETSTRING_DIGITS);
    if (data[at] != ':') return refuse(found, FRAME_WRONG, FRAME_FAULT_NETSTRING_COLON);
    size_t start = at + 1, end = start + (size_t)bytes;
    if (len <= end) return need(found, end + 1);
    if (data[end] != ',') return refuse(found, FRAME_WRONG, FRAME_FAULT_NETSTRING_COMMA);
    return message(found, start, (size_t)bytes, end + 1);
}

static const char *encode_netstring(frame_coat *coat, size_t len)
{
    coat->head_len = (size_t)snprintf((char *)coat->head, sizeof(coat->head), "%zu:", len);
    coat->tail = ",";
    coat->tail_len = 1;
    return NULL;
}

/* ---- Lengths ---- */

static uint64_t read_length(const frame_rule *rule, const uint8_t *data)
{
    uint64_t value = 0;
    for (size_t i = 0; i < rule->size; i++) {
        value = value << 8 | data[rule->little ? rule->size - 1u - i : i];
    }
    return value;
}

static void write_length(const frame_rule *rule, uint8_t *data, uint64_t value)
{
    for (size_t i = 0; i < rule->size; i++) {
        data[rule->little ? i : rule->size - 1u - i] = (uint8_t)value;
        value >>= 8;
    }
}

static frame_status decode_length(frame_found *found, const frame_rule *rule, const uint8_t *data, size_t len)
{
    size_t header = frame_header_bytes(rule);
    if (len < header) return need(found, header);
    uint64_t value = read_length(rule, data + rule->offset);
    /* Far above every max, so that the sum below fits. */
    if (value > (uint64_t)INT64_MAX / 2) return refuse(found, FRAME_LIMIT, FRAME_FAULT_LENGTH_LARGE);
    int64_t bytes = (int64_t)value + rule->adjust;
    if (bytes < 0) return refuse(found, FRAME_WRONG, FRAME_FAULT_LENGTH_SMALL);
    if (bytes > rule->max) return refuse(found, FRAME_LIMIT, FRAME_FAULT_LENGTH_LARGE);
    size_t total = header + (size_t)bytes;
    if (len < total) return need(found, total);
    return rule->strip ? message(found, header, (size_t)bytes, total) : message(found, 0, total, total);
}

static const char *encode_length(frame_coat *coat, const frame_rule *rule, const uint8_t *data, size_t len)
{
    size_t header = frame_header_bytes(rule);
    if (!rule->strip && len < header) return "the message is shorter than its header";
    int64_t value = (int64_t)(rule->strip ? len : len - header) - rule->adjust;
    if (value < 0) return "the message is shorter than its length can say";
    if (rule->size < 8 && (uint64_t)value >> (8 * rule->size) != 0)
        return "the message is too long for its length field";
    coat->head_len = header;
    coat->skip = rule->strip ? 0 : header;
    if (!rule->strip) memcpy(coat->head, data, rule->offset);
    write_length(rule, coat->head + rule->offset, (uint64_t)value);
    return NULL;
}

/* ---- All ---- */

frame_status frame_decode(frame_found *found, const frame_rule *rule, const uint8_t *data, size_t len, size_t seen)
{
    assert(seen <= len);
    switch ((frame_type)rule->type) {
    case FRAME_RAW:
        return len > 0 ? message(found, 0, len, len) : need(found, 1);
    case FRAME_LINE:
        return decode_line(found, rule, data, len, seen);
    case FRAME_NETSTRING:
        return decode_netstring(found, rule, data, len);
    case FRAME_LENGTH:
        return decode_length(found, rule, data, len);
    case FRAME_FIXED:
        return len < rule->max ? need(found, rule->max) : message(found, 0, rule->max, rule->max);
    case FRAME_CUSTOM:
        break;
    }
    assert(false && "not a rule that is decoded here");
    return refuse(found, FRAME_WRONG, FRAME_FAULT_NONE);
}

const char *frame_encode(frame_coat *coat, const frame_rule *rule, const uint8_t *data, size_t len)
{
    coat->head_len = coat->skip = coat->tail_len = 0;
    switch ((frame_type)rule->type) {
    case FRAME_LINE:
        return encode_line(coat, rule, data, len);
    case FRAME_NETSTRING:
        return encode_netstring(coat, len);
    case FRAME_LENGTH:
        return encode_length(coat, rule, data, len);
    case FRAME_FIXED:
        return len == rule->max ? NULL : "the message has not the fixed size";
    case FRAME_RAW:
    case FRAME_CUSTOM:
        break;
    }
    return NULL;
}
