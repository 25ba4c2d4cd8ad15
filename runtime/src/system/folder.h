/* folder.h: directories by descriptor. What lies in one is reached by a plain name and never through a link; names of links, FIFOs and
 * devices are refused before they are opened. `path` is what the directory is called in messages. */
#ifndef MLC_FOLDER_H
#define MLC_FOLDER_H

#include "system/file.h"

#define MLC_NAME_BYTES 80

/* Opens the directory of a path, which may be a link to one: it is what the user named. Returns a descriptor, -1: failed. */
int mlc_folder_open(const char *path, mlc_error *error);

/* The same of a name in a directory, which must be no link. -1: there is no such directory; errno says why. */
int mlc_folder_enter(int folder, const char *name);

/* Calls visit(context, name) for each name in a directory but . and .. ; stops when visit returns false. Allocates nothing. */
void mlc_folder_each(int folder, bool (*visit)(void *context, const char *name), void *context);

/* Opens a regular file for reading. Returns a descriptor, -1: failed (MLC_BAD_INPUT). */
int mlc_folder_read(int folder, const char *name, const char *path, mlc_error *error);

/* The whole text of a regular file of at most `limit` bytes, with a 0 byte behind it; to be freed. NULL: failed (MLC_BAD_INPUT). */
char *mlc_folder_text(int folder, const char *name, const char *path, size_t limit, size_t *bytes, mlc_error *error);

/* Makes a file for writing; there must be none of the name, nor a link. Returns a status. */
int mlc_folder_create(mlc_writer *writer, int folder, const char *name, const char *path, mlc_error *error);

/* Opens for writing a regular file that is there. Returns a descriptor, -1: failed; errno says why. */
int mlc_folder_write(int folder, const char *name);

/* Is the name free, or that of a regular file of at most `limit` bytes? */
bool mlc_folder_may_replace(int folder, const char *name, int64_t limit);

#endif
