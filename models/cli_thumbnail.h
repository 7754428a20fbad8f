/* cli_thumbnail.h: a small picture in a terminal: two pixels a character, by the half block and
 * 24-bit colours. Only the command line tool links this. */
#ifndef HALUT_CLI_THUMBNAIL_H
#define HALUT_CLI_THUMBNAIL_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum { HALUT_THUMBNAIL_SIDE = 16, HALUT_THUMBNAIL_LINES = HALUT_THUMBNAIL_SIDE / 2 };

/* `to` is a terminal that shows colours (halut_cli_colour), says that it knows 24 bits of them
 * (COLORTERM), and speaks UTF-8 (LC_ALL, LC_CTYPE or LANG, whichever is set first). */
bool halut_cli_pictures(FILE *to);

/* Prints line 0..HALUT_THUMBNAIL_LINES - 1, HALUT_THUMBNAIL_SIDE columns wide, of the picture
 * planar u8 [3][height][width], averaged down or repeated. */
void halut_cli_thumbnail(const uint8_t *planar, uint32_t height, uint32_t width, uint32_t line,
                         FILE *to);

#endif
