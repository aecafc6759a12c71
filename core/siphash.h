/* siphash.h - a hash of bytes under a secret key, so that nobody outside can choose keys that all land in one place.
 *
 * SipHash-1-3. source  J.-P. Aumasson and D. J. Bernstein, "SipHash: a fast short-input PRF", 2012; the 1-3 rounds, which
 * hash tables use, are from the same authors' later advice.
 *
 * thread  any.
 */
#ifndef PORTICO_SIPHASH_H
#define PORTICO_SIPHASH_H

#include <stddef.h>
#include <stdint.h>

uint64_t siphash(const uint64_t key[2], const void *data, size_t len);

#endif
