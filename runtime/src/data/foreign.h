/* foreign.h: what the bytes of a file say they are, where that is not what the file is taken for. Reads only; refuses nothing. */
#ifndef MLC_FOREIGN_H
#define MLC_FOREIGN_H

#include <stdbool.h>
#include <stdint.h>

/* "a gzip archive" and the like, by its magic; NULL: none that is known. */
const char *mlc_foreign_kind(const uint8_t *bytes, uint64_t size);

/* Text, or numbers, whose characters have more than one byte each: "UTF-16 text"; NULL: not so. By a byte order mark, or because zero
 * bytes stand where only the upper bytes of such characters have them. */
const char *mlc_foreign_encoding(const uint8_t *bytes, uint64_t size);

/* UTF-8 text of some length and variety: as 16-bit numbers such bytes do not come up. */
bool mlc_foreign_is_text(const uint8_t *bytes, uint64_t size);

/* Numbers of 4 or 8 bytes taken for 16-bit ones: their width in bytes, 0: they may be 16-bit. Says so only where every second word of
 * the words looked at is the upper half of a number of magnitude below 2^20 and many of the others could not be: were the words of
 * one kind, each order of them would be as likely, and this one would come up once in 2^64. */
int mlc_foreign_width(const uint8_t *bytes, uint64_t size);

#endif
