/* siphash.c - see siphash.h. */
#include "siphash.h"

#include <string.h>

typedef struct state {
    uint64_t a, b, c, d;
} state;

static inline uint64_t rotate(uint64_t x, int by)
{
    return x << by | x >> (64 - by);
}

static inline void mix(state *s)
{
    s->a += s->b;
    s->c += s->d;
    s->b = rotate(s->b, 13) ^ s->a;
    s->d = rotate(s->d, 16) ^ s->c;
    s->a = rotate(s->a, 32);
    s->c += s->b;
    s->a += s->d;
    s->b = rotate(s->b, 17) ^ s->c;
    s->d = rotate(s->d, 21) ^ s->a;
    s->c = rotate(s->c, 32);
}

/* Up to eight bytes, the first one lowest. */
static inline uint64_t word(const uint8_t *bytes, size_t len)
{
    uint64_t w = 0;
    for (size_t i = 0; i < len; i++) w |= (uint64_t)bytes[i] << (8 * i);
    return w;
}

uint64_t siphash(const uint64_t key[2], const void *data, size_t len)
{
    const uint8_t *bytes = data;
    state s = {key[0] ^ 0x736f6d6570736575, key[1] ^ 0x646f72616e646f6d, key[0] ^ 0x6c7967656e657261,
               key[1] ^ 0x7465646279746573};
    size_t left = len;
    for (; left >= 8; left -= 8, bytes += 8) {
        uint64_t w = word(bytes, 8);
        s.d ^= w;
        mix(&s);
        s.a ^= w;
    }
    uint64_t last = (uint64_t)len << 56 | word(bytes, left);
    s.d ^= last;
    mix(&s);
    s.a ^= last;
    s.c ^= 0xff;
    for (int i = 0; i < 3; i++) mix(&s);
    return s.a ^ s.b ^ s.c ^ s.d;
}
