/* message.h - what is sent, and what must come back.
 *
 * A message carries its connection and its number in front, and the number again at the end where there is room, so that
 * an answer that belongs to another message differs. */
#ifndef LOAD_MESSAGE_H
#define LOAD_MESSAGE_H

#include "options.h"

#include <string.h>

/* Before any message_fill(). */
void message_prepare(void);

/* options.size bytes, with others for another seed. */
void message_fill(char *message, unsigned seed);

static inline void message_number(char *message, uint32_t connection, uint64_t number)
{
    uint64_t v = (uint64_t)connection << 40 ^ number;
    size_t size = options.size;
    if (options.framing == FRAMING_RAW) {
        memcpy(message, &v, size < 8 ? size : 8);
        if (size >= 32) memcpy(message + size - 8, &v, 8);
    } else if (options.framing == FRAMING_LINE) {
        for (size_t i = size - 1 < 16 ? size - 1 : 16; i > 0; i--, v >>= 4) message[i - 1] = "0123456789abcdef"[v & 15];
    }
}

/* What the answer to it is. */
static inline const char *message_answer(const char *message)
{
    return options.framing == FRAMING_FIXED ? options.answer_is : message;
}

#endif
