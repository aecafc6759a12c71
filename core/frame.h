/* frame.h - where one message ends and the next begins: rules for cutting a stream of bytes into messages, and for
 * making one of a message. Pure: no input or output, no memory of its own, no state between calls.
 *
 * The caller keeps the bytes of a message that is not whole yet, in one piece, and asks again when more have come.
 * What is decoded does not depend on how the bytes came: in one piece, cut anywhere, or one at a time.
 *
 * Nothing above `max` has to be kept: a length above it is refused as soon as its bytes are there, and a line as soon as
 * it is clear that it is longer. `need` in what is found is never more than max, header and separator together.
 *
 * thread  any.
 */
#ifndef PORTICO_FRAME_H
#define PORTICO_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    FRAME_MAX_DEFAULT = 65536,  /* bytes of a message */
    FRAME_BYTES_MAX = 1 << 30,  /* … at most */
    FRAME_SEP_MAX = 16,         /* bytes of a separator */
    FRAME_OFFSET_MAX = 64,      /* bytes before a length */
    FRAME_ADJUST_MAX = 1 << 30, /* either way */
    FRAME_HEAD_MAX = FRAME_OFFSET_MAX + 24
};

typedef enum frame_type {
    FRAME_RAW,       /* no messages: bytes as they come */
    FRAME_LINE,      /* up to a separator */
    FRAME_NETSTRING, /* "5:hello," (D. J. Bernstein, cr.yp.to/proto/netstrings.txt) */
    FRAME_LENGTH,    /* a binary length, and as many bytes */
    FRAME_FIXED,     /* always as many bytes */
    FRAME_CUSTOM     /* the owner decodes */
} frame_type;

/* A rule. FRAME_LINE without a separator (sep_len 0) ends at "\n", and leaves out a "\r" before it. */
typedef struct frame_rule {
    uint8_t type;            /* a frame_type */
    uint8_t size;            /* LENGTH: bytes of the length: 1, 2, 3, 4 or 8 */
    uint8_t offset;          /* LENGTH: bytes before it; to FRAME_OFFSET_MAX */
    uint8_t sep_len;         /* LINE: to FRAME_SEP_MAX; 0: see above */
    bool keep;               /* LINE: a message includes its separator */
    bool strip;              /* LENGTH: a message is what follows the length, and not all; offset must be 0 */
    bool little;             /* LENGTH: least significant byte first */
    char sep[FRAME_SEP_MAX]; /* LINE */
    int32_t adjust;          /* LENGTH: bytes that follow the length, less what it says */
    uint32_t max; /* bytes of a message, 1 to FRAME_BYTES_MAX, not counted separator and header; FIXED: bytes */
} frame_rule;

extern const frame_rule frame_raw;

typedef enum frame_status {
    FRAME_MORE,    /* the message is not whole yet */
    FRAME_MESSAGE, /* … is */
    FRAME_LIMIT,   /* it is longer than max */
    FRAME_WRONG    /* these bytes are no message */
} frame_status;

/* Why it is FRAME_LIMIT or FRAME_WRONG. Fits in four bits. */
typedef enum frame_fault {
    FRAME_FAULT_NONE,
    FRAME_FAULT_LINE_LONG,
    FRAME_FAULT_MESSAGE_LONG,
    FRAME_FAULT_LENGTH_LARGE,
    FRAME_FAULT_LENGTH_SMALL,
    FRAME_FAULT_NETSTRING_ZERO,
    FRAME_FAULT_NETSTRING_DIGITS,
    FRAME_FAULT_NETSTRING_COLON,
    FRAME_FAULT_NETSTRING_COMMA,
    FRAME_FAULTS
} frame_fault;

/* "a line is longer than max", … */
const char *frame_fault_text(frame_fault fault);

typedef struct frame_found {
    size_t start;      /* MESSAGE: it is len bytes from there, … */
    size_t len;        /* … */
    size_t used;       /* … and the next one begins here. > 0 */
    size_t need;       /* MORE: with fewer bytes than this the answer is the same; more than there were */
    frame_fault fault; /* LIMIT, WRONG: what is wrong */
} frame_found;

/* Looks for one message at the front of len bytes.
 *
 * seen    bytes of these that were there at an earlier call that said FRAME_MORE, 0 for a new message: a long line that
 *         comes in pieces is not searched from its beginning again and again.
 * rule    not CUSTOM. With RAW all bytes are one message. */
frame_status frame_decode(frame_found *found, const frame_rule *rule, const uint8_t *data, size_t len, size_t seen);

/* What goes before and after a message that is sent. The first `skip` bytes of the message itself are left out: the head
 * has them, with the length filled in. */
typedef struct frame_coat {
    size_t head_len;
    size_t skip;
    size_t tail_len;
    const char *tail;
    uint8_t head[FRAME_HEAD_MAX];
} frame_coat;

/* Describes how a message is sent. `max` is not looked at: it is for what peers send.
 *
 * coat    its tail points into rule.
 * data    the message; with LENGTH and without strip its first bytes are looked at, with LINE and keep its last ones.
 * result  NULL, or what is wrong: it has not the right size, or is too long for the length's bytes. A literal. */
const char *frame_encode(frame_coat *coat, const frame_rule *rule, const uint8_t *data, size_t len);

/* LENGTH: bytes of the header, up to and with the length; else 0. */
static inline size_t frame_header_bytes(const frame_rule *rule)
{
    return rule->type == FRAME_LENGTH ? (size_t)rule->offset + rule->size : 0;
}

#endif
